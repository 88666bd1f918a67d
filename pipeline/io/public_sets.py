"""What the layouts of public data sets share: facts that `dataset.json` may replace, patients, binary masks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.cases import Finding
from pipeline.config import InspectParams
from pipeline.errors import ImageFileError
from pipeline.io.dataset import DatasetFacts, Listing, parse_facts, read_json, read_patients
from pipeline.io.images import read_image_file
from pipeline.io.references import OBJECT, References
from pipeline.io.stored import StoredImage

SHOWN = 5  # values that a reason lists


def start_listing(folder: Path, facts: DatasetFacts) -> Listing:
    """A listing with the facts of a public set; where the folder has a `dataset.json`, that one's stand.

    Raises:
        SegtrailError: The `dataset.json` cannot be read.
    """
    listing = Listing(folder, facts)
    path = folder / "dataset.json"
    if path.is_file():
        listing.facts = parse_facts(read_json(path), path, listing)
    return listing


def set_patients(listing: Listing) -> None:
    """Gives the cases the patients and sites of `patients.csv`, where the folder has one."""
    case_ids = {record.case_id for record in listing.records}
    patients = read_patients(listing.folder / "patients.csv", case_ids, listing)
    for index, record in enumerate(listing.records):
        patient_id, site = patients.get(record.case_id, (record.patient_id, record.site))
        listing.records[index] = replace(record, patient_id=patient_id, site=site)


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder, by path; links are followed, hidden files and folders left out.

    Args:
        folder: Where to look, at any depth.
        pattern: Of the end of the path, such as "case_*/imaging.nii.gz".
    """
    found = []
    for here, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(here) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.match(pattern))


def build_from_mask(path: Path, background: int, image: StoredImage, params: InspectParams) -> References:
    """Makes the label map of a picture from one of two values: class 1 is what is not background.

    Args:
        path: Of the mask; of several channels, all must say the same.
        background: Value of what belongs to no object.
        image: The picture that the mask must fit.
        params: Play no role here.
    """
    try:
        mask = read_image_file(path)[0].array
    except ImageFileError as problem:
        return References(findings=(Finding(problem.code, f"mask {path.name}: {problem.what}"),))
    if mask.shape[1:] != image.array.shape[1:]:
        what = f"mask {path.name} has shape {mask.shape[1:]}, its image {image.array.shape[1:]}"
        return References(findings=(Finding("geometry_mismatch", what),))
    values = np.unique(mask)
    if (mask != mask[:1]).any() or len(values) > 2 or (len(values) == 2 and background not in values):
        what = (
            f"mask {path.name} holds {len(values)} values ({', '.join(map(str, values[:SHOWN]))}"
            f"{' ...' if len(values) > SHOWN else ''}), expected {background} and one other, alike in all channels"
        )
        return References(findings=(Finding("mask_not_binary", what),))
    return References(label=np.where(mask[0] == background, np.uint8(0), np.uint8(OBJECT)))
