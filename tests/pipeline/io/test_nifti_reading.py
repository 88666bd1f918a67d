"""NIfTI files on the way in, against nibabel and files that break loaders."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.errors import ImageFileError, SegtrailError
from pipeline.io.images import load_volume
from pipeline.io.nifti_reading import read_nifti


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", ">i2"])
def test_integers_stay_as_stored(tmp_path: Path, dtype: str) -> None:
    array = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    volume = load_volume([tmp_path / "a.nii.gz"])
    assert volume.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert volume.array.flags.writeable
    np.testing.assert_array_equal(volume.array, array[np.newaxis])


def test_floats_and_scaled_integers_become_float32(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((2, 2, 2), 0.1), np.eye(4)), tmp_path / "a.nii")
    assert load_volume([tmp_path / "a.nii"]).array.dtype == np.float32
    scaled = nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    scaled.header.set_slope_inter(0.5, -10)
    nibabel.save(scaled, tmp_path / "b.nii.gz")
    volume = load_volume([tmp_path / "b.nii.gz"])
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], nibabel.load(tmp_path / "b.nii.gz").get_fdata())


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 3), (1, 4, 3, 1)), ((4, 3, 2), (1, 4, 3, 2)), ((4, 3, 2, 1), (1, 4, 3, 2))]
    + [((4, 3, 2, 5), (5, 4, 3, 2)), ((4, 3, 2, 1, 5), (5, 4, 3, 2)), ((4, 3, 1, 2), (2, 4, 3, 1))],
)
def test_channels_come_first_and_2d_has_one_slice(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    volume = load_volume([tmp_path / "a.nii.gz"])
    assert volume.array.shape == expected
    last = volume.array[-1, 2, 1, 0]
    assert last == array[(2, 1, 0, *(n - 1 for n in shape[3:]))[: len(shape)]]


def test_several_files_are_channels_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / "t2.nii.gz", tmp_path / "t1.nii.gz"]
    for value, path in enumerate(paths):
        nibabel.save(nibabel.Nifti1Image(np.full((2, 3, 4), value, np.uint8), np.eye(4)), path)
    volume = load_volume(paths)
    assert volume.array.shape == (2, 2, 3, 4)
    assert [int(channel.max()) for channel in volume.array] == [0, 1]


def test_channels_on_other_grids_are_refused(tmp_path: Path) -> None:
    first, short, moved = (tmp_path / f"{name}.nii.gz" for name in ("first", "short", "moved"))
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.eye(4)), first)
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 3), np.uint8), np.eye(4)), short)
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.diag([1, 1, 2, 1])), moved)
    with pytest.raises(SegtrailError, match=r"shape is \(2, 3, 3\)"):
        load_volume([first, short])
    with pytest.raises(SegtrailError, match="lies 3 mm from"):
        load_volume([first, moved])


@pytest.mark.parametrize(
    "name",
    ["bigendian_int16_uncompressed.nii", "bigendian_float32.nii", "oblique_uint8_slope.nii.gz"]
    + ["oblique_head_ct_uint8.nii.gz", "4d_two_volumes.nii.gz", "4d_time_series_int16_slope.nii"]
    + ["nifti2_header.nii.gz", "bigendian_int16_uncompressed_label.nii.gz"],
)
def test_real_oddities_read_as_nibabel_reads_them(shared_data: Path, name: str) -> None:
    path = shared_data / "loader_oddities" / "real_files" / name
    expected = nibabel.load(path)
    volume = load_volume([path])
    voxels = expected.get_fdata().reshape(*expected.shape[:3], -1)
    np.testing.assert_allclose(np.moveaxis(volume.array, 0, -1), voxels, rtol=1e-6)
    np.testing.assert_array_equal(volume.affine, expected.affine)


def test_gzip_is_seen_from_the_bytes(shared_data: Path) -> None:
    folder = shared_data / "loader_oddities" / "derived_files"
    reference = load_volume([folder / "reference_image.nii.gz"]).array
    for name in ("plain_nii_named_gz.nii.gz", "gz_named_nii.nii", "patient.1.2.840.v2.nii.gz"):
        np.testing.assert_array_equal(load_volume([folder / name]).array, reference)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("truncated.nii.gz", "cut off"),
        ("corrupt_middle.nii.gz", "damaged"),
        ("html_instead_of_image.nii.gz", "web page"),
        ("lfs_pointer.nii.gz", "Git LFS"),
        ("empty_file.nii.gz", "empty"),
        ("image_nan_inf.nii.gz", "29 of 63920 voxels are NaN or Inf"),
        ("pixdim_zero.nii.gz", "0 mm"),
        ("no_such_file.nii.gz", "no such file"),
    ],
)
def test_bad_files_are_named_with_the_reason(shared_data: Path, name: str, said: str) -> None:
    path = shared_data / "loader_oddities" / "derived_files" / name
    with pytest.raises(SegtrailError) as caught:
        load_volume([path])
    assert said in caught.value.what
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("analyze.hdr", "not NIfTI"),
        ("nifti_pair.hdr", "half of a .hdr/.img pair"),
        ("gray16.png", "not NIfTI"),
    ],
)
def test_files_of_another_format_are_seen_from_their_bytes(shared_data: Path, name: str, said: str) -> None:
    with pytest.raises(ImageFileError, match=said) as caught:
        read_nifti(shared_data / "loader_oddities" / "derived_files" / name)
    assert caught.value.code == "unreadable"


def test_every_cut_is_refused_and_no_flipped_bit_changes_a_voxel_unseen(tmp_path: Path) -> None:
    """A few bits of a gzip stream carry nothing (its header, the filling after the last block): they may differ."""
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    whole = gzip.compress(nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes(), mtime=0)
    path = tmp_path / "a.nii.gz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SegtrailError):
            load_volume([path])
    refused = 0
    for place in range(10, len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                assert np.array_equal(load_volume([path]).array[0], voxels)
            except SegtrailError:
                refused += 1
    assert refused >= 0.98 * 8 * (len(whole) - 10)


def test_an_uncompressed_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    raw = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes()
    (tmp_path / "a.nii").write_bytes(raw[:-1])
    with pytest.raises(SegtrailError, match=f"holds {len(raw) - 1} bytes, its header promises {len(raw)}"):
        load_volume([tmp_path / "a.nii"])


def test_an_axis_without_voxels_and_foreign_units_are_refused(tmp_path: Path) -> None:
    for name, position, value in (("empty", 42, b"\0\0"), ("metres", 123, b"\x01")):
        raw = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).to_bytes())
        raw[position : position + len(value)] = value
        (tmp_path / f"{name}.nii").write_bytes(raw)
    with pytest.raises(SegtrailError, match=r"shape is \(0, 4, 4\)"):
        load_volume([tmp_path / "empty.nii"])
    with pytest.raises(SegtrailError, match="in metres, expected mm"):
        load_volume([tmp_path / "metres.nii"])
