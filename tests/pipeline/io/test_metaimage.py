"""MetaImage files, against SimpleITK, nibabel and the official LUNA16 coordinates."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from pipeline.errors import ImageFileError
from pipeline.io.metaimage import read_metaimage

VOXELS = np.arange(2 * 3 * 4, dtype="<i2").reshape(4, 3, 2)  # Z, Y, X, as it lies in the file
HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "10 -20 30",
    "ElementSpacing": "1 2 3",
    "DimSize": "2 3 4",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "a.raw",
}


def write(folder: Path, data: bytes | None = VOXELS.tobytes(), **changes: str | None) -> Path:
    """Writes `a.mhd` by hand; a changed key that is None is left out; no data: no data file."""
    header = {key: value for key, value in {**HEADER, **changes}.items() if value is not None}
    header["ElementDataFile"] = header.pop("ElementDataFile")  # the last line
    path = folder / "a.mhd"
    path.write_text("".join(f"{key} = {value}\n" for key, value in header.items()), encoding="utf-8")
    if data is not None:
        (folder / header["ElementDataFile"]).write_bytes(data)
    return path


def oblique_image(
    tmp_path: Path, pixels: NDArray[Any], suffix: str, compressed: bool
) -> tuple[sitk.Image, Path]:
    """An image with three different spacings, turned about two axes, written by SimpleITK."""
    a, b = np.radians([17, 9])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    image = sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 4)
    image.SetSpacing((0.7, 0.9, 3.1))
    image.SetOrigin((-81.3, 44.7, 103.9))
    image.SetDirection((about_z @ about_x).ravel())
    path = tmp_path / f"a.{suffix}"
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return image, path


def test_voxels_and_world_by_hand(tmp_path: Path) -> None:
    image = read_metaimage(write(tmp_path))
    assert image.array.shape == (1, 2, 3, 4)
    assert image.array.dtype == np.int16
    assert image.array.flags.writeable
    assert image.array[0, 1, 0, 0] == 1  # X runs fastest
    assert image.array[0, 0, 1, 0] == 2
    assert image.array[0, 0, 0, 1] == 6
    # LPS (10 + 1, -20 + 2 * 2, 30 + 3 * 3) is RAS (-11, 16, 39)
    assert (image.affine @ [1, 2, 3, 1])[:3].tolist() == [-11, 16, 39]


def test_rows_of_the_matrix_are_the_directions_of_the_axes(tmp_path: Path) -> None:
    """X of the grid runs along the world's y: a voxel further along X is 1 mm further to the back (P)."""
    path = write(tmp_path, TransformMatrix="0 1 0 -1 0 0 0 0 1")
    affine = read_metaimage(path).affine
    assert (affine @ [1, 0, 0, 1] - affine @ [0, 0, 0, 1])[:3].tolist() == [0, -1, 0]
    assert (affine @ [0, 1, 0, 1] - affine @ [0, 0, 0, 1])[:3].tolist() == [2, 0, 0]


