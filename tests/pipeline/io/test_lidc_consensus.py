"""Contours of squares, filled and compared by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.io.lidc_consensus import Nodule, draw_mark, group_marks
from pipeline.io.lidc_xml import Contour, Mark

SHAPE = (12, 10, 4)


def square(x: int, y: int, size: int, included: bool = True) -> Contour:
    """The edge pixels of a square, once around."""
    last = size - 1
    edge = [(i, 0) for i in range(last)] + [(last, i) for i in range(last)]
    edge += [(last - i, last) for i in range(last)] + [(0, last - i) for i in range(last)]
    return Contour("", 0.0, included, np.array(edge) + (x, y))


def draw(*contours: Contour, slices: tuple[int | None, ...] = (0,)) -> set[tuple[int, ...]]:
    voxels = draw_mark(Mark(0, "n", contours), slices, SHAPE)
    assert (np.diff(voxels) > 0).all()
    return set(zip(*(axis.tolist() for axis in np.unravel_index(voxels, SHAPE)), strict=True))


def block(x: range, y: range, z: int = 0) -> set[tuple[int, ...]]:
    return {(i, j, z) for i in x for j in y}


def test_the_edge_itself_is_not_inside_and_columns_are_x() -> None:
    assert draw(square(3, 1, 5)) == block(range(4, 7), range(2, 5))
    assert draw(square(7, 1, 5)) == block(range(8, 11), range(2, 5))  # columns beyond the number of rows


def test_holes_are_taken_out_of_their_own_slice() -> None:
    outer, hole = square(1, 1, 7), square(2, 2, 4, included=False)
    inner = block(range(3, 5), range(3, 5))
    assert draw(outer, hole, slices=(2, 2)) == block(range(2, 7), range(2, 7), 2) - {
        (x, y, 2) for x, y, _ in inner
    }
    assert draw(outer, hole, slices=(2, 1)) == block(range(2, 7), range(2, 7), 2)


def test_several_outlines_in_a_slice_add_up() -> None:
    assert draw(square(0, 0, 3), square(5, 5, 3), slices=(1, 1)) == {(1, 1, 1), (6, 6, 1)}


def test_what_has_no_inside() -> None:
    point = Contour("", 0.0, True, np.array([[4, 4]]))
    assert draw(point) == set()
    assert draw(square(3, 3, 2)) == set()  # nothing but edge
    assert draw(square(3, 1, 5), slices=(None,)) == set()


def voxels(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_marks_that_share_a_voxel_are_one_nodule_also_through_others() -> None:
    first, far, second, bridge = voxels(1, 2, 3), voxels(50, 51), voxels(5, 6), voxels(3, 4, 5)
    nodules = group_marks([(0, first), (0, far), (1, second), (2, bridge)])
    assert [sorted(n.masks) for n in nodules] == [[0, 1, 2], [0]]
    assert nodules[1].masks[0].tolist() == [50, 51]
    assert len(group_marks([(0, first), (1, voxels(4, 5))])) == 2  # beside each other


def test_two_marks_of_one_reader_that_meet_in_anothers_become_one() -> None:
    (nodule,) = group_marks([(0, voxels(1, 2)), (0, voxels(4, 5)), (1, voxels(2, 3, 4))])
    assert nodule.masks[0].tolist() == [1, 2, 4, 5]
    assert len(nodule.masks) == 2


def test_consensus_and_dice_by_hand() -> None:
    """Dice: {1,2,3}{2,3,4,5}: 4/7; {1,2,3}{3}: 2/4; {2,3,4,5}{3}: 2/5."""
    nodule = Nodule({0: voxels(1, 2, 3), 1: voxels(2, 3, 4, 5), 3: voxels(3)})
    assert nodule.consensus(1).tolist() == [1, 2, 3, 4, 5]
    assert nodule.consensus(2).tolist() == [2, 3]
    assert nodule.consensus(3).tolist() == [3]
    assert nodule.consensus(4).tolist() == []
    assert nodule.agreement == pytest.approx((4 / 7 + 2 / 4 + 2 / 5) / 3)
    assert math.isnan(Nodule({2: voxels(1)}).agreement)
