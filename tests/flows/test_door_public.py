"""Public data at the door: what is de-identified already comes in as it is, and its labels still meet it."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from flows.door import Door
from flows.overlay import list_files
from flows.private_map import load_hashes
from pipeline.io.sources import open_dataset

pytestmark = pytest.mark.usefixtures("private")


def test_the_door_keeps_what_needs_no_change(shared_data: Path, tmp_path: Path) -> None:
    """Public LIDC says that its identities are removed: slices and XML come in byte by byte."""
    files = list_files(shared_data / "lidc_idri")
    door = Door(files, tmp_path / "project")
    assert door.files == files
    assert all(door.contents(path) is None for path in files.values())
    door.close()
    assert load_hashes() == frozenset()


def test_labels_of_a_public_series_still_meet_it(shared_data: Path, tmp_path: Path) -> None:
    """A segmentation that somebody drew on a series of a public set bears no mark of de-identification."""
    source = shared_data / "dicom_seg_rtstruct/dcmqi/segmentations"
    folder = tmp_path / "raw" / "TCGA-01-0001"
    folder.mkdir(parents=True)
    for path in (*(source / "ct-3slice").glob("*.dcm"), source / "liver.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PatientName = dataset.PatientID = "TCGA-01-0001"
        dataset.PatientBirthDate = ""
        dataset.PatientIdentityRemoved = "NO" if path.name == "liver.dcm" else "YES"
        dataset.save_as(folder / path.name)

    door = Door(list_files(tmp_path / "raw"), tmp_path / "project")
    door.prepare(tmp_path / "nothing")

    for name, path in door.files.items():
        contents = door.contents(path)
        assert (contents is None) == (path.name != "liver.dcm")
        target = tmp_path / "in" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() if contents is None else contents)
    dataset = open_dataset(tmp_path / "in", "dicom")
    assert list(dataset.references) == [dataset.records[0].case_id]
    assert dataset.records[0].patient_id == "TCGA-01-0001"
    assert load_hashes() == frozenset()  # a public id is no secret
