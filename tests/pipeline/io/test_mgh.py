"""MGH and MGZ against nibabel: frames are channels, every cut is seen."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.freesurfer.mghformat import MGHImage

from pipeline.errors import ImageFileError
from pipeline.io.mgh import read_mgh

AFFINE = np.array([[-1.5, 0, 0, 30], [0, 0, 2, -10], [0, -1, 0, 5], [0, 0, 0, 1]])


def write(path: Path, voxels: np.ndarray) -> bytes:
    nibabel.save(MGHImage(voxels, AFFINE), path)
    return path.read_bytes()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
@pytest.mark.parametrize("suffix", ["mgh", "mgz"])
def test_what_nibabel_wrote(tmp_path: Path, dtype: str, suffix: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 200, (3, 4, 5)).astype(dtype)
    write(tmp_path / f"a.{suffix}", voxels)
    stored = read_mgh(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(stored.array, voxels[np.newaxis])
    assert stored.array.dtype == dtype and stored.array.dtype.isnative
    np.testing.assert_allclose(stored.affine, AFFINE, atol=1e-5)
    assert stored.remarks == ()


def test_frames_are_channels(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    write(tmp_path / "a.mgz", voxels)
    np.testing.assert_array_equal(read_mgh(tmp_path / "a.mgz").array, np.moveaxis(voxels, -1, 0))


def test_a_header_without_directions_is_told(tmp_path: Path) -> None:
    raw = bytearray(write(tmp_path / "a.mgh", np.ones((3, 4, 5), np.uint8)))
    raw[28:30] = b"\0\0"  # goodRASFlag, behind 7 integers
    (tmp_path / "a.mgh").write_bytes(raw)
    stored = read_mgh(tmp_path / "a.mgh")
    assert [remark.code for remark in stored.remarks] == ["orientation_unknown"]
    assert nibabel.aff2axcodes(stored.affine) == ("L", "I", "A")


def test_every_cut_is_refused_and_no_flipped_bit_changes_a_voxel_unseen(tmp_path: Path) -> None:
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    plain = write(tmp_path / "whole.mgh", voxels)
    for length in range(284 + 2 * voxels.size):  # scan parameters follow the voxels
        (tmp_path / "a.mgh").write_bytes(plain[:length])
        with pytest.raises(ImageFileError):
            read_mgh(tmp_path / "a.mgh")
    packed = gzip.compress(plain, mtime=0)
    path = tmp_path / "a.mgz"
    for length in range(len(packed)):
        path.write_bytes(packed[:length])
        with pytest.raises(ImageFileError):
            read_mgh(path)
    for place in range(10, len(packed)):
        path.write_bytes(packed[:place] + bytes([packed[place] ^ 0x10]) + packed[place + 1 :])
        try:
            assert np.array_equal(read_mgh(path).array[0], voxels)
        except ImageFileError:
            pass


def test_damaged_headers(tmp_path: Path) -> None:
    raw = write(tmp_path / "a.mgh", np.ones((3, 4, 5), np.uint8))
    for name, place, value, code in (
        ("version", 3, b"\2", "unreadable"),
        ("size", 4, b"\0\0\0\0", "shape_invalid"),
        ("type", 20, b"\0\0\0\x63", "unreadable"),
        ("delta", 30, b"\0\0\0\0", "geometry_invalid"),
    ):
        path = tmp_path / f"{name}.mgh"
        path.write_bytes(raw[:place] + value + raw[place + len(value) :])
        with pytest.raises(ImageFileError) as caught:
            read_mgh(path)
        assert caught.value.code == code, name
