"""How images are turned and coloured."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.views import PICTURE, PLANES, grey_window, is_picture, picture_colours
from pipeline.volume import Volume


def test_a_picture_is_a_slice_without_a_place() -> None:
    flat, deep = np.zeros((3, 5, 4, 1)), np.zeros((1, 5, 4, 2))
    assert is_picture(Volume(flat, np.eye(4)))
    assert not is_picture(Volume(deep, np.eye(4)))
    assert not is_picture(Volume(flat, np.diag([0.5, 0.5, 1.0, 1.0])))


def test_a_picture_is_cut_by_row_and_column_and_a_volume_seen_from_the_feet() -> None:
    array = np.arange(6).reshape(3, 2, 1)  # X, Y, Z
    assert PICTURE.cut(array, 0).tolist() == [[0, 2, 4], [1, 3, 5]]
    # Right of the patient at the left, front on top.
    assert PLANES[0].cut(array, 0).tolist() == [[5, 3, 1], [4, 2, 0]]
    assert PICTURE.cut(np.zeros((3, 2, 1, 3)), 0).shape == (2, 3, 3)


@pytest.mark.parametrize(("dtype", "value", "shown"), [("u1", 51, 0.2), ("u2", 200, 1.0), ("f4", 0.5, 1.0)])
def test_colours_run_to_the_full_range_of_eight_bits_else_to_the_largest_value(
    dtype: str, value: float, shown: float
) -> None:
    colours, window = picture_colours(Volume(np.full((3, 2, 2, 1), value, dtype), np.eye(4)))
    assert colours.shape == (2, 2, 1, 3) and window == (0.0, 1.0)
    assert colours.max() == pytest.approx(shown)


def test_one_channel_is_grey() -> None:
    grey, (low, high) = picture_colours(Volume(np.arange(1001.0).reshape(1, 1001, 1, 1), np.eye(4)))
    assert grey.shape == (1001, 1, 1) and (low, high) == (5.0, 995.0)


def test_a_window_is_never_empty() -> None:
    assert grey_window(np.full(4, 7.0)) == (7.0, pytest.approx(7.0, abs=1e-5))
    assert grey_window(np.full(4, np.nan)) == (0.0, 1.0)
    low, high = grey_window(np.full(4, 7.0))
    assert low < high
