"""NRRD against SimpleITK and headers written by hand: every cut and every flipped bit of the voxels is seen."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pipeline.errors import ImageFileError
from pipeline.io.images import load_label_map, read_image_file
from pipeline.io.nrrd import read_nrrd
from pipeline.volume import axis_codes, corner_distance_mm

VOXELS = np.arange(24, dtype="<i2").reshape(2, 3, 4)  # X, Y, Z
HEADER = (
    "NRRD0004\n# a remark\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 3 4\n"
    "space directions: (2,0,0) (0,3,0) (0,0,4)\nkinds: domain domain domain\nendian: little\n"
    "encoding: raw\nspace origin: (10,-20,30)\nMy key:=my value\n"
)


def write(path: Path, header: str = HEADER, data: bytes = VOXELS.tobytes(order="F")) -> Path:
    path.write_bytes(header.encode() + b"\n" + data)
    return path


def refuse(path: Path, code: str, said: str) -> None:
    with pytest.raises(ImageFileError, match=said) as caught:
        read_nrrd(path)
    assert caught.value.code == code


def affine_of(image: sitk.Image) -> np.ndarray:
    """LPS to RAS by hand."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


def test_real_files_read_as_simpleitk_reads_them(shared_data: Path) -> None:
    paths = sorted(shared_data.rglob("*.nrrd"))
    paths = [path for path in paths if path.stat().st_size < 4_000_000]
    assert len(paths) >= 6
    for path in paths:
        expected = sitk.ReadImage(path)
        stored = read_nrrd(path)
        np.testing.assert_array_equal(stored.array[0], sitk.GetArrayFromImage(expected).T)
        assert corner_distance_mm(stored.array.shape, stored.affine, affine_of(expected)) < 1e-6
        assert stored.remarks == ()
    brain = load_label_map(shared_data / "radiomics_nrrd" / "brain1_label.nrrd").array
    assert brain.shape == (256, 256, 25)  # from its README
    assert np.unique(brain).tolist() == [0, 1]


