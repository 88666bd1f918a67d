"""What differs between two grids, in the words of the one who has to mend it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.grids import Grid, describe_difference

SHAPE = (11, 21, 31)


def test_the_same_grid_has_no_difference() -> None:
    assert describe_difference(Grid(SHAPE, np.eye(4)), Grid(SHAPE, np.eye(4)), 0.0) == ""


def test_within_the_limit_is_no_difference() -> None:
    moved = np.eye(4)
    moved[0, 3] = 0.009
    assert describe_difference(Grid(SHAPE, np.eye(4)), Grid(SHAPE, moved), 0.01) == ""
    assert describe_difference(Grid(SHAPE, np.eye(4)), Grid(SHAPE, moved), 0.008) != ""


def test_shape_comes_first_and_what_else_differs_is_told_too() -> None:
    text = describe_difference(Grid(SHAPE, np.eye(4)), Grid((11, 21, 30), np.diag([2, 1, 1, 1])), 0.01)
    assert (
        text == "shape is (11, 21, 30), expected (11, 21, 31); spacing is (2, 1, 1) mm, expected (1, 1, 1) mm"
    )
    text = describe_difference(Grid(SHAPE, np.eye(4)), Grid((11, 21, 30), np.eye(4)), 0.01)
    assert text == "shape is (11, 21, 30), expected (11, 21, 31)"


def test_a_moved_origin() -> None:
    moved = np.eye(4)
    moved[:3, 3] = [3, 0, -4]
    text = describe_difference(Grid(SHAPE, np.eye(4)), Grid(SHAPE, moved), 0.01)
    assert text == "origin is moved by (3, 0, -4) mm; corners lie up to 5 mm apart"


def test_another_spacing_counts_at_the_far_corner() -> None:
    """0.1 mm over 30 steps along Z."""
    text = describe_difference(Grid(SHAPE, np.eye(4)), Grid(SHAPE, np.diag([1, 1, 1.1, 1])), 0.01)
    assert text == "spacing is (1, 1, 1.1) mm, expected (1, 1, 1) mm; corners lie up to 3 mm apart"


def test_a_turned_grid() -> None:
    """2 degrees about Z: the corner at (10, 20) moves by 2 sin(1 degree) of its radius."""
    a = np.radians(2)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    text = describe_difference(Grid(SHAPE, np.eye(4)), Grid(SHAPE, turned), 0.01)
    assert "turned by 2 degrees" in text
    assert float(text.split("up to ")[1].split()[0]) == pytest.approx(0.7805, abs=0.001)
    assert "spacing" not in text and "origin" not in text


def test_another_axis_order() -> None:
    flipped = np.diag([-1.0, -1, 1, 1])
    assert "orientation is LPS, expected RAS" in describe_difference(
        Grid(SHAPE, np.eye(4)), Grid(SHAPE, flipped), 0.01
    )
