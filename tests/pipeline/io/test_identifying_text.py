"""Names and dates in names of files and in headers; what is found is named, never repeated."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image, PngImagePlugin

from pipeline.io.identifying_text import find_identifying_text, is_identifying

RAW = Path("data/raw/set")


@pytest.mark.parametrize(
    "text",
    ["Mueller^Anna", "mueller^anna", "scan_19540312", "12.03.1954", "1954-03-12", "patient name: x", "Anna_Mueller_T1",
     "date of birth", "Schmidt, Peter", "20230104_ct", "dob 3/12"],
)  # fmt: skip
def test_suspicious(text: str) -> None:
    assert is_identifying(text)


@pytest.mark.parametrize(
    "text",
    ["imagesTr/hippocampus_001.nii.gz", "Task04_Hippocampus", "BRATS_001_0000", "FSL5.0", "5.0.10", "ITK",
     "LIDC-IDRI-0001", "1.3.6.1.4.1.14519.5.2.1.6279.6001.1092025062", "case_123456789", "Left_Lung", "Brain Tumour",
     "TE=2.9", "spm - 3D",
     "SimpleITK", "20231399", "00000000", "patient001_frame01", "SC-HF-I-40-IM-0001-0088", "f2d9a1c419540312aa"],
)  # fmt: skip
def test_harmless(text: str) -> None:
    assert not is_identifying(text)


def test_names_of_files_count_below_the_data_set_alone() -> None:
    folder = Path("data/raw/Anna_Mueller")
    assert find_identifying_text({"image": "data/raw/Anna_Mueller/a.nii.gz"}, folder) == []
    found = find_identifying_text({"image 0": "data/raw/Anna_Mueller/Otto_Meier/a.nii.gz"}, folder)
    assert found == ["name of the image 0"]


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_text_of_nifti_headers(tmp_path: Path, kind: type, suffix: str) -> None:
    image = kind(np.zeros((2, 3, 4), np.int16), np.eye(4))
    path = tmp_path / f"a{suffix}"
    image.header["descrip"] = b"FSL5.0"
    nibabel.save(image, path)
    assert find_identifying_text({"image": str(path)}, RAW) == []
    image.header["descrip"] = b"Mueller^Anna"
    image.header["aux_file"] = b"scan 19540312"
    nibabel.save(image, path)
    assert find_identifying_text({"label": str(path)}, RAW) == [
        "header field descrip of the label",
        "header field aux_file of the label",
    ]


def test_nifti_extensions_are_looked_into(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"made by a tool"))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"PatientName Mueller"))
    nibabel.save(image, tmp_path / "a.nii.gz")
    found = find_identifying_text({"image": str(tmp_path / "a.nii.gz")}, RAW)
    assert found == ["header field extension of the image"]


def test_lines_of_metaimage_and_nrrd(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_text(
        "ObjectType = Image\nPatientName = x y\nElementDataFile = Anna_Mueller.raw\n"
    )
    (tmp_path / "b.nrrd").write_bytes(b"NRRD0004\ntype: short\nscan date:=1954-03-12\n\n\x00\x01: 1954-03-12")
    assert find_identifying_text({"image": str(tmp_path / "a.mhd")}, RAW) == [
        "header field PatientName of the image"
    ]
    assert find_identifying_text({"image": str(tmp_path / "b.nrrd")}, RAW) == [
        "header field scan date of the image"
    ]


def test_text_of_pictures(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "Anna Mueller")
    Image.new("L", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    assert find_identifying_text({"image": str(tmp_path / "a.png")}, RAW) == ["tag Comment of the image"]
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert find_identifying_text({"image": str(tmp_path / "b.png")}, RAW) == []


def test_tags_of_a_series_count_its_files(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "loader_oddities/real_files/dicom_small_ct_series"
    for path in sorted(source.rglob("*"))[:4]:
        if path.is_file():
            slice_ = pydicom.dcmread(path)
            slice_.PatientName, slice_.PatientID, slice_.PatientBirthDate = "Mueller^Anna", "17", "19540312"
            slice_.save_as(tmp_path / path.name)
    count = len(list(tmp_path.iterdir()))
    found = find_identifying_text({"image": str(tmp_path)}, RAW)
    assert f"DICOM tag PatientName of {count} of {count} files of the image" in found
    assert f"DICOM tag PatientBirthDate of {count} of {count} files of the image" in found
    assert not any(text in phrase for phrase in found for text in ("Mueller", "Anna", "1954"))


def test_names_that_are_nobodys(shared_data: Path, tmp_path: Path) -> None:
    source = next(p for p in sorted((shared_data / "lidc_idri").rglob("*.dcm")))
    slice_ = pydicom.dcmread(source)
    slice_.PatientName, slice_.PatientIdentityRemoved = slice_.PatientID, "YES"
    slice_.save_as(tmp_path / "a.dcm")
    assert find_identifying_text({"image": str(tmp_path)}, RAW) == []


def test_real_sets_are_without_suspicion(shared_data: Path) -> None:
    """A hundred files of three sets whose names and headers hold no person."""
    for name, pattern in (
        ("Task04_Hippocampus", "*/*.nii.gz"),
        ("brats2015_2mm", "**/*.nii*"),
        ("luna16", "**/*.mhd"),
    ):
        for path in sorted((shared_data / name).glob(pattern))[:60]:
            assert find_identifying_text({"image": str(path)}, shared_data / name) == [], path.name


def test_damaged_headers_are_passed_over(tmp_path: Path) -> None:
    """Their readers say what is wrong; a type that DICOM does not know, a length that is none, a TIFF without a tag."""
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = "1.2.3"
    header.PatientName, header.Rows = "Mueller^Anna", 4
    slice_ = tmp_path / "series" / "1.dcm"
    slice_.parent.mkdir()
    header.save_as(slice_, enforce_file_format=True)
    whole = slice_.read_bytes()
    for good, bad in ((b"PN", b"Py"), (b"US\x02\0", b"US\x01\0")):
        assert good in whole
        slice_.write_bytes(whole.replace(good, bad))
        assert find_identifying_text({"image": str(slice_.parent)}, tmp_path) == []
    picture = tmp_path / "a.tif"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(picture)
    picture.write_bytes(
        picture.read_bytes().replace(b"\x06\x01\x03\0", b"\x07\x01\x03\0")
    )  # PhotometricInterpretation
    assert find_identifying_text({"image": str(picture)}, tmp_path) == []
