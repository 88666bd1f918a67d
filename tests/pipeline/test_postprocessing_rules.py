"""Rules on small maps whose components and holes can be counted by eye, and against scikit-image."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure, morphology

from pipeline.instances import find_instances
from pipeline.postprocessing_rules import FOREGROUND, Kind, Rule, apply_rules, find_holes

Map = NDArray[np.uint8]


def rule(kind: Kind, index: int = 1, minimum_mm3: float = 0.0) -> Rule:
    return Rule(
        kind=kind, index=index, label=f"class{index}" if index else "", minimum_mm3=minimum_mm3, dice_before=0.5,
        dice_after=0.6, classes={}, cases=9, cases_changed=9,
    )  # fmt: skip


@pytest.fixture
def blobs() -> Map:
    """Class 1: 27 and 2 voxels; class 2: 8 voxels that touch the larger one, and 1 alone."""
    found = np.zeros((12, 12, 12), np.uint8)
    found[1:4, 1:4, 1:4] = 1
    found[8, 8, 8:10] = 1
    found[4:6, 1:3, 1:3] = 2
    found[10, 1, 1] = 2
    return found


def counts(label_map: Map) -> list[int]:
    return [int((label_map == index).sum()) for index in (1, 2)]


def test_the_largest_component_of_the_whole_foreground_may_hold_several_classes(blobs: Map) -> None:
    assert counts(apply_rules(blobs, [rule("largest_foreground", FOREGROUND)], 1.0)) == [27, 8]
    assert counts(blobs) == [29, 9]  # the input stays


def test_the_largest_component_of_one_class_leaves_the_others_alone(blobs: Map) -> None:
    assert counts(apply_rules(blobs, [rule("largest_component", 1)], 1.0)) == [27, 9]
    assert counts(apply_rules(blobs, [rule("largest_component", 2)], 1.0)) == [29, 8]


@pytest.mark.parametrize(
    ("minimum", "voxel", "left"),
    [(2.0, 1.0, 29), (2.1, 1.0, 27), (1.0, 0.5, 29), (1.1, 0.5, 27), (14, 0.5, 0)],
)
def test_the_minimum_volume_is_in_mm3(blobs: Map, minimum: float, voxel: float, left: int) -> None:
    assert counts(apply_rules(blobs, [rule("minimum_volume", 1, minimum)], voxel)) == [left, 9]


def test_rules_follow_one_another(blobs: Map) -> None:
    blobs[2, 2, 2] = 0
    both = [rule("largest_component", 1), rule("fill_holes", 1)]
    assert counts(apply_rules(blobs, both, 1.0)) == [27, 9]


def cube_with_hole(edge: int = 7) -> Map:
    found = np.zeros((edge + 2,) * 3, np.uint8)
    found[1:-1, 1:-1, 1:-1] = 1
    found[3:5, 3:5, 3:5] = 0
    return found


def test_a_hole_is_filled_and_one_that_another_class_borders_is_not() -> None:
    closed = cube_with_hole()
    assert counts(apply_rules(closed, [rule("fill_holes", 1)], 1.0)) == [343, 0]
    shared = cube_with_hole()
    shared[5, 3, 3] = 2
    np.testing.assert_array_equal(
        apply_rules(shared, [rule("fill_holes", 1), rule("fill_holes", 2)], 1.0), shared
    )


def test_what_a_face_or_the_edge_of_the_image_opens_is_no_hole() -> None:
    opened = cube_with_hole()
    opened[5:8, 3, 3] = 0  # a tunnel of one voxel to the outside
    at_the_edge = cube_with_hole()[3:]
    for label_map in (opened, at_the_edge):
        np.testing.assert_array_equal(apply_rules(label_map, [rule("fill_holes", 1)], 1.0), label_map)


def test_a_diagonal_gap_does_not_open_a_hole() -> None:
    # Walls hold together by corners, so holes do by faces.
    found = cube_with_hole()
    found[2, 2, 2] = 0  # touches the hole by a corner alone: a hole of its own
    assert sorted(int(hole.sum()) for _, hole in find_holes(found, 1)) == [1, 8]


def test_an_island_in_a_hole_stays_and_joins_what_is_filled() -> None:
    found = cube_with_hole(11)
    found[2:10, 2:10, 2:10] = 0
    found[5:7, 5:7, 5:7] = 1
    filled = apply_rules(found, [rule("fill_holes", 1)], 1.0)
    assert counts(filled) == [1331, 0]
    assert int(find_instances(found).max()) == 2
    assert int(find_instances(filled).max()) == 1


def test_a_single_slice_has_holes_though_its_slice_is_the_edge() -> None:
    ring = np.ones((5, 5, 1), np.uint8)
    ring[2, 2, 0] = 0
    assert int(apply_rules(ring, [rule("fill_holes", 1)], 1.0).sum()) == 25
    # In a volume the same ring is open above.
    assert int(apply_rules(np.pad(ring, ((1, 1), (1, 1), (1, 1))), [rule("fill_holes", 1)], 1.0).sum()) == 24


def test_nothing_stays_nothing() -> None:
    empty = np.zeros((3, 4, 5), np.uint8)
    rules = [
        rule("largest_foreground", 0),
        rule("largest_component"),
        rule("minimum_volume"),
        rule("fill_holes"),
    ]
    assert not apply_rules(empty, rules, 1.0).any()


small_maps = arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(0, 2))
every_rule = st.sampled_from(
    [
        rule("largest_foreground", FOREGROUND),
        *(
            rule(kind, index, 2.5)
            for kind in ("largest_component", "minimum_volume", "fill_holes")
            for index in (1, 2)
        ),  # type: ignore[arg-type]
    ]
)


@settings(deadline=None, max_examples=300)
@given(small_maps, every_rule)
def test_each_rule_applied_twice_is_the_rule_applied_once(label_map: Map, chosen: Rule) -> None:
    once = apply_rules(label_map, [chosen], 1.0)
    np.testing.assert_array_equal(apply_rules(once, [chosen], 1.0), once)


@settings(deadline=None, max_examples=300)
@given(small_maps, st.integers(0, 2))
def test_components_are_those_of_scikit_image(label_map: Map, index: int) -> None:
    mask = label_map > 0 if index == FOREGROUND else label_map == index
    pieces = measure.label(mask, connectivity=3)
    sizes = np.bincount(pieces[pieces > 0])
    largest = (pieces == sizes.argmax()) & mask if len(sizes) else mask
    kind: Kind = "largest_foreground" if index == FOREGROUND else "largest_component"
    kept = apply_rules(label_map, [rule(kind, index)], 1.0)
    changed = label_map if index == FOREGROUND else np.where(label_map == index, label_map, 0)
    assert ((kept > 0) if index == FOREGROUND else kept == index).sum() == (changed[largest] > 0).sum()
    if index != FOREGROUND:
        small = morphology.remove_small_objects(mask, max_size=2, connectivity=3)
        found = apply_rules(label_map, [rule("minimum_volume", index, 2.5)], 1.0)
        np.testing.assert_array_equal(found == index, small)
        np.testing.assert_array_equal(found[~mask], label_map[~mask])


@settings(deadline=None, max_examples=300)
@given(arrays(np.uint8, st.tuples(*[st.integers(2, 6)] * 3), elements=st.integers(0, 1)))
def test_holes_of_one_class_are_those_of_scipy(label_map: Map) -> None:
    # With a single class, a hole is all background that no path by faces joins to the outside of the image.
    # SciPy counts the outside from beyond the edge: background at the edge is open there too.
    expected = ndimage.binary_fill_holes(label_map)
    np.testing.assert_array_equal(apply_rules(label_map, [rule("fill_holes", 1)], 1.0), expected)


def test_memory_beside_the_map_is_that_of_one_set_of_components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.instances.SLAB", 1 << 16)  # as small beside this map as SLAB is beside a CT
    label_map = np.zeros((256, 256, 64), np.uint8, order="F")
    label_map[10:-10, 10:-10, 10:-10] = 1
    label_map[[0, -1], [0, -1], [0, -1]] = 1  # the box of the class is the whole image
    label_map[100:110, 100:110, 30:35] = 0
    rules = [rule("largest_foreground", 0), rule("minimum_volume", 1, 5), rule("fill_holes", 1)]
    tracemalloc.start()
    apply_rules(label_map, rules, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The copy (1 byte), a mask (1, and 1 within SciPy) and the components (4). With class and probability of each
    # voxel (5) that is 12 of the 14 that `inference_memory.OBJECTS` allows.
    assert peak / label_map.size < 7.5
