"""What the second network of a cascade is shown is changed as it says, and as often."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.previous_augmentation import (
    OPERATIONS,
    Morphology,
    Removal,
    apply_changes,
    change_mask,
    draw_changes,
)

BY_BALL = {
    "erode": ndimage.binary_erosion,
    "dilate": ndimage.binary_dilation,
    "open": ndimage.binary_opening,
    "close": ndimage.binary_closing,
}


def make_ball(radius: int) -> NDArray[np.bool_]:
    steps = np.indices((2 * radius + 1,) * 3) - radius
    ball: NDArray[np.bool_] = (steps**2).sum(axis=0) <= radius**2
    return ball


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("radius", [1, 3, 8])
def test_morphology_is_that_of_a_ball(operation: str, radius: int) -> None:
    """scipy's, with the neighbours spelled out; far from the border, where the two mean different things."""
    blobs = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(24, 22, 20)), 2) > 0.08
    blobs[3:22, 2:21, 1:20] = True
    mask = np.pad(blobs, 9)
    expected = BY_BALL[operation](mask, structure=make_ball(radius))
    assert 0 < expected.sum() != mask.sum()
    np.testing.assert_array_equal(change_mask(mask, operation, radius), expected)


def test_an_organ_that_leaves_the_patch_is_not_eroded_at_its_border() -> None:
    mask = np.zeros((9, 5, 5), np.bool_)
    mask[:6] = True
    assert change_mask(mask, "erode", 2).nonzero()[0].max() == 3
    assert change_mask(mask, "erode", 2)[0].all()
    assert change_mask(np.ones((3, 3, 3), np.bool_), "erode", 2).all()


def test_a_class_that_grows_takes_from_others_and_one_that_shrinks_leaves_background() -> None:
    previous = np.zeros((9, 1, 1), np.uint8)
    previous[2:4], previous[4:7] = 1, 2
    found = apply_changes(previous, [Morphology(1, "dilate", 1)])
    assert found.ravel().tolist() == [0, 1, 1, 1, 1, 2, 2, 0, 0]
    found = apply_changes(previous, [Morphology(2, "erode", 1), Morphology(3, "dilate", 2)])
    assert found.ravel().tolist() == [0, 0, 1, 1, 0, 2, 0, 0, 0]
    assert previous.ravel().tolist() == [0, 0, 1, 1, 2, 2, 2, 0, 0]


@pytest.mark.parametrize(("place", "left"), [(0.0, [0, 1]), (0.49, [0, 1]), (0.5, [1, 0]), (0.99, [1, 0])])
def test_one_small_component_is_removed(place: float, left: list[int]) -> None:
    """Of three, one of 27 x 20 x 1 = 540 voxels is more than 15 % of the 3200."""
    previous = np.zeros((40, 20, 4), np.uint8)
    previous[1, 1, 1] = previous[4, 4, 3] = 1
    previous[10:37, :, 1] = 1
    previous[0, 0, 3] = 2
    found = apply_changes(previous, [Removal(1, place)])
    assert [found[1, 1, 1], found[4, 4, 3]] == left
    assert (found[10:37, :, 1] == 1).all()
    assert found[0, 0, 3] == 2


def test_changes_are_as_frequent_as_nnunets() -> None:
    generator = np.random.default_rng(0)
    draws = [draw_changes(4, (64, 96, 70), generator) for _ in range(4000)]
    reshaped = [[c for c in draw if isinstance(c, Morphology)] for draw in draws]
    removed = [[c for c in draw if isinstance(c, Removal)] for draw in draws]
    # Four standard deviations of a share of 4000.
    assert np.mean([bool(d) for d in reshaped]) == pytest.approx(0.4, abs=0.031)
    assert np.mean([bool(d) for d in removed]) == pytest.approx(0.2, abs=0.026)
    for found in (*reshaped, *removed):
        assert sorted(change.label for change in found) in ([], [1, 2, 3])
    assert {change.radius for draw in reshaped for change in draw} == set(range(1, 9))
    small = [draw_changes(2, (64, 64, 20), generator) for _ in range(100)]
    assert {change.radius for draw in small for change in draw if isinstance(change, Morphology)} == {1, 2}
    assert {change.operation for draw in reshaped for change in draw} == set(OPERATIONS)
    assert draw_changes(4, (64,) * 3, np.random.default_rng(7)) == draw_changes(
        4, (64,) * 3, np.random.default_rng(7)
    )
