"""Label maps on the grid of their image, as nibabel and SimpleITK see it."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from pipeline.errors import SegtrailError
from pipeline.io.images import load_label_map, load_volume
from pipeline.io.nifti import save_label_map
from pipeline.volume import LabelMap

GRID_FIELDS = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
SHAPE = (7, 6, 5)


def oblique_affine() -> NDArray[np.float64]:
    """PIR-like axis order, turned by 17 and 9 degrees, 0.7 x 0.9 x 3.1 mm, far from the origin."""
    a, b = np.radians([17, 9])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    order = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ order * [0.7, 0.9, 3.1]
    affine[:3, 3] = [-81.3, 44.7, 103.9]
    return affine


def write_image(path: Path, qform: int = 1, sform: int = 1, array: NDArray[Any] | None = None) -> Path:
    """An oblique image with the given codes, written by nibabel."""
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) if array is None else array
    image = nibabel.Nifti1Image(array, None)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(oblique_affine(), qform)
    image.set_sform(image.get_qform() if qform else oblique_affine(), sform)
    nibabel.save(image, path)
    return path


def some_labels(shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    labels[1, 2, 1], labels[3, 4, 1] = 1, 2
    return labels


def sitk_world(path: Path, index: tuple[int, int, int]) -> NDArray[np.float64]:
    """Where SimpleITK sees a voxel, in RAS+ mm."""
    point = np.array(sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint(index))
    return point * [-1, -1, 1]  # LPS to RAS


def assert_readers_agree(path: Path, expected: NDArray[np.float64], atol: float = 2e-4) -> None:
    """nibabel and SimpleITK place the corners where `expected` does."""
    for index in ((0, 0, 0), (6, 0, 0), (0, 5, 0), (0, 0, 4), (6, 5, 4)):
        wanted = (expected @ [*index, 1])[:3]
        np.testing.assert_allclose((nibabel.load(path).affine @ [*index, 1])[:3], wanted, atol=atol)
        np.testing.assert_allclose(sitk_world(path, index), wanted, atol=atol)


def test_header_of_an_oblique_image_is_kept_field_by_field(tmp_path: Path) -> None:
    source = write_image(tmp_path / "image.nii.gz")
    labels = LabelMap(some_labels(), load_volume([source]).affine)
    save_label_map(labels, tmp_path / "labels.nii.gz", like=source)
    before, after = nibabel.load(source), nibabel.load(tmp_path / "labels.nii.gz")
    assert "".join(nibabel.aff2axcodes(before.affine)) == "PIR"
    for name in GRID_FIELDS:
        np.testing.assert_array_equal(after.header[name], before.header[name], err_msg=name)
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_allclose(after.get_sform(), after.get_qform(), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(after.dataobj), labels.array)
    assert after.get_data_dtype() == np.uint8
    assert_readers_agree(tmp_path / "labels.nii.gz", before.affine)
    itk = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labels.nii.gz")))
    np.testing.assert_array_equal(itk.transpose(2, 1, 0), labels.array)


@pytest.mark.parametrize(("qform", "sform"), [(1, 0), (0, 1), (2, 1), (1, 2), (0, 0)])
def test_affine_survives_whatever_forms_the_source_has(tmp_path: Path, qform: int, sform: int) -> None:
    source = write_image(tmp_path / "image.nii.gz", qform, sform)
    labels = LabelMap(some_labels(), load_volume([source]).affine)
    save_label_map(labels, tmp_path / "labels.nii.gz", like=source)
    before, after = nibabel.load(source), nibabel.load(tmp_path / "labels.nii.gz")
    if (qform, sform) == (0, 0):  # then there is no affine to keep, only a spacing
        np.testing.assert_allclose(after.affine, before.affine, atol=1e-6)
    else:
        np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(after.header.get_zooms(), before.header.get_zooms())
    np.testing.assert_allclose(after.header.get_sform(), after.header.get_qform(), atol=1e-4)
    assert_readers_agree(tmp_path / "labels.nii.gz", before.affine)
    if (qform, sform) != (0, 0):
        for index in ((0, 0, 0), (6, 5, 4)):
            there = sitk_world(tmp_path / "labels.nii.gz", index)
            np.testing.assert_allclose(there, sitk_world(source, index), atol=1e-4)


def test_forms_that_conflict_are_made_equal(shared_data: Path, tmp_path: Path) -> None:
    """The source's forms are 20 mm apart, and nibabel and SimpleITK take different ones."""
    source = shared_data / "loader_oddities" / "derived_files" / "sform_qform_conflict.nii.gz"
    volume = load_volume([source])
    labels = LabelMap(np.zeros(volume.array.shape[1:], np.uint8), volume.affine)
    save_label_map(labels, tmp_path / "a.nii.gz", like=source)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "a.nii.gz").affine, nibabel.load(source).affine)
    assert_readers_agree(tmp_path / "a.nii.gz", volume.affine)


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 5, 2)])
def test_2d_and_4d_sources_give_a_map_of_their_space(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.uint8), np.diag([2.0, 3, 4, 1])), source)
    volume = load_volume([source])
    labels = some_labels((7, 6, 5))[:, :, : volume.array.shape[3]]
    save_label_map(LabelMap(labels, volume.affine), tmp_path / "a.nii.gz", like=source)
    after = nibabel.load(tmp_path / "a.nii.gz")
    assert after.shape == shape[:3]
    np.testing.assert_array_equal(after.affine, nibabel.load(source).affine)


