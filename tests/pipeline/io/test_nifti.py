"""Label maps and volumes, there and back."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from pipeline.errors import SegtrailError
from pipeline.io.images import StoredImage, load_label_map, load_volume, read_image_file, round_labels
from pipeline.io.nifti import save_label_map, save_volume
from pipeline.volume import Volume

SHAPE = (7, 6, 5)


def some_labels(shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    labels[1, 2, 1], labels[3, 4, 1] = 1, 2
    return labels


def test_float_labels_become_integers(tmp_path: Path) -> None:
    labels = some_labels()
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.float64), np.eye(4)), tmp_path / "a.nii.gz")
    read = load_label_map(tmp_path / "a.nii.gz").array
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize("value", [0.5, 1.002, np.nan, np.inf])
def test_labels_that_are_not_whole_numbers_are_refused(tmp_path: Path, value: float) -> None:
    labels = some_labels().astype(np.float32)
    labels[0, 0, 0] = value
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(SegtrailError, match="1 voxels of the label are not whole numbers"):
        load_label_map(tmp_path / "a.nii.gz")


def test_a_scale_factor_that_misses_one_by_a_hair_is_forgiven(shared_data: Path) -> None:
    """The header's slope makes the foreground 0.99999997: `== 1` and `astype(int)` both find none of it."""
    path = shared_data / "loader_oddities" / "real_files" / "mask_int32_slope_not_exactly_one.nii.gz"
    read = load_label_map(path).array
    assert sorted(np.unique(read)) == [0, 1]
    assert read.mean() == pytest.approx(0.121426, abs=1e-6)  # from manifest.csv


def test_noise_of_arithmetic_is_rounded_and_its_size_is_said(shared_data: Path) -> None:
    folder = shared_data / "loader_oddities" / "derived_files"
    expected = np.asarray(nibabel.load(folder / "reference_label.nii.gz").dataobj)
    labels, distance = round_labels(*read_with_path(folder / "label_float_noise.nii.gz"))
    np.testing.assert_array_equal(labels.array, expected)
    assert labels.array.dtype == np.uint8
    assert distance == pytest.approx(1e-4, rel=0.01)  # from manifest.csv
    for name in ("reference_label.nii.gz", "label_float64.nii.gz"):  # whole numbers: nothing to say
        labels, distance = round_labels(*read_with_path(folder / name))
        np.testing.assert_array_equal(labels.array, expected)
        assert distance == 0


def read_with_path(path: Path) -> tuple[StoredImage, Path]:
    return read_image_file(path)[0], path


def test_a_label_map_with_channels_is_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(SegtrailError, match="1 channel, this file has 2"):
        load_label_map(tmp_path / "a.nii.gz")


def test_a_volume_with_channels_comes_back(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    affine = np.diag([-0.7, 0.9, 3.1, 1])
    save_volume(Volume(array, affine), tmp_path / "a.nii.gz")
    assert nibabel.load(tmp_path / "a.nii.gz").shape == (*SHAPE, 2)
    again = load_volume([tmp_path / "a.nii.gz"])
    np.testing.assert_array_equal(again.array, array)
    np.testing.assert_allclose(again.affine, affine, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "spine_instances/semantic/ref.nii.gz",
        "brats2015_2mm/brats_2013_pat0001_1/brats_2013_pat0001_1_seg.nii.gz",
    ],
)
def test_real_label_maps_go_there_and_back(shared_data: Path, tmp_path: Path, name: str) -> None:
    source = shared_data / name
    labels = load_label_map(source)
    save_label_map(labels, tmp_path / "a.nii.gz", like=source)
    before, after = nibabel.load(source), nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
    np.testing.assert_array_equal(after.affine, before.affine)
    itk = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    np.testing.assert_array_equal(itk.transpose(2, 1, 0), labels.array)
