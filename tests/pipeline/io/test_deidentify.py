"""De-identification against the table of DICOM PS3.15 Annex E as an independent package has it, and by hand."""

from __future__ import annotations

import gzip
import unicodedata
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pipeline.errors import ImageFileError
from pipeline.io.deidentify import deidentify, is_deidentified, read_header, shift_date, why_not_admitted
from pipeline.io.dicom import read_dicom_series
from pipeline.io.header_text import blank_header_text
from pipeline.io.identities import Identities, Redactor, decode_text, find_tokens
from pipeline.io.pseudonyms import Pseudonyms

KEYS = Pseudonyms(b"salt")
# Names of structures are the labels; of references the UIDs within are mapped (action U of the table).
KEPT_ON_PURPOSE = {"ROIName", "ReferencedImageSequence", "SourceImageSequence"}
SECRETS = (b"Quillfeather", b"Ottoline", b"19610417", b"MRN-77123", b"Hospital of Nowhere", b"Dr. Grimble")


@pytest.fixture
def named(shared_data: Path, tmp_path: Path) -> Path:
    """A real slice with an invented patient in every place where one may stand."""
    source = next((shared_data / "hippocrop_dicom/Study1").rglob("1.dcm"))
    dataset = pydicom.dcmread(source)
    dataset.PatientName, dataset.PatientID = "Quillfeather^Ottoline", "MRN-77123"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "19610417", "F", "058Y"
    dataset.InstitutionName, dataset.OperatorsName = "Hospital of Nowhere", "Dr. Grimble"
    dataset.StudyDescription = "MR of Ottoline Quillfeather"
    dataset.ImageComments, dataset.PatientComments = "born 19610417", "Quillfeather"
    dataset.AcquisitionDateTime = "20200119010313.000000"
    dataset.add_new((0x0009, 0x0010), "LO", "MAKER")
    dataset.add_new((0x0009, 0x1001), "LO", "Quillfeather")
    dataset.add_new((0x6000, 0x4000), "LT", "Quillfeather")
    request = Dataset()
    request.RequestingPhysician, request.RequestedProcedureDescription = "Dr. Grimble", "for Ottoline"
    dataset.RequestAttributesSequence = [request]
    reference = Dataset()
    reference.ReferencedSOPClassUID = dataset.SOPClassUID
    reference.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    reference.TextValue = "Quillfeather"
    dataset.SourceImageSequence = [reference]
    dataset.file_meta.SourceApplicationEntityTitle = "GRIMBLE"
    dataset.preamble = b"Quillfeather".ljust(128)
    path = tmp_path / "named.dcm"
    dataset.save_as(path)
    return path


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


def test_names_are_replaced_in_texts_and_paths(named: Path) -> None:
    people = Identities()
    header = read_header(named)
    assert header is not None
    people.add(header)
    redactor = Redactor(people, KEYS)
    patient = KEYS.patient("MRN-77123")
    assert redactor.clean_name("scans/MRN-77123_2020/1.dcm") == f"scans/{patient}_2020/1.dcm"
    cleaned = redactor.clean_name("QUILLFEATHER_ottoline/a.dcm")
    assert cleaned == f"{KEYS.word('quillfeather')}_{KEYS.word('ottoline')}/a.dcm"
    assert "uill" not in redactor.clean_text("seen: Quillfeather, Ottoline, * 17.04.1961")
    assert "1961" not in redactor.clean_text("born 1961-04-17")
    assert redactor.clean_text("the quillfeather sign") == "the quillfeather sign"
    uid = str(pydicom.dcmread(named).SOPInstanceUID)
    assert redactor.clean_text(f"<u>{uid}</u>") == f"<u>{KEYS.uid(uid)}</u>"
    assert redactor.clean_text("1.2.840.10008.5.1.4.1.1.2") == "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize(
    "text", ["Quillfeather,Ottoline", "x/quillfeather_o/y.csv", '{"who": "MRN-77123"}', "on 17.04.1961."]
)
def test_identities_are_found_by_their_hashes(named: Path, text: str) -> None:
    people = Identities()
    header = read_header(named)
    assert header is not None
    people.add(header)
    hashes = {KEYS.token(token) for token in people.tokens()}
    assert any(KEYS.token(token) in hashes for token in find_tokens(text))
    assert not any(KEYS.token(token) in hashes for token in find_tokens("nodule test/dice 0.81 patient"))


def test_numbers_of_results_are_nobodys_number() -> None:
    people = Identities(ids={"123456", "7654321"}, names={("boost", "breast")}, birth_dates=set())
    assert people.tokens() == {"7654321", "boost", "breast", "boostbreast", "breastboost"}
    assert "7654321" not in set(find_tokens("score 0.7654321 -1.7654321e-05"))
    assert "7654321" in set(find_tokens("case_7654321.nii.gz"))