def test_a_nifti2_source_keeps_its_affine(tmp_path: Path) -> None:
    """NIfTI-2 affines are float64; the answer is NIfTI-1 only when nothing is lost by it."""
    for name, affine, kind in (
        ("fine", oblique_affine(), nibabel.Nifti2Image),
        ("plain", np.diag([0.5, 2, 3, 1]), nibabel.Nifti1Image),
    ):
        source = tmp_path / f"{name}.nii.gz"
        image = nibabel.Nifti2Image(np.ones(SHAPE, np.uint8), None)
        image.set_sform(affine, 1)
        nibabel.save(image, source)
        save_label_map(LabelMap(some_labels(), affine), tmp_path / "a.nii.gz", like=source)
        after = nibabel.load(tmp_path / "a.nii.gz")
        assert type(after) is kind
        np.testing.assert_array_equal(after.affine, affine)


def test_without_a_source_both_forms_are_written(tmp_path: Path) -> None:
    save_label_map(LabelMap(some_labels(), oblique_affine()), tmp_path / "a.nii.gz")
    after = nibabel.load(tmp_path / "a.nii.gz")
    assert after.header["qform_code"] == after.header["sform_code"] == 1
    np.testing.assert_allclose(after.get_qform(), oblique_affine(), atol=1e-4)
    assert_readers_agree(tmp_path / "a.nii.gz", oblique_affine())


def test_a_sheared_affine_gets_no_qform_that_would_lie(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.3
    save_label_map(LabelMap(some_labels(), affine), tmp_path / "a.nii.gz")
    after = nibabel.load(tmp_path / "a.nii.gz")
    assert after.header["qform_code"] == 0
    np.testing.assert_allclose(after.affine, affine, atol=1e-6)


def test_no_name_or_date_of_the_source_is_copied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4))
    image.header["descrip"], image.header["db_name"] = b"Jane Doe", b"1970-01-01"
    nibabel.save(image, tmp_path / "image.nii.gz")
    save_label_map(LabelMap(some_labels(), np.eye(4)), tmp_path / "a.nii.gz", like=tmp_path / "image.nii.gz")
    written = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    assert b"Jane" not in written
    assert b"1970" not in written


def test_equal_maps_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        save_label_map(LabelMap(some_labels(), oblique_affine()), tmp_path / name)
        os.utime(tmp_path / name, (0, 0))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize(("highest", "dtype"), [(255, "uint8"), (256, "uint16"), (70_000, "int32")])
def test_the_smallest_type_that_holds_the_labels(tmp_path: Path, highest: int, dtype: str) -> None:
    labels = some_labels().astype(np.int64)
    labels[0, 0, 0] = highest
    save_label_map(LabelMap(labels, np.eye(4)), tmp_path / "a.nii.gz")
    assert nibabel.load(tmp_path / "a.nii.gz").get_data_dtype() == dtype
    np.testing.assert_array_equal(load_label_map(tmp_path / "a.nii.gz").array, labels)


def test_a_foreign_grid_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    source = write_image(tmp_path / "image.nii.gz")
    moved = nibabel.load(source).affine.copy()
    moved[0, 3] += 1
    for labels in (LabelMap(some_labels(), moved), LabelMap(some_labels((7, 6, 4)), moved)):
        with pytest.raises(SegtrailError, match="expected that grid"):
            save_label_map(labels, tmp_path / "a.nii.gz", like=source)
    assert not (tmp_path / "a.nii.gz").exists()


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SegtrailError, match="No space left"):
        save_label_map(LabelMap(some_labels(), np.eye(4)), path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert path.read_bytes() == b"old"
