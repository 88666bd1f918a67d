"""Fingerprints of arrays small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import SegtrailError
from pipeline.fingerprint import Fingerprint, build_fingerprint
from pipeline.volume import LabelMap, Volume

LABELS = {"background": 0, "organ": 1, "lesion": 4}
SHA = "0123456789abcdef" * 4


def build(
    image: np.ndarray,
    label: np.ndarray | None,
    affine: np.ndarray | None = None,
    instances: np.ndarray | None = None,
) -> Fingerprint:
    affine = np.eye(4) if affine is None else affine
    label_map = None if label is None else LabelMap(label, affine)
    return build_fingerprint("case", Volume(image, affine), label_map, LABELS, SHA, instances)


def test_intensities_are_those_of_the_foreground() -> None:
    """Foreground 10, 20, 30, 60; background 1000."""
    image, label = np.full((1, 4, 4, 4), 1000, np.int16), np.zeros((4, 4, 4), np.uint8)
    image[0, 0, 0], label[0, 0] = [10, 20, 30, 60], 1
    (channel,) = build(image, label).intensity
    assert (channel.mean, channel.median, channel.min, channel.max) == (30, 25, 10, 60)
    assert channel.std == pytest.approx(np.sqrt((400 + 100 + 0 + 900) / 4))
    assert channel.samples == (10, 20, 30, 60)
    assert channel.p00_5 == pytest.approx(10 + 0.015 * 10)  # 0.5 % of the way along three steps
    assert channel.p99_5 == pytest.approx(60 - 0.015 * 30)


@pytest.mark.parametrize("label", [None, np.zeros((4, 4, 4), np.uint8)])
def test_without_foreground_all_voxels_count(label: np.ndarray | None) -> None:
    image = np.arange(128, dtype=np.float32).reshape(2, 4, 4, 4)
    first, second = build(image, label).intensity
    assert (first.min, first.max, second.mean) == (0, 63, 95.5)
    assert len(first.samples) == 64


def test_the_non_zero_box_by_hand() -> None:
    """Two voxels at (1, 2, 3) and (2, 2, 5), in different channels: a box of 2 x 1 x 3 in 4 x 5 x 6 voxels."""
    image = np.zeros((2, 4, 5, 6), np.int16)
    image[0, 1, 2, 3], image[1, 2, 2, 5] = -7, 9
    assert build(image, None).nonzero_fraction == pytest.approx(6 / 120)
    assert build(np.zeros((1, 4, 4, 4), np.int16), None).nonzero_fraction == 1
    assert build(np.ones((1, 4, 4, 4), np.int16), None).nonzero_fraction == 1


def test_samples_are_drawn_from_the_hash_alone() -> None:
    image = np.random.default_rng(0).normal(size=(1, 20, 20, 20)).astype(np.float32)
    one, two = build(image, None), build(image.copy(), None)
    assert one == two
    assert len(one.intensity[0].samples) == 1000
    assert list(one.intensity[0].samples) == sorted(one.intensity[0].samples)
    assert set(one.intensity[0].samples) <= {float(v) for v in image.ravel()}
    other = build_fingerprint("case", Volume(image, np.eye(4)), None, LABELS, "f" * 64)
    assert other.intensity[0].samples != one.intensity[0].samples


def test_classes_by_hand() -> None:
    """Organ: a 2x2x2 cube and one voxel apart, voxels of 2 x 3 x 4 mm; no lesion."""
    label = np.zeros((10, 10, 5), np.uint8)
    label[0:2, 4:6, 1:3] = 1
    label[9, 9, 4] = 1
    classes = build(np.ones((1, 10, 10, 5)), label, np.diag([2.0, 3, 4, 1])).classes
    assert set(classes) == {"organ", "lesion"}
    organ, lesion = classes["organ"], classes["lesion"]
    assert (organ.voxels, organ.volume_mm3, organ.components) == (9, 216, 2)
    assert organ.centroid_fraction == pytest.approx((1 / 10, 5 / 10, 2 / 5))
    assert (lesion.voxels, lesion.components, lesion.centroid_fraction) == (0, 0, None)


def test_voxels_that_share_a_corner_are_one_piece() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[1, 1, 1] = label[2, 2, 2] = 4
    assert build(np.ones((1, 4, 4, 4)), label).classes["lesion"].components == 1


def test_objects_without_an_instance_map_are_the_components() -> None:
    """The cube of 2 x 2 x 2 and the voxel of `test_classes_by_hand`."""
    label = np.zeros((10, 10, 5), np.uint8)
    label[0:2, 4:6, 1:3] = 1
    label[9, 9, 4] = 1
    found = build(np.ones((1, 10, 10, 5)), label, np.diag([2.0, 3, 4, 1]))
    assert found.classes["organ"].objects == 2
    assert found.classes["organ"].object_extents_mm == ((4, 6, 8), (2, 3, 4))
    assert found.classes["lesion"].objects == 0
    assert found.classes["lesion"].object_extents_mm == ()
    assert found.objects_per_slice == 1


def test_objects_of_an_instance_map_may_touch() -> None:
    """One component of 5 x 2 x 1 voxels is two objects of 3 and 2; stored with X to the left."""
    label, ids = np.zeros((8, 4, 2), np.uint8), np.zeros((8, 4, 2), np.int16)
    label[1:6, 1:3, 0] = 4
    ids[1:4, 1:3, 0], ids[4:6, 1:3, 0] = 7, 3
    found = build(np.ones((1, 8, 4, 2)), label, np.diag([-0.5, 1, 2, 1]), ids).classes["lesion"]
    assert (found.components, found.objects, found.voxels) == (1, 2, 10)
    assert found.object_extents_mm == ((1, 2, 2), (1.5, 2, 2))  # ids 3 and 7


def test_the_fullest_slice_is_counted_over_all_classes() -> None:
    """Slices 0 to 3 are cut by 1, 3, 2 and 1 objects; an object on background alone is none."""
    label, ids = np.zeros((9, 3, 4), np.uint8), np.zeros((9, 3, 4), np.uint8)
    for number, (x, value, first, last) in enumerate(
        [(0, 1, 0, 1), (2, 4, 1, 2), (4, 1, 1, 3), (8, 0, 1, 1)]
    ):
        label[x, 1, first : last + 1] = value
        ids[x, 1, first : last + 1] = number + 1
    found = build(np.ones((1, 9, 3, 4)), label, instances=ids)
    assert found.objects_per_slice == 3
    assert (found.classes["organ"].objects, found.classes["lesion"].objects) == (2, 1)


def test_without_labels_there_is_no_object() -> None:
    found = build(np.ones((1, 4, 4, 4)), None)
    assert (found.classes, found.objects_per_slice) == ({}, 0)


def test_of_many_objects_two_hundred_are_measured(tmp_path: Path) -> None:
    """Object i of 300 is i + 1 voxels long: the sample names each at most once, in order, by the seed alone."""
    label = np.zeros((600, 301, 1), np.uint8)
    for index in range(300):
        label[2 * index, : index + 1] = 1
    image = np.ones((1, 600, 301, 1), np.float32)
    found = build(image, label)
    assert (found.classes["organ"].objects, found.objects_per_slice) == (300, 300)
    lengths = [y for _, y, _ in found.classes["organ"].object_extents_mm]
    assert len(set(lengths)) == 200
    assert lengths == sorted(lengths)
    assert set(lengths) <= set(range(1, 301))
    assert build(image, label) == found
    other = build_fingerprint("case", Volume(image, np.eye(4)), LabelMap(label, np.eye(4)), LABELS, "f" * 64)
    assert other.classes["organ"].object_extents_mm != found.classes["organ"].object_extents_mm
    found.save(tmp_path / "case.json")
    assert (tmp_path / "case.json").stat().st_size < 12_000


def test_extents_keep_their_digits_on_a_fine_grid() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[1:3, 1, 1] = 1
    found = build(np.ones((1, 4, 4, 4)), label, np.diag([0.0001234567, 1 / 3, 12.5, 1]))
    assert found.classes["organ"].object_extents_mm == ((0.000246913, 0.333333, 12.5),)


def test_orientation_does_not_matter() -> None:
    """The same anatomy stored as RAS and as PSR has one fingerprint."""
    rng = np.random.default_rng(1)
    image, label = rng.normal(size=(1, 5, 6, 7)).astype(np.float32), rng.integers(0, 2, (5, 6, 7))
    affine = np.diag([1.0, 2, 3, 1])
    stored = np.zeros((4, 4))  # stored axes: to the back, to the head, to the right
    stored[1, 0], stored[2, 1], stored[0, 2], stored[3, 3] = -2, 3, 1, 1
    stored[1, 3] = 2 * 5
    turned = build(image.transpose(0, 2, 3, 1)[:, ::-1], label.transpose(1, 2, 0)[::-1], stored)
    assert turned == build(image, label, affine)
    assert turned.shape == (5, 6, 7)
    assert turned.spacing_mm == (1, 2, 3)


def test_copies_have_one_hash_however_they_are_stored() -> None:
    image = np.arange(64).reshape(1, 4, 4, 4)
    hashes = {build(image.astype(dtype), None).image_sha256 for dtype in (np.uint8, np.int16, np.float32)}
    assert len(hashes) == 1
    image[0, 3, 3, 3] += 1
    assert build(image, None).image_sha256 not in hashes


def test_round_trip_and_a_damaged_file(tmp_path: Path) -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[1, 1, 1] = 1
    one = build(np.random.default_rng(0).normal(size=(2, 4, 4, 4)), label)
    one.save(tmp_path / "case.json")
    assert Fingerprint.load(tmp_path / "case.json") == one
    (tmp_path / "case.json").write_text("{}")
    with pytest.raises(SegtrailError, match="dvc repro --force inspect"):
        Fingerprint.load(tmp_path / "case.json")
    with pytest.raises(SegtrailError):
        Fingerprint.load(tmp_path / "none.json")
