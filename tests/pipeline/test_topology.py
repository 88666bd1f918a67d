"""Depth of the network against nnU-Net's published plans and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.topology import divisible, pooling


def test_hippocampus_has_the_published_four_stages() -> None:
    # nnU-Net's plan of MSD Task04: median 36 x 50 x 35 voxels of 1 mm, patch 40 x 56 x 40, three poolings.
    assert divisible((36, 50, 35), (1.0, 1.0, 1.0)) == (40, 56, 40)
    strides, kernels = pooling((40, 56, 40), (1.0, 1.0, 1.0))
    assert strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert set(kernels) == {(3, 3, 3)}


def test_a_coarse_axis_waits_until_the_others_have_caught_up() -> None:
    strides, kernels = pooling((64, 64, 16), (1.0, 1.0, 4.0))
    # 1 mm against 4 mm: X and Y are halved twice before Z (4 / 4 mm) takes part.
    assert strides[:4] == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert kernels[0] == (3, 3, 1)
    assert kernels[2] == (3, 3, 3)


def test_a_single_slice_is_never_halved_along_z() -> None:
    strides, kernels = pooling((64, 64, 1), (1.0, 1.0, 5.0))
    assert all(stride[2] == 1 for stride in strides)
    assert all(kernel[2] == 1 for kernel in kernels)
    assert len(strides) == 5


@given(st.tuples(*[st.integers(1, 160)] * 3), st.tuples(*[st.floats(0.3, 6.0, allow_nan=False)] * 3))
def test_a_divisible_patch_is_halved_without_rest(
    patch: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    fitted = divisible(patch, spacing)
    strides, _ = pooling(fitted, spacing)
    assert all(size % factor == 0 for size, factor in zip(fitted, np.prod(strides, axis=0), strict=True))
    assert all(new >= old for new, old in zip(fitted, patch, strict=True))


@pytest.mark.parametrize("patch", [(4, 4, 4), (1, 1, 1), (7, 7, 7)])
def test_tiny_patches_have_one_stage(patch: tuple[int, int, int]) -> None:
    assert pooling(patch, (1.0, 1.0, 1.0))[0] == ((1, 1, 1),)


def test_a_kernel_of_three_stays_three_at_the_deeper_stages() -> None:
    for patch in ((64, 64, 28), (96, 96, 14), (192, 192, 4)):
        _, kernels = pooling(patch, (1.0, 1.0, 1.0))
        assert set(kernels) == {(3, 3, 3)}