@pytest.mark.parametrize("suffix", ["mhd", "mha"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64", "float32", "float64"]
)
def test_equals_what_simpleitk_wrote_and_its_nifti_twin(
    tmp_path: Path, suffix: str, compressed: bool, dtype: str
) -> None:
    pixels = np.random.default_rng(0).normal(60, 20, (5, 6, 7)).astype(dtype)
    image, path = oblique_image(tmp_path, pixels, suffix, compressed)
    read = read_metaimage(path)
    assert read.array.dtype == ("float32" if dtype.startswith("float") else dtype)
    np.testing.assert_array_equal(read.array[0], pixels.transpose(2, 1, 0).astype(read.array.dtype))
    sitk.WriteImage(image, str(tmp_path / "twin.nii.gz"))
    np.testing.assert_allclose(read.affine, nibabel.load(tmp_path / "twin.nii.gz").affine, atol=2e-5)
    for index in ((0, 0, 0), (6, 5, 4)):
        expected = np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        np.testing.assert_allclose((read.affine @ [*index, 1])[:3], expected, atol=1e-9)


def test_channels_come_first(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(5, 6, 7, 3)).astype(np.float32)
    _, path = oblique_image(tmp_path, pixels, "mha", False)
    np.testing.assert_array_equal(read_metaimage(path).array, pixels.transpose(3, 2, 1, 0))


def test_a_flat_image_has_one_slice(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    image.SetSpacing((0.5, 2))
    image.SetOrigin((4, 6))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    read = read_metaimage(tmp_path / "a.mha")
    assert read.array[0, :, :, 0].tolist() == [[0, 3], [1, 4], [2, 5]]
    np.testing.assert_array_equal(read.affine, [[-0.5, 0, 0, -4], [0, -2, 0, -6], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_big_endian_and_a_header_before_the_voxels(tmp_path: Path) -> None:
    path = write(
        tmp_path, b"junk" + VOXELS.astype(">i2").tobytes(), BinaryDataByteOrderMSB="True", HeaderSize="4"
    )
    np.testing.assert_array_equal(read_metaimage(path).array[0], VOXELS.transpose(2, 1, 0))
    path = write(tmp_path, b"any length" + VOXELS.tobytes(), HeaderSize="-1")
    np.testing.assert_array_equal(read_metaimage(path).array[0], VOXELS.transpose(2, 1, 0))


@pytest.mark.parametrize("name", ["compressed.mhd", "msb.mhd", "single_file.mha"])
def test_odd_files(shared_data: Path, name: str) -> None:
    path = shared_data / "loader_oddities" / "derived_files" / name
    image = read_metaimage(path)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(image.array[0], expected.transpose(2, 1, 0))
    # spacing (1, 1, 2.5), origin (10, -20, 30) in LPS, from manifest.csv
    np.testing.assert_array_equal(
        image.affine, [[-1, 0, 0, -10], [0, -1, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    )


def test_official_coordinates_of_luna16_hit_their_nodules(shared_data: Path) -> None:
    """World (LPS) of annotations.csv, through our affine, is the voxel that SimpleITK finds; and it is tissue."""
    inside = []
    with (shared_data / "luna16" / "annotations.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for path in sorted((shared_data / "luna16" / "subset0").glob("*.mhd")):
        image, reference = read_metaimage(path), sitk.ReadImage(str(path))
        np.testing.assert_array_equal(image.array[0], sitk.GetArrayFromImage(reference).transpose(2, 1, 0))
        for row in (row for row in rows if row["seriesuid"] == path.stem):
            lps = [float(row[f"coord{axis}"]) for axis in "XYZ"]
            index = np.linalg.solve(image.affine, [-lps[0], -lps[1], lps[2], 1])[:3]
            np.testing.assert_allclose(
                index, reference.TransformPhysicalPointToContinuousIndex(lps), atol=1e-6
            )
            voxel = np.rint(index).astype(int)
            if 0 <= voxel[2] < image.array.shape[3]:
                inside.append(int(image.array[0][tuple(voxel)]))
    assert len(inside) == 2  # from the README of the data
    assert min(inside) > -300  # air in the lung is below -800 HU


@pytest.mark.parametrize(
    ("changes", "data", "code", "said"),
    [
        ({}, VOXELS.tobytes()[:-1], "truncated", "47 bytes of voxels, the header promises 48"),
        ({}, VOXELS.tobytes() + b"x", "corrupt", "49 bytes of voxels, the header promises 48"),
        ({}, None, "missing", r"its data file 'a\.raw' is missing"),
        ({"DimSize": "2 3"}, b"", "geometry_invalid", "DimSize is '2 3', expected numbers for 3 axes"),
        ({"DimSize": "2 0 4"}, b"", "shape_invalid", "DimSize is 2 0 4"),
        (
            {"NDims": "4", "DimSize": "2 3 4 5", "ElementSpacing": "1 1 1 1"},
            b"",
            "shape_invalid",
            "at least 1 voxel along each of 2 or 3 axes",
        ),
        ({"DimSize": None}, b"", "unreadable", "lacks DimSize"),
        ({"ElementSpacing": None}, VOXELS.tobytes(), "geometry_invalid", "ElementSpacing is ''"),
        ({"ElementSpacing": "1 1 0"}, VOXELS.tobytes(), "geometry_invalid", "map the grid to no space"),
        ({"ElementSpacing": "1 1 nan"}, VOXELS.tobytes(), "geometry_invalid", "ElementSpacing is '1 1 nan'"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, VOXELS.tobytes(), "geometry_invalid", "to no space"),
        ({"ElementType": "MET_STRING"}, VOXELS.tobytes(), "unreadable", "the voxels are MET_STRING"),
        ({"BinaryData": "False"}, VOXELS.tobytes(), "unreadable", "binary: False"),
        ({"ElementDataFile": "slice%03d.raw"}, None, "unreadable", "lie in several files"),
        ({"ElementDataFile": "a" * 300}, None, "missing", "its data file 'aaa.* is missing"),
        (
            {"ElementNumberOfChannels": "²"},
            VOXELS.tobytes(),
            "shape_invalid",
            "ElementNumberOfChannels is '²'",
        ),
        (
            {"ElementNumberOfChannels": "9" * 5000},
            VOXELS.tobytes(),
            "shape_invalid",
            "ElementNumberOfChannels",
        ),
        ({"HeaderSize": "²"}, VOXELS.tobytes(), "unreadable", "HeaderSize is '²'"),
        ({"NDims": "²"}, VOXELS.tobytes(), "geometry_invalid", "for ² axes"),
    ],
)
def test_bad_files_are_named_with_the_reason(
    tmp_path: Path, changes: dict[str, str | None], data: bytes | None, code: str, said: str
) -> None:
    with pytest.raises(ImageFileError, match=said) as caught:
        read_metaimage(write(tmp_path, data, **changes))
    assert caught.value.code == code


def test_a_wrong_compressed_size_is_refused(tmp_path: Path) -> None:
    packed = zlib.compress(VOXELS.tobytes())
    changes = {"CompressedData": "True", "ElementDataFile": "a.zraw"}
    read = read_metaimage(write(tmp_path, packed, CompressedDataSize=str(len(packed)), **changes))
    np.testing.assert_array_equal(read.array[0], VOXELS.transpose(2, 1, 0))
    read_metaimage(write(tmp_path, packed, **changes))  # the size may be left out
    for size in (len(packed) - 1, len(packed) + 1):
        with pytest.raises(
            ImageFileError, match=f"{len(packed)} compressed bytes, the header promises {size}"
        ):
            read_metaimage(write(tmp_path, packed, CompressedDataSize=str(size), **changes))


@pytest.mark.parametrize("size", [True, False])
def test_bytes_after_the_packed_voxels_are_refused(tmp_path: Path, size: bool) -> None:
    packed = zlib.compress(VOXELS.tobytes()) + b"more"
    changes = {"CompressedData": "True", "ElementDataFile": "a.zraw"}
    promised = {"CompressedDataSize": str(len(packed))} if size else {}
    with pytest.raises(ImageFileError, match="4 bytes follow the compressed voxels") as caught:
        read_metaimage(write(tmp_path, packed, **changes, **promised))
    assert caught.value.code == "corrupt"


def test_every_cut_and_every_flipped_bit_of_packed_voxels_is_seen(tmp_path: Path) -> None:
    """SimpleITK returns wrong voxels without an error for nearly all of these."""
    packed = zlib.compress(VOXELS.tobytes())
    changes = {"CompressedData": "True", "ElementDataFile": "a.zraw"}
    damaged = [packed[:length] for length in range(len(packed))]
    for place in range(len(packed)):
        damaged += [packed[:place] + bytes([packed[place] ^ 1 << b]) + packed[place + 1 :] for b in range(8)]
    refused = 0
    for contents in damaged:
        try:
            read = read_metaimage(write(tmp_path, contents, **changes))
            np.testing.assert_array_equal(read.array[0], VOXELS.transpose(2, 1, 0))
        except ImageFileError as error:
            assert error.code in {"truncated", "corrupt"}
            assert error.where.endswith("a.zraw")
            refused += 1
    assert refused >= 0.98 * len(damaged)


def test_what_is_no_metaimage_is_told(shared_data: Path, tmp_path: Path) -> None:
    odd = shared_data / "loader_oddities" / "derived_files"
    for name, said in (
        ("missing_raw.mhd", "does_not_exist.raw' is missing"),
        ("lfs_pointer.nii.gz", "Git LFS"),
        ("reference_image.nii.gz", "lacks NDims, DimSize, ElementType, ElementDataFile"),
    ):
        with pytest.raises(ImageFileError, match=said):
            read_metaimage(odd / name)
