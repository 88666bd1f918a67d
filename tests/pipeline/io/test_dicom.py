"""DICOM series as they are read, against SimpleITK and the MetaImage twins of LUNA16."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import AXIAL, OTHER_SERIES, PLANE, SERIES, write_slice

from pipeline.errors import ImageFileError
from pipeline.io.dicom import read_dicom_series
from pipeline.io.dicom_files import name_series
from pipeline.io.dicom_slices import list_slices
from pipeline.io.metaimage import read_metaimage
from pipeline.volume import axis_codes


def test_voxels_and_world_by_hand(series: Path) -> None:
    image = read_dicom_series(series)
    assert image.array.shape == (1, 3, 2, 3)
    assert image.array.dtype == np.int16
    assert image.array.flags.writeable
    assert image.array[0, 0, 0].tolist() == [0, 20, 40]  # by position, not by name
    assert image.array[0, :, 1, 0].tolist() == [3, 4, 5]  # X is the column, Y the row
    # LPS (10 + 2 * 0.25, 20 + 1 * 0.5, 30 + 2 * 2) is RAS (-10.5, -20.5, 34)
    np.testing.assert_allclose((image.affine @ [2, 1, 2, 1])[:3], [-10.5, -20.5, 34])


def test_slices_are_listed_in_the_order_of_z(series: Path) -> None:
    slices = list_slices(series)
    assert [item.path.name for item in slices] == ["b.dcm", "c", "a.dcm"]
    assert [item.position_lps[2] for item in slices] == [30, 32, 34]
    assert slices[0].instance_uid == "1.2.3.4.1000000"
    assert {item.series_uid for item in slices} == {SERIES}


def test_the_digest_is_that_of_all_slices_by_name(series: Path) -> None:
    digest = hashlib.sha256()
    read_dicom_series(series, digest)
    names = ("a.dcm", "b.dcm", "c")
    assert (
        digest.hexdigest() == hashlib.sha256(b"".join((series / n).read_bytes() for n in names)).hexdigest()
    )


@pytest.mark.parametrize(
    ("directions", "codes"),
    [
        (AXIAL, "LPS"),
        (((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)), "RAS"),
        (((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)), "LIP"),  # coronal; the normal runs to the back
        (((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)), "PIR"),  # sagittal; the normal runs to the right
        (((0.8, 0.6, 0.0), (-0.48, 0.64, 0.6)), "LPS"),  # oblique; normal (0.36, -0.48, 0.8)
    ],
)
def test_any_orientation_lies_where_simpleitk_sees_it(
    tmp_path: Path, directions: tuple[tuple[float, ...], tuple[float, ...]], codes: str
) -> None:
    rng = np.random.default_rng(0)
    for number, z in enumerate((3, 0, -3, 6)):
        pixels = rng.integers(-1000, 1000, (4, 5), dtype=np.int16)
        write_slice(tmp_path / "series" / f"{number}.dcm", z, pixels, directions)
    image = read_dicom_series(tmp_path / "series")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
    reference = reader.Execute()
    np.testing.assert_array_equal(image.array[0], sitk.GetArrayFromImage(reference).transpose(2, 1, 0))
    for index in ((0, 0, 0), (4, 0, 0), (0, 3, 0), (0, 0, 3), (4, 3, 3)):
        expected = np.array(reference.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        np.testing.assert_allclose((image.affine @ [*index, 1])[:3], expected, atol=1e-4)
    assert axis_codes(image.affine) == codes


def test_slices_that_slide_by_less_than_half_a_pixel_are_straight(tmp_path: Path) -> None:
    """Positions rounded to 0.1 mm."""
    for number in range(3):
        position = [10, 20 + 0.1 * (number == 2), 30 + 2 * number]
        write_slice(tmp_path / f"{number}.dcm", 0, ImagePositionPatient=position)
    assert read_dicom_series(tmp_path).array.shape[3] == 3


def test_one_series_of_several_is_read_wherever_its_files_lie(tmp_path: Path) -> None:
    """Two series in two folders, one slice of the first copied into both; a slice of the same name in each."""
    for z in range(4):
        write_slice(tmp_path / "set" / ("a" if z < 2 else "b") / f"{z}.dcm", z, PLANE + np.int16(z))
        write_slice(tmp_path / "set" / "a" / f"other{z}.dcm", z, SeriesInstanceUID=OTHER_SERIES)
    shutil.copyfile(tmp_path / "set/a/1.dcm", tmp_path / "set/b/copy.dcm")
    image = read_dicom_series(name_series(tmp_path / "set", SERIES))
    assert image.array[0, 0, 0].tolist() == [0, 1, 2, 3]
    with pytest.raises(ImageFileError, match="no DICOM file of the series 1.2.5"):
        read_dicom_series(name_series(tmp_path / "set", "1.2.5"))
    with pytest.raises(ImageFileError, match="2 series"):
        read_dicom_series(tmp_path / "set" / "a")


def test_each_slice_is_scaled_by_its_own_header(tmp_path: Path) -> None:
    whole, fractions = tmp_path / "whole", tmp_path / "fractions"
    write_slice(whole / "a.dcm", 0, RescaleSlope=1, RescaleIntercept=-1024)
    write_slice(whole / "b.dcm", 1, RescaleSlope=2, RescaleIntercept=-1000)
    image = read_dicom_series(whole)
    assert image.array.dtype == np.int16
    assert image.array[0, :, 0].tolist() == [[-1024, -1000], [-1023, -998], [-1022, -996]]
    write_slice(fractions / "a.dcm", 0)
    write_slice(fractions / "b.dcm", 1, RescaleSlope=0.5, RescaleIntercept=0.25)
    image = read_dicom_series(fractions)
    assert image.array.dtype == np.float32
    assert image.array[0, :, 0].tolist() == [[0, 0.25], [1, 0.75], [2, 1.25]]


def test_numbers_beyond_16_bits_are_kept(tmp_path: Path) -> None:
    pixels = np.array([[0, 65535]], np.uint16)
    write_slice(tmp_path / "a.dcm", 0, pixels, RescaleIntercept=-1)
    assert read_dicom_series(tmp_path).array[0, :, 0, 0].tolist() == [-1, 65534]


def test_a_single_slice_is_as_thick_as_it_says(tmp_path: Path) -> None:
    write_slice(tmp_path / "a.dcm", 0, SliceThickness=2.5)
    image = read_dicom_series(tmp_path)
    assert image.array.shape == (1, 3, 2, 1)
    assert image.affine[2, 2] == 2.5


def test_big_endian_and_run_lengths(tmp_path: Path, shared_data: Path) -> None:
    write_slice(tmp_path / "own" / "a.dcm", 0, big_endian=True)
    array = read_dicom_series(tmp_path / "own").array
    assert array.dtype.isnative
    np.testing.assert_array_equal(array[0, :, :, 0], PLANE.T)
    single = shared_data / "loader_oddities" / "real_files" / "dicom_single"
    read = []
    for kind in ("implicit", "bigendian", "RLE"):
        folder = tmp_path / kind
        folder.mkdir()
        shutil.copy(single / f"MR_small_{kind}.dcm", folder)
        read.append(read_dicom_series(folder).array)
        reference = sitk.GetArrayFromImage(sitk.ReadImage(str(single / f"MR_small_{kind}.dcm")))
        np.testing.assert_array_equal(read[-1][0], reference.transpose(2, 1, 0))
    np.testing.assert_array_equal(read[0], read[1])
    np.testing.assert_array_equal(read[0], read[2])


def test_positions_rounded_to_a_tenth_are_even(tmp_path: Path) -> None:
    for number in range(40):
        write_slice(tmp_path / f"{number}.dcm", round(number * 0.625, 1))
    assert read_dicom_series(tmp_path).array.shape[3] == 40


@pytest.mark.parametrize(
    "name", ["loader_oddities/real_files/dicom_small_ct_series", "hippocrop_dicom/Study2/*"]
)
def test_real_series_equal_what_simpleitk_reads(shared_data: Path, name: str) -> None:
    (folder,) = shared_data.glob(name)
    image = read_dicom_series(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    reference = reader.Execute()
    np.testing.assert_array_equal(image.array[0], sitk.GetArrayFromImage(reference).transpose(2, 1, 0))
    for index in ((0, 0, 0), (7, 5, 3)):
        expected = np.array(reference.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        np.testing.assert_allclose((image.affine @ [*index, 1])[:3], expected, atol=1e-4)


def test_lidc_equals_its_luna16_twins(shared_data: Path) -> None:
    """Voxels and world agree between the two readers; two of the MetaImages are cropped in x and y."""
    twins = sorted((shared_data / "luna16" / "subset0").glob("*.mhd"))
    assert len(twins) == 3
    for path in twins:
        (folder,) = shared_data.glob(f"lidc_idri/LIDC-IDRI/*/*/{path.stem}")
        series, twin = read_dicom_series(folder), read_metaimage(path)
        start = np.linalg.solve(series.affine, twin.affine[:, 3])[:3]
        np.testing.assert_allclose(start, np.rint(start), atol=1e-3)
        corner = np.rint(start).astype(int)
        box = tuple(slice(low, low + size) for low, size in zip(corner, twin.array.shape[1:], strict=True))
        np.testing.assert_array_equal(series.array[0][box], twin.array[0])
        index = np.array([100, 200, 7])
        expected = (twin.affine @ [*index, 1])[:3]
        np.testing.assert_allclose((series.affine @ [*(index + corner), 1])[:3], expected, atol=1e-3)


@pytest.mark.parametrize("name", ["23x38x3", "24x38x3"])
def test_the_frames_of_one_file_are_the_slices_of_its_twin(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    """Real CT, as single slices and converted to the legacy enhanced form."""
    folder = shared_data / "dicom_seg_rtstruct/dcmqi/segmentations" / name
    slices, frames = read_dicom_series(folder / "image"), read_dicom_series(folder / "multiframe")
    np.testing.assert_array_equal(frames.array, slices.array)
    np.testing.assert_allclose(frames.affine, slices.affine, atol=1e-6)
    dataset = pydicom.dcmread(folder / "multiframe" / "mf.dcm")
    dataset.PixelData = dataset.PixelData[:-2]
    dataset.save_as(tmp_path / "cut.dcm")
    with pytest.raises(ImageFileError, match="header promises"):
        read_dicom_series(tmp_path)
