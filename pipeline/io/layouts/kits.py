"""Layout `kits` (Kidney Tumor Segmentation challenge 2019, 2021, 2023): a folder a case with imaging.nii.gz.

Source: Heller et al., The KiTS21 Challenge, arXiv:2307.01984 (2023).
"""

from __future__ import annotations

from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.io.dataset import DatasetFacts, Listing
from pipeline.io.public_sets import find_files, set_patients, start_listing

MAJORITY = "aggregated_MAJ_seg.nii.gz"  # of the three readers of KiTS21
LABELS = (MAJORITY, "segmentation.nii.gz")


def list_dataset(folder: Path) -> Listing:
    """Lists the folders `case_00000/{imaging,segmentation}.nii.gz`, below `data` or `dataset` or at the top.

    Of KiTS21 the majority of the readers is the label. The set has cysts (value 3) when it is that of 2021 or, by
    its `kits23.json`, that of 2023; the targets are then the challenge's: kidney with masses, masses, tumour. A
    case without a segmentation has no label. Patients may be named in `patients.csv`.
    """
    images = find_files(folder, "case_*/imaging.nii.gz")
    cysts = bool(find_files(folder, "kits23.json") or find_files(folder, MAJORITY))
    listing = start_listing(folder, _facts(folder.name, cysts))
    for image in images:
        case_id = image.parent.name
        label = next((path for name in LABELS if (path := image.with_name(name)).is_file()), None)
        files = (image.as_posix(),), label.as_posix() if label else ""
        listing.records.append(CaseRecord(case_id, case_id, "", *files, instances=""))
    set_patients(listing)
    return listing


def _facts(name: str, cysts: bool) -> DatasetFacts:
    about = "KiTS: kidneys, their tumours and cysts in contrast-enhanced abdominal CT."
    if cysts:
        labels = {"background": 0, "kidney": 1, "tumor": 2, "cyst": 3}
        regions = {"kidney_and_masses": (1, 2, 3), "masses": (2, 3), "kidney_tumor": (2,)}
        return DatasetFacts(name, ("CT",), labels, about, regions=regions, regions_class_order=(1, 3, 2))
    labels = {"background": 0, "kidney": 1, "tumor": 2}
    regions = {"kidney_and_tumor": (1, 2), "kidney_tumor": (2,)}
    return DatasetFacts(name, ("CT",), labels, about, regions=regions, regions_class_order=(1, 2))
