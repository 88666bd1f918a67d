"""Layout `lits` (Liver Tumor Segmentation challenge): volume-N.nii beside segmentation-N.nii.

Source: Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 84:102680 (2023).
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.io.dataset import DatasetFacts, Listing
from pipeline.io.public_sets import find_files, set_patients, start_listing

FILE = re.compile(r"(volume|test-volume|segmentation)-(\d+)\.nii(\.gz)?")


def list_dataset(folder: Path) -> Listing:
    """Lists `volume-N.nii` with `segmentation-N.nii`, in one folder or in those of the batches; also `.nii.gz`.

    A volume without a segmentation (`test-volume-N.nii`) has no label. As in the challenge, the liver is scored
    with the tumours in it. Patients may be named in `patients.csv`.
    """
    listing = start_listing(
        folder,
        DatasetFacts(
            folder.name,
            ("CT",),
            {"background": 0, "liver": 1, "tumor": 2},
            "LiTS: liver and its tumours in contrast-enhanced abdominal CT.",
            regions={"whole_liver": (1, 2), "liver_tumor": (2,)},
            regions_class_order=(1, 2),
        ),
    )
    volumes: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in find_files(folder, "*.nii*"):
        if match := FILE.fullmatch(path.name):
            found = labels if match[1] == "segmentation" else volumes
            case_id = f"{match[1].replace('segmentation', 'volume')}-{match[2]}"
            if case_id in found:
                what = f"the file is there twice, as {found[case_id]} and {path}"
                listing.problem(what, f"case {case_id}", "keep one of them")
            found[case_id] = path
    for case_id in sorted(labels.keys() - volumes.keys()):
        listing.problem("the segmentation has no volume", str(labels[case_id]), "add it, or drop the file")
    for case_id, path in volumes.items():
        label = labels[case_id].as_posix() if case_id in labels else ""
        listing.records.append(CaseRecord(case_id, case_id, "", (path.as_posix(),), label, instances=""))
    set_patients(listing)
    return listing
