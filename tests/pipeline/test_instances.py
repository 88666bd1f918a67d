"""Instance maps of a few voxels, counted by hand; many objects at once; the phantom's own maps."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from pipeline.config import load_params
from pipeline.instances import (
    TOUCHING,
    ReferenceObject,
    describe_objects,
    find_boxes,
    find_instances,
    instance_labels,
)
from pipeline.phantom import make_case


def test_corners_connect_and_classes_do_not() -> None:
    """Class 1: two voxels that share a corner, and one apart; class 4: one that touches the first."""
    label = np.zeros((5, 5, 5), np.uint8)
    label[0, 0, 0] = label[1, 1, 1] = label[4, 4, 4] = 1
    label[0, 0, 1] = 4
    ids = find_instances(label)
    assert ids.dtype == np.uint8
    assert ids[0, 0, 0] == ids[1, 1, 1] == 1
    assert (ids[4, 4, 4], ids[0, 0, 1]) == (2, 3)
    assert np.count_nonzero(ids) == 4


def test_an_image_is_a_volume_of_one_slice() -> None:
    label = np.zeros((4, 4, 1), np.uint8)
    label[0, 0] = label[1, 1] = label[3, 0] = 1
    ids = find_instances(label)
    assert (ids[0, 0, 0], ids[1, 1, 0], ids.max()) == (1, 1, 2)


@pytest.mark.parametrize(("count", "dtype"), [(255, np.uint8), (256, np.uint16), (65536, np.uint32)])
def test_ids_take_the_smallest_type_that_holds_them(count: int, dtype: type) -> None:
    label = np.zeros((2 * count, 1, 1), np.uint8)
    label[::2] = 1
    ids = find_instances(label)
    assert ids.dtype == dtype
    assert ids[::2, 0, 0].tolist() == list(range(1, count + 1))


def test_nothing_gives_nothing() -> None:
    empty = np.zeros((3, 3, 3), np.uint8)
    assert find_instances(empty).tolist() == empty.tolist()
    assert instance_labels(empty, empty).tolist() == [0]
    assert describe_objects(empty, empty, np.eye(4)) == []
    assert find_boxes(empty) == []


def test_the_most_frequent_foreground_value_is_the_class() -> None:
    """Object 1: 2, 2, 7; object 2: background and 7; id 3 is not used; object 4: background alone."""
    ids = np.array([1, 1, 1, 2, 2, 2, 4, 0]).reshape(8, 1, 1)
    label = np.array([2, 2, 7, 0, 0, 7, 0, 7], np.uint8).reshape(8, 1, 1)
    assert instance_labels(ids, label).tolist() == [0, 2, 7, 0, 0]


def test_of_two_equally_frequent_values_the_smaller_counts() -> None:
    ids = np.ones((4, 1, 1), np.uint8)
    assert instance_labels(ids, np.array([5, 3, 3, 5]).reshape(4, 1, 1)).tolist() == [0, 3]


def test_a_cuboid_by_hand() -> None:
    """2 x 3 x 1 voxels of 2 x 1 x 5 mm from (4, 0, 2): 60 mm3, X runs to the left from 100 mm."""
    ids, label = np.zeros((8, 6, 4), np.uint16), np.zeros((8, 6, 4), np.uint8)
    ids[4:6, 0:3, 2:3], label[4:6, 0:3, 2:3] = 7, 3
    affine = np.diag([-2.0, 1, 5, 1])
    affine[0, 3] = 100
    (found,) = describe_objects(ids, label, affine)
    assert found == ReferenceObject(
        id=7,
        label=3,
        voxels=6,
        centroid_mm=(100 - 2 * 4.5, 1.0, 10.0),
        diameter_mm=pytest.approx(4.8572, abs=1e-4),  # the cube root of 6 * 60 / pi
        extent_voxels=(2, 3, 1),
        box_voxels=((4, 0, 2), (6, 3, 3)),
    )


def test_in_an_image_the_diameter_is_that_of_a_disc() -> None:
    """12 pixels of 0.5 x 0.5 mm: 3 mm2, whatever the slice is said to be thick."""
    ids = np.zeros((6, 6, 1), np.uint8)
    ids[1:5, 1:4] = 1
    (found,) = describe_objects(ids, ids, np.diag([0.5, 0.5, 9, 1]))
    assert found.diameter_mm == pytest.approx(1.95441, abs=1e-5)  # 2 * sqrt(3 / pi)


def test_a_ball_has_its_own_diameter() -> None:
    grid = np.indices((41, 41, 41)) - 20
    ball = ((grid**2).sum(axis=0) <= 16**2).astype(np.uint8)
    (found,) = describe_objects(ball, ball, np.diag([0.5, 0.5, 0.5, 1]))
    assert found.diameter_mm == pytest.approx(16, rel=0.01)
    assert found.centroid_mm == (10, 10, 10)
    assert found.extent_voxels == (33, 33, 33)


@pytest.mark.parametrize("order", ["C", "F"])
def test_many_objects_agree_with_scipy_and_take_little_time(order: str) -> None:
    generator = np.random.default_rng(0)
    label = (ndimage.gaussian_filter(generator.normal(size=(260, 260, 40)), 2) > 0.05).astype(np.uint8)
    pieces, count = ndimage.label(label, TOUCHING)
    assert count > 500
    ids, label = np.asarray(pieces, order=order), np.asarray(label, order=order)
    began = time.perf_counter()
    found = describe_objects(ids, label, np.diag([1.0, 2, 3, 1]))
    assert time.perf_counter() - began < 2  # a loop over objects and all voxels would take minutes
    centres = np.array(ndimage.center_of_mass(label, ids, range(1, count + 1))) * [1, 2, 3]
    assert [o.id for o in found] == list(range(1, count + 1))
    assert [o.voxels for o in found] == np.bincount(pieces.ravel())[1:].tolist()
    np.testing.assert_allclose([o.centroid_mm for o in found], centres)


def test_the_phantom_holds_the_nodules_that_were_drawn() -> None:
    """Ids fall with volume; the nodules lie apart, so that components are the same objects."""
    case = make_case(load_params().phantom, 3)
    ids, label = case.instances.array, case.label_map.array
    objects = describe_objects(ids, label, case.volume.affine)
    assert [o.voxels for o in objects] == sorted((o.voxels for o in objects), reverse=True)
    assert {o.label for o in objects} == {1}
    components = describe_objects(find_instances(label), label, case.volume.affine)
    assert sorted(o.box_voxels for o in components) == sorted(o.box_voxels for o in objects)
    drawn = sorted(n.diameter_mm for n in case.nodules)[-len(objects) :]
    assert sorted(o.diameter_mm for o in objects) == pytest.approx(drawn, rel=0.35)