def write_nifti(path: Path, descrip: bytes, extension: bytes = b"") -> Path:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header["descrip"] = descrip
    if extension:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", extension))
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_text_in_a_nifti_header_is_blanked_and_nothing_else_changes(tmp_path: Path, name: str) -> None:
    path = write_nifti(tmp_path / name, b"Quillfeather 1961", b"Ottoline was here")
    contents = blank_header_text(path)
    assert contents is not None
    raw = gzip.decompress(contents) if name.endswith(".gz") else contents
    old = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    assert b"Quillfeather" in old
    assert b"Ottoline" in old
    assert b"Quillfeather" not in raw
    assert b"Ottoline" not in raw
    assert len(raw) == len(old)
    assert raw[-48:] == old[-48:]  # 24 voxels
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / name).write_bytes(contents)
    after, before = nibabel.load(tmp_path / "new" / name), nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
    np.testing.assert_array_equal(after.affine, before.affine)
    assert len(after.header.extensions) == 0
    assert blank_header_text(tmp_path / "new" / name) is None


def test_headers_without_text_and_with_versions_stay(shared_data: Path, tmp_path: Path) -> None:
    assert blank_header_text(write_nifti(tmp_path / "a.nii.gz", b"")) is None
    assert blank_header_text(write_nifti(tmp_path / "b.nii", b"6.0.5:9e026117")) is None
    assert blank_header_text(next((shared_data / "Task04_Hippocampus/imagesTr").glob("*.nii.gz"))) is None
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:50])
    assert blank_header_text(tmp_path / "cut.nii.gz") is None
    assert blank_header_text(Path(__file__)) is None


def test_a_name_in_the_gzip_frame_is_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "case.nii.gz"
    with path.open("wb") as stream, gzip.GzipFile("quillfeather.nii", "wb", fileobj=stream) as packed:
        packed.write(write_nifti(tmp_path / "a.nii", b"").read_bytes())
    contents = blank_header_text(path)
    assert contents is not None
    assert b"quillfeather" in path.read_bytes()
    assert b"quillfeather" not in contents
    assert gzip.decompress(contents) == (tmp_path / "a.nii").read_bytes()


def test_extensions_of_a_header_without_voxels_are_blanked_to_its_end(tmp_path: Path) -> None:
    image = nibabel.Nifti1Pair(np.zeros((2, 2, 2), np.int16), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"Quillfeather, born 1961"))
    nibabel.save(image, tmp_path / "a.hdr")
    assert b"Quillfeather" in (tmp_path / "a.hdr").read_bytes()

    contents = blank_header_text(tmp_path / "a.hdr")

    assert contents is not None and b"Quillfeather" not in contents
    (tmp_path / "a.hdr").write_bytes(contents)
    assert blank_header_text(tmp_path / "a.hdr") is None
    assert nibabel.load(tmp_path / "a.img").shape == (2, 2, 2)


def test_the_gzip_frame_of_a_file_that_gets_another_name_loses_the_old_one(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", b"")
    with (tmp_path / "Quillfeather.nii.gz").open("wb") as raw:
        with gzip.GzipFile("Quillfeather.nii", "wb", fileobj=raw) as stream:
            stream.write((tmp_path / "a.nii").read_bytes())

    contents = blank_header_text(tmp_path / "Quillfeather.nii.gz", "sets/N0123456789.nii.gz")

    assert contents is not None and b"Quillfeather" not in contents
    assert gzip.decompress(contents) == (tmp_path / "a.nii").read_bytes()


def test_names_written_together_and_numbers_behind_letters_are_found() -> None:
    people = Identities(ids={"7712345"}, names={("quillfeather", "ottoline")})
    redactor = Redactor(people, KEYS)
    for path in ("QuillfeatherOttoline/1.nii", "ottolinequillfeather_7.nii", "PAT7712345a.nii"):
        assert redactor.clean_name(path) != path
        assert redactor.clean_text(f"see {path}") != f"see {path}"
        assert people.tokens() & set(find_tokens(path))
    for path in ("case_177123450.nii", "ottolines.nii"):
        assert redactor.clean_name(path) == path
        assert not people.tokens() & set(find_tokens(path))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_with_accents_are_found_however_they_are_written(form: str) -> None:
    people = Identities()
    header = Dataset()
    header.PatientName = "M\u00fcller^J\u00f6rg"
    people.add(header)
    path = unicodedata.normalize(form, "x/M\u00fcller_J\u00f6rg/1.dcm")  # type: ignore[arg-type]
    assert Redactor(people, KEYS).clean_name(path).isascii()
    assert people.tokens() & set(find_tokens(path))
    for encoding in ("utf-8", "utf-16", "latin-1"):
        raw = "born: M\u00fcller".encode(encoding)
        text, found = decode_text(raw)
        assert (text, found) == ("born: M\u00fcller", encoding)
        assert text.encode(found) == raw
