"""Text in NIfTI headers and gzip frames is blanked; voxels and geometry stay."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.io.header_text import blank_header_text


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
