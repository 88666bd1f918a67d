"""Detections of slices joined into objects, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.slice_joining import FoundObject, SliceObject, join_slices, overlap, paint_objects


def box(
    slice_index: int, start: tuple[int, int], size: tuple[int, int], score: float = 0.9, label: int = 1
) -> SliceObject:
    """A full rectangle."""
    return SliceObject(slice_index, start, np.ones(size, bool), score, label)


def slices_of(found: FoundObject) -> list[int]:
    return [part.slice_index for part in found.parts]


def ball(radius: int) -> list[SliceObject]:
    """Discs of a ball of voxels around (10, 10, radius)."""
    x, y, z = np.mgrid[:21, :21, : 2 * radius + 1]
    inside = (x - 10) ** 2 + (y - 10) ** 2 + (z - radius) ** 2 <= radius**2
    discs = []
    for index in range(2 * radius + 1):
        (low_x, low_y), (high_x, high_y) = (
            edge(np.argwhere(inside[..., index]), axis=0) for edge in (np.min, np.max)
        )
        mask = inside[low_x : high_x + 1, low_y : high_y + 1, index]
        discs.append(SliceObject(index, (int(low_x), int(low_y)), mask, 0.8, 1))
    return discs


def test_overlap_by_hand() -> None:
    # 3 x 4 at (0, 0) and 2 x 4 at (2, 1): one row of three is shared; 12 + 8 - 3 is all, 8 the smaller.
    assert overlap(box(0, (0, 0), (3, 4)), box(5, (2, 1), (2, 4))) == pytest.approx((3 / 17, 3 / 8))
    assert overlap(box(0, (0, 0), (3, 4)), box(0, (3, 0), (3, 4))) == (0, 0)
    assert overlap(box(0, (4, 4), (2, 2)), box(0, (4, 4), (2, 2))) == (1, 1)
    assert overlap(box(0, (4, 4), (1, 1)), box(0, (3, 3), (3, 3))) == pytest.approx((1 / 9, 1))
    # Boxes that overlap, masks that do not.
    corner = np.array([[True, False], [False, False]])
    other = np.array([[False, True], [True, True]])
    assert overlap(SliceObject(0, (1, 1), corner, 1, 1), SliceObject(1, (1, 1), other, 1, 1)) == (0, 0)


def test_a_ball_of_five_slices_is_one_object() -> None:
    """Its poles are 1 of the 9 voxels beside them: far below the least overlap, yet they lie inside."""
    discs = ball(2)
    assert [disc.area for disc in discs] == [1, 9, 13, 9, 1]
    (found,) = join_slices(discs, 0.3)
    assert slices_of(found) == [0, 1, 2, 3, 4]
    assert found.score == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("diameter", "spacing"),
    [(4, (1, 1, 1)), (12, (1, 1, 1)), (24, (1, 1, 1)), (8, (2, 2, 3)), (24, (2, 2, 3))],
)
def test_balls_wherever_they_lie_on_the_grid_stay_whole(
    diameter: float, spacing: tuple[float, float, float]
) -> None:
    generator = np.random.default_rng(int(diameter))
    for _ in range(20):
        centre = np.array([20, 20, 16]) + generator.uniform(0, 1, 3)
        places = np.stack(np.mgrid[:40, :40, :32], axis=-1) - centre
        inside = ((places * spacing) ** 2).sum(axis=-1) <= (diameter / 2) ** 2
        discs = [SliceObject(z, (0, 0), inside[..., z], 0.9, 1) for z in range(32) if inside[..., z].any()]
        assert len(join_slices(discs, 0.3)) == 1


def test_the_order_of_detections_does_not_matter() -> None:
    discs = ball(2)
    (found,) = join_slices(discs[::-1], 0.1)
    assert slices_of(found) == [0, 1, 2, 3, 4]


def test_two_tubes_that_touch_stay_two() -> None:
    # Side by side and leaning by one voxel a slice: 12 voxels of the own, 3 of the other's predecessor.
    left = [box(z, (5 + z, 5), (5, 3), 0.9) for z in range(4)]
    right = [box(z, (10 + z, 5), (5, 3), 0.7) for z in range(4)]
    found = join_slices([one for pair in zip(right, left, strict=True) for one in pair], 0.1)
    assert [one.parts[0].start[0] for one in found] == [5, 10]
    assert [slices_of(one) for one in found] == [[0, 1, 2, 3]] * 2
    assert [[part.start[0] for part in one.parts] for one in found] == [[5, 6, 7, 8], [10, 11, 12, 13]]


def test_the_best_continuation_wins() -> None:
    # Both parts of the second slice overlap the first one enough; only one may continue it.
    first = box(0, (0, 0), (10, 10))
    near, far = box(1, (1, 0), (10, 10), 0.5), box(1, (4, 0), (10, 10), 0.9)
    found = join_slices([first, far, near], 0.2)
    assert sorted(slices_of(one) for one in found) == [[0, 1], [1]]
    assert next(one for one in found if len(one.parts) == 2).parts[1] is near


def test_a_gap_of_one_slice_is_bridged_and_of_two_is_not() -> None:
    one_missing = [box(z, (3, 3), (4, 4)) for z in (0, 1, 3, 4)]
    assert [slices_of(one) for one in join_slices(one_missing, 0.3)] == [[0, 1, 2, 3, 4]]
    two_missing = [box(z, (3, 3), (4, 4)) for z in (0, 1, 4, 5)]
    assert [slices_of(one) for one in join_slices(two_missing, 0.3)] == [[0, 1], [4, 5]]


def test_a_bridged_slice_gets_what_its_neighbours_share() -> None:
    """4 x 4 at (3, 3) and at (5, 3): two columns of four are common."""
    (found,) = join_slices([box(0, (3, 3), (4, 4), 0.8), box(2, (5, 3), (4, 4), 0.6)], 0.3)
    middle = found.parts[1]
    assert (middle.slice_index, middle.start, middle.mask.shape, middle.area) == (1, (5, 3), (2, 4), 8)
    assert middle.score == pytest.approx(0.7)


def test_an_object_elsewhere_does_not_close_a_gap() -> None:
    # Slice 2 is not empty, and slices 2 and 3 are missed in the first object.
    parts = [box(z, (3, 3), (4, 4)) for z in (0, 1, 4)] + [box(z, (20, 20), (4, 4)) for z in range(5)]
    assert sorted(slices_of(one) for one in join_slices(parts, 0.3)) == [[0, 1], [0, 1, 2, 3, 4], [4]]


def test_doubtful_slices_at_the_ends_are_cut_and_those_between_stay() -> None:
    scores = [0.1, 0.2, 0.8, 0.1, 0.7, 0.23, 0.25]  # the limit is 0.24
    (found,) = join_slices([box(z, (0, 0), (3, 3), score) for z, score in enumerate(scores)], 0.3)
    assert [part.score for part in found.parts] == [0.8, 0.1, 0.7, 0.23, 0.25]


def test_two_classes_are_never_joined() -> None:
    found = join_slices([box(0, (0, 0), (4, 4), label=1), box(1, (0, 0), (4, 4), label=2)], 0.0)
    assert sorted((one.label, slices_of(one)) for one in found) == [(1, [0]), (2, [1])]


def test_what_does_not_touch_is_not_joined_even_at_link_zero() -> None:
    assert len(join_slices([box(0, (0, 0), (4, 4)), box(1, (9, 9), (4, 4))], 0.0)) == 2


def test_two_detections_of_one_slice_are_never_joined() -> None:
    assert len(join_slices([box(0, (0, 0), (4, 4)), box(0, (0, 1), (4, 4))], 0.1)) == 2


def test_the_score_is_the_mean_of_the_slices_by_area() -> None:
    # 16 voxels of 0.9 and 4 of 0.4.
    found = FoundObject(1, [box(0, (0, 0), (4, 4), 0.9), box(1, (1, 1), (2, 2), 0.4)])
    assert found.score == pytest.approx((16 * 0.9 + 4 * 0.4) / 20)


def test_objects_come_by_falling_score() -> None:
    found = join_slices([box(0, (10 * i, 0), (4, 4), score) for i, score in enumerate((0.3, 0.9, 0.6))], 0.3)
    assert [one.score for one in found] == [0.9, 0.6, 0.3]


def test_nothing_found() -> None:
    assert join_slices([], 0.3) == []
    ids, kept = paint_objects([], (4, 5, 2), 0.5)
    assert ids.shape == (4, 5, 2)
    assert not ids.any()
    assert kept == []


def test_the_surest_object_is_painted_first() -> None:
    # Rows 0 to 3 and rows 2 to 5 of five columns; half of the second is taken, which is not more than half.
    sure, doubtful = (
        FoundObject(1, [box(0, (0, 0), (4, 5), 0.9)]),
        FoundObject(2, [box(0, (2, 0), (4, 5), 0.5)]),
    )
    ids, kept = paint_objects([sure, doubtful], (8, 5, 1), 0.5)
    assert kept == [sure, doubtful]
    assert ids[:, 0, 0].tolist() == [1, 1, 1, 1, 2, 2, 0, 0]
    assert (ids == ids[:, :1]).all()


def test_a_duplicate_is_left_out_and_takes_no_id() -> None:
    first, other = (
        FoundObject(1, [box(0, (0, 0), (4, 4), 0.9)]),
        FoundObject(1, [box(0, (5, 0), (2, 2), 0.4)]),
    )
    double = FoundObject(1, [box(0, (1, 0), (4, 4), 0.8)])  # 12 of its 16 voxels are taken
    ids, kept = paint_objects([first, double, other], (8, 8, 1), 0.5)
    assert kept == [first, other]
    assert np.unique(ids).tolist() == [0, 1, 2]
    assert not ids[4].any()
    # Kept where duplicates may overlap that much; one that is covered whole never is.
    assert paint_objects([first, double, other], (8, 8, 1), 0.75)[1] == [first, double, other]
    assert paint_objects([first, FoundObject(1, [box(0, (1, 1), (2, 2), 0.8)])], (8, 8, 1), 1.0)[1] == [first]


def test_a_duplicate_is_judged_over_all_its_slices() -> None:
    # Taken are 16 of 16 voxels in slice 0, but none of 2 x 16 in slices 1 and 2.
    first = FoundObject(1, [box(0, (0, 0), (4, 4), 0.9)])
    longer = FoundObject(1, [box(z, (0, 0), (4, 4), 0.8) for z in range(3)])
    ids, kept = paint_objects([first, longer], (4, 4, 3), 0.5)
    assert kept == [first, longer]
    assert [np.unique(ids[..., z]).tolist() for z in range(3)] == [[1], [2], [2]]


def test_only_the_mask_is_painted() -> None:
    mask = np.array([[True, False, False], [True, True, True]])
    ids, _ = paint_objects([FoundObject(1, [SliceObject(1, (2, 1), mask, 0.9, 1)])], (5, 5, 2), 0.5)
    assert np.argwhere(ids).tolist() == [[2, 1, 1], [3, 1, 1], [3, 2, 1], [3, 3, 1]]
