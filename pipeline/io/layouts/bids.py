"""Layout `bids`: a BIDS data set whose label maps are a derivative, `..._dseg.nii.gz`.

Source: Gorgolewski et al., The brain imaging data structure, Scientific Data 3:160044 (2016);
https://bids-specification.readthedocs.io, "Imaging derivatives: segmentations".
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.io.dataset import DatasetFacts, Listing, read_json, read_table
from pipeline.io.public_sets import find_files, set_patients, start_listing

LOGGER = logging.getLogger("segtrail")
IMAGE = re.compile(r"(sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*)_([A-Za-z0-9]+)\.nii(?:\.gz)?")
DATATYPES = ("anat", "pet", "perf", "ct")  # folders of images that a label map can belong to
LABELS = "dseg"


def list_dataset(folder: Path) -> Listing:
    """Lists `sub-*/[ses-*/]anat/*_<suffix>.nii.gz` with the `_dseg` of the same entities below `derivatives`.

    A case is what shares all entities (`sub-01_ses-1_run-1`); a patient is a subject, its site that of
    `participants.tsv`. Channels are the suffixes (T1w, T2w, FLAIR ...) that every case has; what only some have is
    left out, and logged. Names of the classes: the tables `*dseg.tsv` (index, name), or a `dataset.json`.
    """
    cases = _find_images(folder)
    channels = _common_suffixes(cases)
    listing = start_listing(folder, DatasetFacts(_name(folder), tuple(channels), {"background": 0}))
    if not (folder / "dataset.json").is_file():
        listing.facts = DatasetFacts(
            _name(folder), tuple(channels), _labels(folder, listing), "A BIDS data set."
        )
    labels = _find_labels(folder, set(cases), listing)
    path = folder / "participants.tsv"
    rows = read_table(path, ("participant_id",), listing, "\t") if path.is_file() else []
    sites = {row["participant_id"]: row.get("site", "") for row in rows}
    for case_id, files in cases.items():
        subject = case_id.partition("_")[0]
        images = tuple(files[suffix].as_posix() for suffix in channels)
        label = labels[case_id].as_posix() if case_id in labels else ""
        site = sites.get(subject, "")
        listing.records.append(CaseRecord(case_id, subject, site, images, label, instances=""))
    if cases and not channels:
        what = "no suffix (such as T1w) is there for every case"
        listing.problem(what, folder, "give each case an image of one suffix, or move the others away")
    set_patients(listing)
    return listing


def _find_images(folder: Path) -> dict[str, dict[str, Path]]:
    """Raw images by entities and suffix."""
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in find_files(folder, "sub-*.nii*"):
        match = IMAGE.fullmatch(path.name)
        raw = "derivatives" not in path.relative_to(folder).parts
        if match and raw and path.parent.name in DATATYPES:
            cases[match[1]][match[2]] = path
    return cases


def _common_suffixes(cases: dict[str, dict[str, Path]]) -> list[str]:
    counts = Counter(suffix for files in cases.values() for suffix in files)
    for suffix, count in sorted(counts.items()):
        if count < len(cases):
            LOGGER.info("%s is there for %d of %d cases and is left out", suffix, count, len(cases))
    return sorted(suffix for suffix, count in counts.items() if count == len(cases))


def _find_labels(folder: Path, case_ids: set[str], listing: Listing) -> dict[str, Path]:
    """Label maps by case: a derivative keeps the entities of its image, and may add some of its own."""
    labels: dict[str, Path] = {}
    for path in find_files(folder, f"*_{LABELS}.nii*"):
        match = IMAGE.fullmatch(path.name)
        entities = match[1].split("_") if match else []
        fitting = [case_id for case_id in case_ids if set(case_id.split("_")) <= set(entities)]
        if not fitting:
            listing.problem("no image has the entities of this label map", path, "add it, or drop the file")
            continue
        case_id = max(fitting, key=len)
        if case_id in labels:
            what = f"two label maps, {labels[case_id]} and {path}"
            listing.problem(what, f"case {case_id}", "keep one derivative")
        labels[case_id] = path
    return labels


def _labels(folder: Path, listing: Listing) -> dict[str, int]:
    """Names of the classes from the tables beside the label maps, which must agree."""
    labels = {"background": 0}
    tables = find_files(folder, f"*{LABELS}.tsv")
    for path in tables:
        for row in read_table(path, ("index", "name"), listing, "\t"):
            if not row["index"].isdigit() or labels.setdefault(row["name"], int(row["index"])) != int(
                row["index"]
            ):
                what = f"the class {row['name']!r} has the index {row['index']!r}, elsewhere {labels.get(row['name'])}"
                listing.problem(what, path, "give each class one whole number")
    if not tables:
        what = f"no table *{LABELS}.tsv names the classes"
        listing.problem(what, folder, f"add derivatives/.../{LABELS}.tsv with the columns index and name")
    labels = {name: value for name, value in labels.items() if value or name == "background"}
    return dict(sorted(labels.items(), key=lambda pair: pair[1]))


def _name(folder: Path) -> str:
    path = folder / "dataset_description.json"
    return str(read_json(path).get("Name") or folder.name) if path.is_file() else folder.name
