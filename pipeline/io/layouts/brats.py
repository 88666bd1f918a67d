"""Layout `brats`: a folder a patient with one NIfTI file a modality, as every BraTS challenge hands them out.

Source: Menze et al., The multimodal brain tumor image segmentation benchmark, IEEE TMI 34:1993-2024 (2015).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.io.dataset import DatasetFacts, Listing
from pipeline.io.public_sets import find_files, set_patients, start_listing

# `<case>_t1ce.nii.gz` until 2021, `<case>-t1c.nii.gz` since 2023; a file bears the name of its folder.
FILE = re.compile(r"(.+)[_-](flair|t1|t1ce|t2|t2f|t1n|t1c|t2w|seg)\.nii(\.gz)?", re.IGNORECASE)
MODALITIES = {"T1": ("t1", "t1n"), "T1ce": ("t1ce", "t1c"), "T2": ("t2", "t2w"), "FLAIR": ("flair", "t2f")}
# A second examination of a patient: BraTS-GLI-00005-101, brats_tcia_pat153_0109, brats_2013_pat0005_1.
PATIENT = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d+|(brats_(?:2013|tcia)_pat\d+)_\d+")
# Label values by generation: until 2016 with a class 3, until 2021 without it, since 2023 numbered anew.
GENERATIONS = {
    "2012 to 2016": {"necrosis": 1, "oedema": 2, "non_enhancing": 3, "enhancing": 4},
    "2017 to 2021": {"necrosis": 1, "oedema": 2, "enhancing": 4},
    "2023 and later": {"necrosis": 1, "oedema": 2, "enhancing": 3},
}


def list_dataset(folder: Path) -> Listing:
    """Lists the folders `<case>/<case>_<modality>.nii.gz` (or `<case>-<modality>`), wherever they lie.

    Channels are those of T1, T1ce, T2, FLAIR that any case has; a case without `seg` has no label. The regions
    whole tumour, tumour core and enhancing tumour are the target. Patients may be named in `patients.csv`.
    """
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    generations: dict[str, str] = {}
    for path in find_files(folder, "*.nii*"):
        match = FILE.fullmatch(path.name)
        if match and match[1] == path.parent.name:
            cases[match[1]][match[2].lower()] = path
            generations[_generation(match[1], path.name[len(match[1])])] = match[1]
    channels = [
        name for name, kinds in MODALITIES.items() if any(set(kinds) & c.keys() for c in cases.values())
    ]
    labels = GENERATIONS[next(iter(generations), "2017 to 2021")]
    listing = start_listing(folder, _facts(folder.name, channels, labels))
    if len(generations) > 1:
        shown = "; ".join(f"{name}: {case}" for name, case in generations.items())
        what = f"cases of several generations, whose label values mean different things ({shown})"
        listing.problem(what, folder, "add each generation as a data set of its own")
    for case_id, files in cases.items():
        images = _images(case_id, files, channels, listing)
        patient = PATIENT.fullmatch(case_id)
        patient_id = next(filter(None, patient.groups())) if patient else case_id
        label = files["seg"].as_posix() if "seg" in files else ""
        listing.records.append(CaseRecord(case_id, patient_id, "", images, label, instances=""))
    set_patients(listing)
    return listing


def _images(
    case_id: str, files: Mapping[str, Path], channels: list[str], listing: Listing
) -> tuple[str, ...]:
    """Files of a case in the order of the channels."""
    found = {c: [files[kind] for kind in MODALITIES[c] if kind in files] for c in channels}
    for channel in (channel for channel, paths in found.items() if not paths):
        what = f"the modality {channel} is missing, other cases have it"
        listing.problem(what, f"case {case_id}", "add the file, or drop the case")
    return tuple(paths[0].as_posix() for paths in found.values() if paths)


def _generation(case_id: str, separator: str) -> str:
    if separator == "-":
        return "2023 and later"
    return "2012 to 2016" if case_id.lower().startswith(("brats_2013_", "brats_tcia_")) else "2017 to 2021"


def _facts(name: str, channels: list[str], labels: dict[str, int]) -> DatasetFacts:
    enhancing, values = labels["enhancing"], tuple(labels.values())
    core = tuple(value for value in values if value != labels["oedema"])
    return DatasetFacts(
        name,
        tuple(channels),
        {"background": 0, **labels},
        "BraTS brain tumours in MRI, skull-stripped.",
        regions={"whole_tumor": values, "tumor_core": core, "enhancing_tumor": (enhancing,)},
        regions_class_order=(labels["oedema"], labels["necrosis"], enhancing),
    )
