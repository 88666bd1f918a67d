"""Resampling in slabs against PyTorch's on the whole, by hand, and against a plain argmax of memberships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn.functional import interpolate

from pipeline import resampling
from pipeline.resampling import (
    cubic_neighbours,
    neighbours,
    resample_indices,
    resample_planes,
    slowest_first,
)

SHAPES = st.tuples(*[st.integers(1, 12)] * 3)


def test_neighbours_by_hand() -> None:
    """3 voxels to 6: centres at -0.25 (held at the edge), 0.25, 0.75, 1.25, 1.75, 2.25 (held)."""
    lower, upper, share = neighbours(3, 6)
    assert lower.tolist() == [0, 0, 0, 1, 1, 2]
    assert upper.tolist() == [0, 1, 1, 2, 2, 2]
    assert share == pytest.approx([0, 0.25, 0.75, 0.25, 0.75, 0])


def test_planes_that_lie_together_come_first() -> None:
    array = np.zeros((4, 5, 6))
    assert slowest_first(array) == [0, 1, 2]
    assert slowest_first(np.asfortranarray(array)) == [2, 1, 0]
    assert slowest_first(array.transpose(1, 2, 0)[::-1]) == [2, 0, 1]


@settings(max_examples=60, deadline=None)
@given(SHAPES, SHAPES, st.integers(1, 300))
def test_slabs_are_trilinear_resampling(
    old: tuple[int, int, int], new: tuple[int, int, int], slab: int
) -> None:
    array = np.random.default_rng(sum(old)).normal(size=old).astype(np.float32)
    found = torch.empty(new)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "SLAB_VOXELS", slab)
        resample_planes(lambda wanted: array[wanted], old, found)
    expected = interpolate(torch.from_numpy(array)[None, None], new, mode="trilinear")[0, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_cubic_weights_by_hand() -> None:
    """2 voxels to 4: the centres -0.25, 0.25, 0.75, 1.25 lie a quarter beside a voxel."""
    near, weights = cubic_neighbours(2, 4)
    assert near.T.tolist() == [[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]]
    # a = -0.75 at distances 1.25, 0.25, 0.75, 1.75: -27/256, 225/256, 67/256, -9/256.
    at_quarter = np.array([-27, 225, 67, -9]) / 256
    assert weights[:, 1] == pytest.approx(at_quarter)
    assert weights[:, 2] == pytest.approx(at_quarter[::-1])


@settings(max_examples=60, deadline=None)
@given(SHAPES, SHAPES, st.integers(1, 300))
def test_slabs_are_cubic_convolution(old: tuple[int, int, int], new: tuple[int, int, int], slab: int) -> None:
    array = np.random.default_rng(sum(old)).normal(size=old).astype(np.float32)
    found = torch.empty(new)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "SLAB_VOXELS", slab)
        resample_planes(lambda wanted: array[wanted], old, found, "cubic")
    planes = interpolate(torch.from_numpy(array)[None], new[1:], mode="bicubic")[0]
    expected = interpolate(planes.permute(1, 0, 2)[None], (new[0], new[2]), mode="bicubic")[0].permute(
        1, 0, 2
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_an_unchanged_grid_is_no_work_and_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    monkeypatch.setattr(resampling.functional, "interpolate", pytest.fail)
    monkeypatch.setattr(resampling, "_mix", pytest.fail)
    array = np.random.default_rng(0).normal(0, 1e3, (5, 6, 7)).astype(np.float32)
    found = torch.empty(array.shape)
    resample_planes(lambda wanted: array[wanted], array.shape, found, method, limits=(-1.0, 1.0))
    np.testing.assert_array_equal(found.numpy(), array)


@pytest.mark.parametrize(
    ("old", "new"), [((1, 6, 7), (1, 9, 5)), ((6, 1, 7), (4, 1, 9)), ((6, 7, 1), (6, 9, 1))]
)
def test_axes_that_stay_keep_their_planes_apart(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    """Each plane alone gives what the whole gives."""
    array = np.random.default_rng(1).normal(size=old).astype(np.float32)
    whole = torch.empty(new)
    resample_planes(lambda wanted: array[wanted], old, whole, "cubic")
    still = next(axis for axis in range(3) if old[axis] == new[axis])
    for index in range(old[still]):
        one = torch.empty([1 if axis == still else n for axis, n in enumerate(new)])
        piece = array.take([index], still)
        resample_planes(lambda wanted, piece=piece: piece[wanted], piece.shape, one, "cubic")  # type: ignore[misc]
        torch.testing.assert_close(whole.select(still, index), one.select(still, 0), atol=1e-6, rtol=0)


def test_limits_hold_back_the_overshoot_at_an_edge() -> None:
    step = np.repeat(np.float32([0, 1]), 4).reshape(8, 1, 1)
    free, held = torch.empty(16, 1, 1), torch.empty(16, 1, 1)
    resample_planes(lambda wanted: step[wanted], step.shape, free, "cubic")
    resample_planes(lambda wanted: step[wanted], step.shape, held, "cubic", limits=(0.0, 1.0))
    assert free.min() < -0.03 and free.max() > 1.03
    torch.testing.assert_close(held, free.clamp(0, 1))


@pytest.mark.parametrize("factor", [1.5, 0.75])
def test_cubic_convolution_is_near_the_spline_of_order_3_on_a_real_image(
    shared_data: Path, factor: float
) -> None:
    image = nibabel.load(shared_data / "Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz")
    array = np.asarray(image.dataobj, np.float32)
    new = tuple(round(n / factor) for n in array.shape)
    factors = [n / o for n, o in zip(new, array.shape, strict=True)]
    spline = ndimage.zoom(array, factors, order=3, mode="nearest", grid_mode=True)
    apart = {}
    for method in ("linear", "cubic"):
        found = torch.empty(new)
        resample_planes(lambda wanted: array[wanted], array.shape, found, method)  # type: ignore[arg-type]
        apart[method] = float(np.abs(found.numpy() - spline).mean() / array.std())
    assert apart["cubic"] < 0.02 < 0.04 < apart["linear"]


@settings(max_examples=60, deadline=None)
@given(SHAPES, SHAPES, st.integers(1, 300), st.integers(0, 1000))
def test_labels_are_the_largest_membership(
    old: tuple[int, int, int], new: tuple[int, int, int], slab: int, seed: int
) -> None:
    """Where PyTorch's memberships say clearly which is largest; elsewhere it is one of the largest."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(4, old, p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
    labels = np.asfortranarray(labels) if seed % 2 else labels[::-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "SLAB_VOXELS", slab)
        found = resample_indices(labels, new)
    members = torch.from_numpy(np.stack([(labels == index) for index in range(4)]).astype(np.float32))
    shares = interpolate(members[None], new, mode="trilinear")[0].numpy()
    won = np.take_along_axis(shares, found[None].astype(np.intp), axis=0)[0]
    assert (won >= shares.max(axis=0) - 1e-5).all()


def test_of_equal_memberships_the_smallest_index_wins() -> None:
    line = np.array([0, 2, 2, 1, 1, 3], np.uint8).reshape(6, 1, 1)
    assert resample_indices(line, (3, 1, 1)).ravel().tolist() == [0, 1, 1]
