"""Layout `acdc` (Automated Cardiac Diagnosis Challenge): heart MRI at the end of diastole and of systole.

Source: Bernard et al., Deep Learning Techniques for Automatic MRI Cardiac Multi-structures Segmentation and
Diagnosis, IEEE TMI 37:2514-2525 (2018).
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.io.dataset import DatasetFacts, Listing
from pipeline.io.public_sets import find_files, set_patients, start_listing

FRAME = re.compile(r"(patient\d+)_frame\d+")
PHASES = ("ED", "ES")  # end of diastole, end of systole: the two frames of the cycle that are labelled
SUFFIXES = (".nii.gz", ".nii")


def list_dataset(folder: Path) -> Listing:
    """Lists the two labelled frames of each patient: both are cases of one patient, so they share a side.

    Two forms: the challenge's folders `patientNNN/` with `Info.cfg`, which names the frames ED and ES, and files
    `patientNNN_frameNN.nii.gz` with `..._gt.nii.gz`; and HDF5 files `patientNNN_frameNN.h5` with the data sets
    `image` and `label`. A frame without a label file has no label.
    """
    listing = start_listing(
        folder,
        DatasetFacts(
            folder.name,
            ("MRI",),
            {"background": 0, "right_ventricle": 1, "myocardium": 2, "left_ventricle": 3},
            "ACDC: short-axis cine MRI of the heart at the end of diastole and of systole.",
        ),
    )
    for info in find_files(folder, "patient*/Info.cfg"):
        _add_patient(info, listing)
    for path in find_files(folder, "patient*_frame*.h5"):
        if match := FRAME.fullmatch(path.stem):
            image, label = f"{path.as_posix()}#image", f"{path.as_posix()}#label"
            listing.records.append(CaseRecord(path.stem, match[1], "", (image,), label, instances=""))
    set_patients(listing)
    return listing


def _add_patient(info: Path, listing: Listing) -> None:
    """Adds the frames that a patient's `Info.cfg` names, lines such as `ED: 1`."""
    patient_id = info.parent.name
    lines = (line.partition(":") for line in info.read_text(encoding="utf-8", errors="replace").splitlines())
    values = {key.strip(): value.strip() for key, _, value in lines}
    for phase in PHASES:
        number = values.get(phase, "")
        if not number.isdigit():
            what = f"{phase} is {number!r}, expected the number of the frame"
            listing.problem(what, info, f"write a line such as {phase}: 1")
            continue
        case_id = f"{patient_id}_frame{int(number):02d}"
        names = [(f"{case_id}{suffix}", f"{case_id}_gt{suffix}") for suffix in SUFFIXES]
        there = [(image, label) for image, label in names if info.with_name(image).is_file()]
        image, label = there[0] if there else names[0]
        relative = info.parent.relative_to(listing.folder)
        required = listing.require((relative / image).as_posix(), f"image of {phase}", case_id)
        found = info.with_name(label)
        files = (required,) if required else (), found.as_posix() if found.is_file() else ""
        listing.records.append(CaseRecord(case_id, patient_id, "", *files, instances=""))
