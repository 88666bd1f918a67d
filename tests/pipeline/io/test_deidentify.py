"""DICOM headers without the patient, against the table of DICOM PS3.15 Annex E as an independent package has it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from named_patient import KEYS, SECRETS
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pipeline.errors import ImageFileError
from pipeline.io.deidentify import deidentify, is_deidentified, read_header, shift_date, why_not_admitted
from pipeline.io.dicom import read_dicom_series
from pipeline.io.pseudonyms import Pseudonyms

# Names of structures are the labels; of references the UIDs within are mapped (action U of the table).
KEPT_ON_PURPOSE = {"ROIName", "ReferencedImageSequence", "SourceImageSequence"}


def test_nothing_of_the_patient_is_left(named: Path) -> None:
    contents = deidentify(named, KEYS)
    assert all(secret in named.read_bytes() for secret in SECRETS)
    assert not any(secret.lower() in contents.lower() for secret in SECRETS)
    assert b"GRIMBLE" not in contents
    dataset = pydicom.dcmread(BytesIO(contents))
    assert str(dataset.PatientID) == str(dataset.PatientName) == KEYS.patient("MRN-77123")
    assert dataset.PatientIdentityRemoved == "YES"
    assert dataset.PatientBirthDate == dataset.PatientSex == dataset.AccessionNumber == ""
    assert "PatientAge" not in dataset
    assert (0x0009, 0x1001) not in dataset
    assert (0x6000, 0x4000) not in dataset
    assert is_deidentified(dataset)


def test_voxels_geometry_and_what_explains_them_stay(named: Path) -> None:
    before, after = pydicom.dcmread(named), pydicom.dcmread(BytesIO(deidentify(named, KEYS)))
    assert after.PixelData == before.PixelData
    for name in (
        "PixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "Rows",
        "Modality",
        "WindowWidth",
    ):
        assert after[name].value == before[name].value
    assert after.SOPClassUID == before.SOPClassUID


def test_dates_move_by_one_span_a_patient(named: Path) -> None:
    days = KEYS.days("MRN-77123")
    after = pydicom.dcmread(BytesIO(deidentify(named, KEYS)))
    assert after.StudyDate == shift_date("20200119", days)
    assert after.AcquisitionDateTime[:8] == after.StudyDate
    assert after.AcquisitionDateTime[8:] == "010313.000000"
    assert 1 <= days <= 3650
    assert shift_date("20200301", 1) == "20200229"
    assert shift_date("2020", 1) == shift_date("00010101", 400) == ""


def test_references_meet_their_instances(named: Path) -> None:
    after = pydicom.dcmread(BytesIO(deidentify(named, KEYS)))
    uid = after.SOPInstanceUID
    assert (
        after.SourceImageSequence[0].ReferencedSOPInstanceUID
        == uid
        == after.file_meta.MediaStorageSOPInstanceUID
    )
    assert after.SourceImageSequence[0].ReferencedSOPClassUID == pydicom.dcmread(named).SOPClassUID
    assert "TextValue" not in after.SourceImageSequence[0]
    assert uid.startswith("2.25.")
    assert uid.is_valid
    assert uid != pydicom.dcmread(BytesIO(deidentify(named, Pseudonyms(b"other")))).SOPInstanceUID
    assert deidentify(named, KEYS) == deidentify(named, KEYS)


def test_every_attribute_of_the_basic_profile_is_gone_or_changed(named: Path) -> None:
    """The table of PS3.15 E.1-1, as Kitware's package has it: a value for each attribute, none of them stays."""
    table = pytest.importorskip("dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c")
    dataset = pydicom.dcmread(named)
    values = {
        "DA": "20200119", "DT": "20200119101010", "TM": "101010", "UI": "1.2.3.4", "PN": "Secret", "AS": "058Y",
        "DS": "12", "IS": "12", "CS": "SECRET", "OB": b"secret", "OW": b"secret", "UN": b"secret", "FD": 12.0,
        "FL": 12.0, "US": 12, "UL": 12, "SS": 12, "SL": 12, "UV": 12, "UR": "http://secret", "OV": b"secret00",
    }  # fmt: skip
    added = []
    for pair in (pair for pair in table.ALL_TAGS if len(pair) == 2):
        tag = Tag(pair)
        if tag.group in (0, 2) or not keyword_for_tag(tag):
            continue
        representation = pydicom.datadict.dictionary_VR(tag).split(" or ")[0]
        dataset.add_new(
            tag,
            representation,
            [Dataset()] if representation == "SQ" else values.get(representation, "Secret"),
        )
        added.append(tag)
    assert len(added) > 500
    dataset.save_as(named, enforce_file_format=True)
    after = pydicom.dcmread(BytesIO(deidentify(named, KEYS)))
    stayed = {keyword_for_tag(t) for t in added if t in after and after[t].value == dataset[t].value}
    # Times of day tell little when the day has moved.
    times = {keyword_for_tag(t) for t in added if pydicom.datadict.dictionary_VR(t) == "TM"}
    assert stayed - times == KEPT_ON_PURPOSE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "SR"}, "modality SR"),
        ({"Modality": "US"}, "modality US"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "screenshot"),
        ({"BurnedInAnnotation": "YES"}, "burned into its pixels"),
        ({"BurnedInAnnotation": "NO"}, ""),
    ],
)
def test_what_cannot_be_cleaned_is_not_admitted(named: Path, changes: dict[str, str], reason: str) -> None:
    dataset = pydicom.dcmread(named)
    for name, value in changes.items():
        setattr(dataset, name, value)
    said = why_not_admitted(dataset)
    assert (reason in said) if reason else not said


def test_a_mark_without_truth_is_not_believed(named: Path, shared_data: Path) -> None:
    lidc = read_header(next((shared_data / "lidc_idri").rglob("*.dcm")))
    assert lidc is not None
    assert is_deidentified(lidc)
    dataset = pydicom.dcmread(named)
    dataset.PatientIdentityRemoved = "YES"
    assert not is_deidentified(dataset)


def test_a_series_is_the_same_volume_after_it(shared_data: Path, tmp_path: Path) -> None:
    (series,) = (shared_data / "hippocrop_dicom/Study3").iterdir()
    for path in series.iterdir():
        (tmp_path / path.name).write_bytes(deidentify(path, KEYS))
    before, after = read_dicom_series(series), read_dicom_series(tmp_path)
    np.testing.assert_array_equal(before.array, after.array)
    np.testing.assert_array_equal(before.affine, after.affine)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"nothing")
    with pytest.raises(ImageFileError, match="DICOM header cannot be read"):
        read_header(tmp_path / "a.dcm")
    assert read_header(Path(__file__)) is None
