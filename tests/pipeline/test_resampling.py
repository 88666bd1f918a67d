"""Resampling in slabs against PyTorch's on the whole, by hand, and against a plain argmax of memberships."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from pipeline import resampling
from pipeline.resampling import neighbours, resample_indices, resample_planes, slowest_first

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