def test_a_header_by_hand(tmp_path: Path) -> None:
    stored = read_nrrd(write(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(stored.array[0], VOXELS)
    assert stored.array.dtype == np.int16
    assert stored.array.flags.writeable
    expected = [[-2, 0, 0, -10], [0, -3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]
    np.testing.assert_array_equal(stored.affine, expected)
    ras = write(tmp_path / "b.nrrd", HEADER.replace("left-posterior-superior", "RAS"))
    np.testing.assert_array_equal(read_nrrd(ras).affine, [[2, 0, 0, 10], [0, 3, 0, -20], *expected[2:]])
    las = write(tmp_path / "c.nrrd", HEADER.replace("left-posterior", "left-anterior"))
    assert axis_codes(read_nrrd(las).affine) == "LAS"


@pytest.mark.parametrize("encoding", ["gzip", "gz", "bzip2", "raw"])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_encodings_and_byte_orders(tmp_path: Path, encoding: str, endian: str) -> None:
    data = VOXELS.astype(">i2" if endian == "big" else "<i2").tobytes(order="F")
    data = {"g": gzip.compress, "b": bz2.compress, "r": bytes}[encoding[0]](data)
    header = HEADER.replace("raw", encoding).replace("little", endian).replace("\n", "\r\n")
    stored = read_nrrd(write(tmp_path / "a.nrrd", header + "\r", data))
    np.testing.assert_array_equal(stored.array[0], VOXELS)
    assert stored.array.dtype.isnative


def test_a_header_with_its_voxels_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"first line\nxx" + VOXELS.tobytes(order="F"))
    header = write(tmp_path / "a.nhdr", HEADER + "data file: a.raw\nline skip: 1\nbyte skip: 2\n", b"")
    stored, digest = read_image_file(header)
    np.testing.assert_array_equal(stored.array[0], VOXELS)
    last = write(tmp_path / "b.nhdr", HEADER + "datafile: a.raw\nbyteskip: -1\n", b"")
    np.testing.assert_array_equal(read_nrrd(last).array[0], VOXELS)
    (tmp_path / "a.raw").write_bytes(b"first line\nxy" + VOXELS.tobytes(order="F"))
    assert read_image_file(header)[1] != digest  # the data file counts
    refuse(write(tmp_path / "c.nhdr", HEADER + "data file: LIST\n"), "unreadable", "several files")
    refuse(write(tmp_path / "d.nhdr", HEADER + "data file: b.raw\n"), "missing", "'b.raw' is missing")


@pytest.mark.parametrize(
    ("kinds", "directions"),
    [
        ("vector domain domain domain", "none (2,0,0) (0,3,0) (0,0,4)"),
        ("domain domain domain list", "(2,0,0) (0,3,0) (0,0,4) none"),
    ],
)
def test_a_list_axis_is_that_of_the_channels(tmp_path: Path, kinds: str, directions: str) -> None:
    first = kinds.startswith("vector")
    voxels = np.stack([VOXELS, VOXELS + 100], axis=0 if first else -1)
    header = HEADER.replace("dimension: 3", "dimension: 4").replace("domain domain domain", kinds)
    header = header.replace("(2,0,0) (0,3,0) (0,0,4)", directions)
    header = header.replace("2 3 4", "2 2 3 4" if first else "2 3 4 2")
    stored = read_nrrd(write(tmp_path / "a.nrrd", header, voxels.tobytes(order="F")))
    np.testing.assert_array_equal(stored.array, [VOXELS, VOXELS + 100])
    np.testing.assert_array_equal(np.diag(stored.affine), [-2, -3, 4, 1])


def test_a_vector_image_of_simpleitk(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(4, 3, 2, 5)).astype(np.float32)  # Z, Y, X, C
    image = sitk.GetImageFromArray(pixels, isVector=True)
    image.SetSpacing((0.5, 0.7, 3.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, tmp_path / "a.nrrd", useCompression=True)
    stored = read_nrrd(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(stored.array, pixels.T)
    np.testing.assert_allclose(stored.affine, affine_of(image), atol=1e-12)


def test_two_axes_are_one_slice(tmp_path: Path) -> None:
    header = HEADER.replace("dimension: 3", "dimension: 2").replace("2 3 4", "2 3")
    header = header.replace(" (0,0,4)", "").replace("domain domain domain", "domain domain")
    stored = read_nrrd(write(tmp_path / "a.nrrd", header, VOXELS[:, :, 0].tobytes(order="F")))
    np.testing.assert_array_equal(stored.array[0, :, :, 0], VOXELS[:, :, 0])
    np.testing.assert_array_equal(np.diag(stored.affine), [-2, -3, 1, 1])


@pytest.mark.parametrize("space", ["", "space: scanner-xyz\n", "space: 3D-right-handed\n"])
def test_a_space_without_left_and_right_is_told(tmp_path: Path, space: str) -> None:
    header = HEADER.replace("space: left-posterior-superior\n", space)
    stored = read_nrrd(write(tmp_path / "a.nrrd", header))
    assert [remark.code for remark in stored.remarks] == ["orientation_unknown"]
    assert axis_codes(stored.affine) == "LPS"


def test_spacings_alone(tmp_path: Path) -> None:
    lines = [line for line in HEADER.splitlines(keepends=True) if not line.startswith("space")]
    stored = read_nrrd(write(tmp_path / "a.nrrd", "".join(lines) + "spacings: 1 2.5 3\n"))
    np.testing.assert_array_equal(np.diag(stored.affine), [-1, -2.5, 3, 1])
    refuse(write(tmp_path / "b.nrrd", "".join(lines)), "geometry_invalid", "no voxel size")


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("type: short", "type: block", "unreadable", "of type 'block'"),
        ("endian: little\n", "", "unreadable", "endian is ''"),
        ("encoding: raw", "encoding: hex", "unreadable", "stored as 'hex'"),
        ("sizes: 2 3 4", "sizes: 2 3", "shape_invalid", "sizes are '2 3'"),
        ("sizes: 2 3 4", "sizes: 2 3 0", "shape_invalid", "numbers from 1 on"),
        ("sizes: 2 3 4", "sizes: 2 3 5", "truncated", "48 bytes of voxels, the header promises 60"),
        ("sizes: 2 3 4", "sizes: 2 3 3", "corrupt", "48 bytes of voxels, the header promises 36"),
        ("(0,0,4)", "(0,3,0)", "geometry_invalid", "map the grid to no space"),
        ("(0,0,4)", "(0,0,nan)", "geometry_invalid", "map the grid to no space"),
        ("(0,0,4)", "(0,0,x)", "geometry_invalid", "'x' stands where"),
        ("(0,0,4)", "", "geometry_invalid", "expected one for each of 3 axes"),
        ("(0,0,4)", "none", "shape_invalid", ""),
        ("encoding: raw", 'encoding: raw\nspace units: "um" "um" "um"', "geometry_invalid", "'um', expected mm"),
        ("dimension: 3\n", "", "unreadable", "lacks dimension"),
        ("kinds: domain", "kinds domain", "unreadable", "the header has the line"),
        ("NRRD0004", "NRRX", "unreadable", "not NRRD"),
    ],
)  # fmt: skip
def test_damaged_headers(tmp_path: Path, old: str, new: str, code: str, said: str) -> None:
    assert old in HEADER
    path = write(tmp_path / "a.nrrd", HEADER.replace(old, new))
    if new == "none":  # two axes in space and one of channels: legal, and what it says
        assert read_nrrd(path).array.shape == (4, 2, 3, 1)
    else:
        refuse(path, code, said)


@pytest.mark.parametrize("encoding", ["gzip", "bzip2", "raw"])
def test_every_cut_and_every_flipped_bit_of_the_voxels_is_seen(tmp_path: Path, encoding: str) -> None:
    data = {"g": gzip.compress, "b": bz2.compress, "r": bytes}[encoding[0]](VOXELS.tobytes(order="F"))
    header = HEADER.replace("raw", encoding).encode() + b"\n"
    path = tmp_path / "a.nrrd"
    for length in range(len(header) + len(data)):
        path.write_bytes((header + data)[:length])
        with pytest.raises(ImageFileError):
            read_nrrd(path)
    if encoding == "raw":
        return  # nothing tells of a flipped bit there
    refused = 0
    for place in range(len(data)):
        for bit in (0, 5):
            path.write_bytes(header + data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            try:
                assert np.array_equal(read_nrrd(path).array[0], VOXELS)
            except ImageFileError:
                refused += 1
    assert refused >= 0.8 * 2 * len(data)  # the name and the time in a gzip header carry nothing


def test_what_lies_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"")
    refuse(tmp_path / "a.nrrd", "unreadable", "empty")
    (tmp_path / "a.nrrd").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refuse(tmp_path / "a.nrrd", "unreadable", "Git LFS")
    refuse(tmp_path / "none.nrrd", "missing", "no such file")
