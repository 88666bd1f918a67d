"""NIfTI files on the way in, against nibabel and files that break loaders."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import ImageFileError, SegtrailError
from pipeline.io.images import find_images, load_volume, read_image_file
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
        ("missing_raw.mhd", "not NIfTI"),
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


def write_pair(path: Path, kind: Any = nibabel.Nifti1Pair) -> NDArray[Any]:
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    nibabel.save(kind(voxels, np.diag([-2.0, 3, 4, 1])), path)
    return voxels


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_either_half_of_a_pair_stands_for_both(tmp_path: Path, kind: Any, gz: str) -> None:
    voxels = write_pair(tmp_path / f"a.img{gz}", kind)
    digests = set()
    for name in (f"a.hdr{gz}", f"a.img{gz}"):
        stored, digest = read_image_file(tmp_path / name)
        np.testing.assert_array_equal(stored.array[0], voxels)
        np.testing.assert_array_equal(stored.affine, np.diag([-2.0, 3, 4, 1]))
        digests.add(digest)
    assert len(digests) == 1  # header first, whichever half is named
    assert list(find_images(tmp_path)) == [tmp_path / f"a.hdr{gz}"]


def test_a_pair_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path / "a.img")
    data = (tmp_path / "a.img").read_bytes()
    (tmp_path / "a.img").write_bytes(data[:-1])
    with pytest.raises(ImageFileError, match="holds 119 bytes, its header promises 120") as caught:
        load_volume([tmp_path / "a.hdr"])
    assert (caught.value.code, caught.value.where) == ("truncated", str(tmp_path / "a.img"))
    (tmp_path / "a.img").unlink()
    with pytest.raises(ImageFileError, match="no such file") as caught:
        load_volume([tmp_path / "a.hdr"])
    assert (caught.value.code, caught.value.where) == ("missing", str(tmp_path / "a.img"))
    write_pair(tmp_path / "b.img")
    (tmp_path / "b.hdr").unlink()
    with pytest.raises(ImageFileError, match="no such file") as caught:
        load_volume([tmp_path / "b.img"])
    assert caught.value.where == str(tmp_path / "b.hdr")
    (tmp_path / "c.hdr").write_bytes((tmp_path / "a.hdr").read_bytes())
    (tmp_path / "c.hdr").rename(tmp_path / "c.nii")
    with pytest.raises(ImageFileError, match="one half of a .hdr/.img pair") as caught:
        load_volume([tmp_path / "c.nii"])
    assert caught.value.code == "unreadable"


@pytest.mark.parametrize("order", ["<", ">"])
def test_analyze_is_refused_because_left_and_right_cannot_be_told(tmp_path: Path, order: str) -> None:
    header = nibabel.AnalyzeHeader(endianness=order)
    header.set_data_shape((3, 4, 5))
    header.set_data_dtype(np.int16)
    (tmp_path / "a.hdr").write_bytes(header.binaryblock)
    (tmp_path / "a.img").write_bytes(bytes(120))
    with pytest.raises(ImageFileError, match="Analyze 7.5, which has no orientation") as caught:
        load_volume([tmp_path / "a.hdr"])
    assert caught.value.code == "geometry_invalid"


def test_what_a_header_leaves_open_is_told(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([2.0, 2, 2, 1]))
    for name, sform, qform, pixdim, codes in (
        ("whole", 1, 1, 2, []),
        ("none", 0, 0, 2, ["orientation_unknown"]),
        ("sform", 1, 0, 2, []),
        ("rounded", 1, 0, 2.01, []),
        ("spacing", 1, 0, 3, ["spacing_conflict"]),
        ("unstated", 1, 0, 0, []),
    ):
        header = image.header
        header["sform_code"], header["qform_code"] = sform, qform
        header["pixdim"][1:4] = pixdim
        raw = header.binaryblock + bytes(4) + bytes(60)
        (tmp_path / f"{name}.nii").write_bytes(raw)
        stored, _ = read_image_file(tmp_path / f"{name}.nii")
        assert [remark.code for remark in stored.remarks] == codes, name
        assert not any(remark.fatal for remark in stored.remarks)
