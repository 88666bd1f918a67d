"""DICOM series that were spoilt on purpose or came so: each is refused with its code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from dicom_series import OTHER_SERIES, PLANE, write_slice
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1

from pipeline.errors import ImageFileError
from pipeline.io.dicom import read_dicom_series
from pipeline.io.dicom_files import is_dicom_series


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path: Path) -> None:
    """The table moves along z, the slices lean by asin 0.28: each next one begins straight above the last."""
    lean = ((1.0, 0.0, 0.0), (0.0, 0.96, -0.28))
    for number in range(3):
        position = [10, 20, 30 + 2 * number]
        write_slice(tmp_path / f"{number}.dcm", 0, directions=lean, ImagePositionPatient=position)
    with pytest.raises(
        ImageFileError, match=r"tilted by 16.3 degrees .* last one lies 1.1 mm beside"
    ) as caught:
        read_dicom_series(tmp_path)
    assert caught.value.code == "gantry_tilt"


def test_a_compression_that_cannot_be_undone_is_told_with_the_way_out(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "a.dcm", 0)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.PixelData = encapsulate([b"\xff\xd8 no jpeg \xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    with pytest.raises(ImageFileError, match="the voxels cannot be read: .*JPEG Lossless") as caught:
        read_dicom_series(tmp_path)
    assert caught.value.code == "unreadable"
    assert "gdcmconv --raw" in caught.value.fix


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda f: write_slice(f / "d.dcm", 6, SeriesInstanceUID=OTHER_SERIES), "several_series", "2 series"),
        (lambda f: write_slice(f / "d.dcm", 2), "duplicate_slice", "c and d.dcm lie at one position"),
        (lambda f: shutil.copy(f / "c", f / "d.dcm"), "duplicate_slice", "c and d.dcm lie at one position"),
        (
            lambda f: write_slice(f / "d.dcm", 8),
            "slice_spacing",
            "4 mm between a.dcm and d.dcm, 2 mm between",
        ),
        (lambda f: write_slice(f / "d.dcm", 5.5), "slice_spacing", "1.5 mm between a.dcm and d.dcm"),
        (lambda f: write_slice(f / "d.dcm", 6, PLANE.T), "shape_invalid", r"\(2, 3\) in d.dcm"),
        (lambda f: write_slice(f / "d.dcm", 6, PixelSpacing=[1, 1]), "geometry_invalid", "spacing are"),
        (
            lambda f: write_slice(f / "d.dcm", 6, directions=((1.0, 0.0, 0.0), (0.0, 0.0, 1.0))),
            "geometry_invalid",
            "directions are",
        ),
        (
            lambda f: write_slice(f / "d.dcm", 6, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
            "geometry_invalid",
            "map it to no space",
        ),
        (
            lambda f: write_slice(f / "d.dcm", 6, ImagePositionPatient=None),
            "geometry_invalid",
            "lacks ImagePositionPatient",
        ),
        (
            lambda f: write_slice(f / "d.dcm", 6, NumberOfFrames=2),
            "shape_invalid",
            "2 frames of 1 colours",
        ),  # no places
        (lambda f: write_slice(f / "d.dcm", 6, SamplesPerPixel=3), "shape_invalid", "1 frames of 3 colours"),
        (
            lambda f: write_slice(f / "d.dcm", 6, Rows=None, Modality="RTSTRUCT"),
            "unreadable",
            r"holds no image \(modality RTSTRUCT\)",
        ),
        (
            lambda f: write_slice(f / "d.dcm", 6, PixelData=b"12"),
            "truncated",
            "2 bytes of voxels, .* promises 12",
        ),
        (lambda f: write_slice(f / "d.dcm", 6, PixelData=None), "unreadable", "the voxels cannot be read"),
        (lambda f: (f / "d.dcm").write_bytes(b""), "unreadable", "the file is empty"),
        (lambda f: (f / "d.dcm").write_bytes(b"x" * 200), "unreadable", "the DICOM header is damaged"),
    ],
)
def test_what_would_bend_space_is_refused(
    series: Path, spoil: Callable[[Path], object], code: str, said: str
) -> None:
    spoil(series)
    with pytest.raises(ImageFileError, match=said) as caught:
        read_dicom_series(series)
    assert caught.value.code == code
    assert str(series) in caught.value.where


@pytest.mark.parametrize("missing", [1, 20, 38])
def test_one_missing_slice_of_many_is_seen_wherever_it_is(tmp_path: Path, missing: int) -> None:
    for number in set(range(40)) - {missing}:
        write_slice(tmp_path / f"{number:02}.dcm", number * 0.5)
    with pytest.raises(ImageFileError, match=f"1 mm between {missing - 1:02}.dcm and {missing + 1:02}.dcm"):
        read_dicom_series(tmp_path)


def test_every_cut_of_a_slice_is_refused(tmp_path: Path) -> None:
    whole = write_slice(tmp_path / "a.dcm", 0).read_bytes()
    for length in range(0, len(whole), 3):
        (tmp_path / "a.dcm").write_bytes(whole[:length])
        with pytest.raises(ImageFileError):
            read_dicom_series(tmp_path)


def test_a_folder_without_slices(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    assert not is_dicom_series(tmp_path)
    assert not is_dicom_series(tmp_path / "notes.txt")
    with pytest.raises(ImageFileError, match="holds no DICOM file"):
        read_dicom_series(tmp_path)
    with pytest.raises(ImageFileError, match="no such folder"):
        read_dicom_series(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [  # from manifest.csv
        ("derived_files/dicom_missing_slices", "slice_spacing", "4 mm between .*, 1 mm between most others"),
        ("derived_files/dicom_duplicate_slice", "duplicate_slice", "copy_of_slice.dcm lie at one position"),
        ("derived_files/dicom_two_series_mixed", "several_series", r"2 series.*\(6 slices\).*\(6 slices\)"),
        ("real_files/dicom_gantry_tilt_variable_spacing", "slice_spacing", "not evenly spaced"),
    ],
)
def test_odd_series_are_refused(shared_data: Path, name: str, code: str, said: str) -> None:
    with pytest.raises(ImageFileError, match=said) as caught:
        read_dicom_series(shared_data / "loader_oddities" / name)
    assert caught.value.code == code


def test_a_truncated_real_file_is_refused(shared_data: Path, tmp_path: Path) -> None:
    shutil.copy(
        shared_data / "loader_oddities" / "real_files" / "dicom_single" / "MR_truncated.dcm", tmp_path
    )
    with pytest.raises(ImageFileError, match=r"8130 bytes of voxels, its header promises 8192") as caught:
        read_dicom_series(tmp_path)
    assert caught.value.code == "truncated"
