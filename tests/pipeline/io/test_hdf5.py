"""HDF5: named data sets, their axes and geometry, and what HDF5 would fill up without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.errors import ImageFileError
from pipeline.io.hdf5 import read_hdf5
from pipeline.io.image_names import Hdf5Name, file_of, parse_hdf5_name
from pipeline.io.images import load_label_map, load_volume, read_image_file

VOXELS = np.arange(24, dtype=np.int16).reshape(4, 3, 2)  # slices, rows, columns


def write(path: Path, attributes: dict[str, Any] | None = None, **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file.create_dataset(name.replace("__", "/"), data=array).attrs.update(attributes or {})
    return path


def named(path: Path, name: str) -> Path:
    return Path(f"{path}#{name}")


def refuse(path: Path, code: str, said: str) -> None:
    with pytest.raises(ImageFileError, match=said) as caught:
        read_hdf5(path)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("d/a.h5", Hdf5Name(Path("d/a.h5"))),
        ("d/a.H5#image", Hdf5Name(Path("d/a.H5"), "image")),
        ("a.hdf5#scan/t1", Hdf5Name(Path("a.hdf5"), "scan/t1")),
        ("a.b.h5#images[12]", Hdf5Name(Path("a.b.h5"), "images", 12)),
        ("a.h5.nii.gz", None),
        ("a.nii.gz", None),
        ("a.h5#", None),
    ],
)
def test_names(text: str, expected: Hdf5Name | None) -> None:
    assert parse_hdf5_name(Path(text)) == expected


def test_a_file_that_is_named_like_a_data_set_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5#image"
    assert file_of(path) == tmp_path / "a.h5"
    path.touch()
    assert file_of(path) == path


def test_the_last_axis_is_x(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.h5", image=VOXELS, scan__slice=VOXELS[0], channels=np.stack([VOXELS, VOXELS + 100])
    )
    stored = read_hdf5(named(path, "image"))
    assert stored.array.shape == (1, 2, 3, 4)
    assert stored.array[0, 1, 2, 3] == VOXELS[3, 2, 1]
    np.testing.assert_array_equal(stored.array[0], VOXELS.T)
    np.testing.assert_array_equal(stored.affine, np.eye(4))
    assert [remark.code for remark in stored.remarks] == ["spacing_unknown"]
    np.testing.assert_array_equal(read_hdf5(path).array, stored.array)  # the usual name
    np.testing.assert_array_equal(read_hdf5(named(path, "scan/slice")).array[0, :, :, 0], VOXELS[0].T)
    channels = read_hdf5(named(path, "channels")).array
    np.testing.assert_array_equal(channels, [VOXELS.T, VOXELS.T + 100])


def test_one_entry_of_a_stack(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).normal(size=(5, 1, 3, 2))
    path = write(tmp_path / "a.h5", images=stack)
    stored = read_hdf5(named(path, "images[4]"))
    np.testing.assert_array_equal(stored.array[0, :, :, 0], stack[4, 0].T.astype(np.float32))
    refuse(named(path, "images[5]"), "missing", r"no entry 5 in /images, whose shape is \(5, 1, 3, 2\)")


def test_geometry_from_attributes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", {"spacing_mm": (0.5, 0.7, 3.0)}, image=VOXELS)
    stored = read_hdf5(path)
    np.testing.assert_array_equal(np.diag(stored.affine), [0.5, 0.7, 3, 1])
    assert stored.remarks == ()
    affine = np.array([[0, -2, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    np.testing.assert_array_equal(
        read_hdf5(write(tmp_path / "b.h5", {"affine": affine}, x=VOXELS)).affine, affine
    )
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["x"] = VOXELS
        file.attrs["spacing_mm"] = (2, 2, 5)
    np.testing.assert_array_equal(np.diag(read_hdf5(tmp_path / "c.h5").affine), [2, 2, 5, 1])
    for wrong in ((1, 1), (1, 0, 1), (1, 1, np.nan), "fine"):
        path = write(tmp_path / "d.h5", {"spacing_mm": wrong}, image=VOXELS)
        refuse(path, "geometry_invalid", "expected spacing_mm")


def test_the_hash_is_that_of_the_data_set_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", image=VOXELS, label=VOXELS)
    before = read_image_file(named(path, "image"))[1]
    assert before != read_image_file(named(path, "label"))[1]
    with h5py.File(path, "a") as file:
        file["label"][0, 0, 0] = 9
        file["later"] = VOXELS
    assert read_image_file(named(path, "image"))[1] == before
    with h5py.File(path, "a") as file:
        file["image"][0, 0, 0] = 9
    assert read_image_file(named(path, "image"))[1] != before
    other = write(tmp_path / "b.h5", {"spacing_mm": (1, 1, 2)}, image=VOXELS)
    assert read_image_file(other)[1] not in ("", before)


def test_names_that_are_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", t1=VOXELS, t2=VOXELS)
    refuse(path, "missing", "no data set 'image'; it has t1, t2")
    refuse(named(path, "t3"), "missing", "no data set 't3'; it has t1, t2")
    refuse(write(tmp_path / "b.h5"), "missing", "it has none")
    refuse(tmp_path / "none.h5", "missing", "no such file")
    refuse(named(tmp_path / "none.h5", "t1"), "missing", "no such file")


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.h5",
        text=np.array([b"a", b"b"]),
        line=np.arange(3),
        five=np.zeros((1,) * 5),
        none=VOXELS[:0],
    )
    refuse(named(path, "text"), "unreadable", "expected whole numbers or floats")
    for name in ("line", "five", "none"):
        refuse(named(path, name), "shape_invalid", "expected")
    for contents, said in (
        (b"", "empty"),
        (b"version https://git-lfs.github.com", "LFS"),
        (b"x" * 99, "no whole HDF5"),
    ):
        (tmp_path / "b.h5").write_bytes(contents)
        refuse(tmp_path / "b.h5", "unreadable", said)


def test_parts_that_were_never_written_are_not_taken_for_zeros(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("chunked", (4, 3, 2), "i2", chunks=(1, 3, 2))[:3] = VOXELS[:3]
        file.create_dataset("plain", (4, 3, 2), "i2")
    refuse(
        named(tmp_path / "a.h5", "chunked"), "truncated", "only 3 of 4 chunks of /chunked were ever written"
    )
    refuse(named(tmp_path / "a.h5", "plain"), "truncated", "only 0 of 48 bytes")


def test_voxels_in_other_files_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.h5", image=VOXELS)
    layout = h5py.VirtualLayout((4, 3, 2), "i2")
    layout[:] = h5py.VirtualSource(source, "image", (4, 3, 2))
    (tmp_path / "raw.bin").write_bytes(VOXELS.tobytes())
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", (4, 3, 2), "i2", external=[(str(tmp_path / "raw.bin"), 0, 48)])
        file["linked"] = h5py.ExternalLink(str(source), "image")
    for name in ("virtual", "external"):
        refuse(named(tmp_path / "b.h5", name), "unreadable", "takes its voxels from other files")
    refuse(named(tmp_path / "b.h5", "linked"), "missing", "no data set 'linked'")


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (2, 3, 2), "compression": "gzip"}, {"chunks": (2, 3, 2), "fletcher32": True}]
)
def test_no_cut_and_no_damage_of_checked_voxels_is_unseen(tmp_path: Path, options: dict[str, Any]) -> None:
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        if options:
            options = {**options, "chunks": (2, 3, 2)}
        dataset = file.create_dataset("image", data=VOXELS, **options)
        chunks = [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())] if options else []
        places = [(chunk.byte_offset, chunk.size) for chunk in chunks]
    whole = (tmp_path / "whole.h5").read_bytes()
    path = tmp_path / "a.h5"
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageFileError):
            read_hdf5(path)
    for start, size in places:
        for place in range(start, start + size):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
            try:
                assert np.array_equal(read_hdf5(path).array[0], VOXELS.T)
            except ImageFileError as error:
                assert error.code == "corrupt"


def test_hearts_and_lung_patches(shared_data: Path) -> None:
    paths = sorted((shared_data / "acdc_h5").rglob("*.h5"))
    assert len(paths) == 10
    path = paths[0]
    volume, label = load_volume([named(path, "image")]), load_label_map(named(path, "label"))
    with h5py.File(path) as file:
        shape = file["image"].shape
        np.testing.assert_array_equal(volume.array[0], file["image"][()].T)
        np.testing.assert_array_equal(label.array, file["label"][()].T)
    assert volume.array.shape[1:] == label.array.shape == shape[::-1]
    assert np.unique(label.array).tolist() == [0, 1, 2, 3]
    patches = shared_data / "msd_lung_2mm_patches" / "val_patches.h5"
    with_tumour = 0
    for index in range(130):
        label = load_label_map(named(patches, f"labels[{index}]"))
        assert label.array.shape == (48, 48, 1)
        with_tumour += bool(label.array.any())
    assert with_tumour == 111  # from its README
