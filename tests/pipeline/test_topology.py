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


def test_prostate_like_voxels_wait_along_z() -> None:
    """nnunetv2 2.8.1, get_pool_and_conv_props([3.6, 0.6, 0.6], [20, 320, 256], 4, 999999), axes turned."""
    strides, kernels = pooling((256, 320, 20), (0.6, 0.6, 3.6))
    assert strides == (
        (1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1), (2, 2, 1),
    )  # fmt: skip
    assert kernels == ((3, 3, 1), (3, 3, 1), *[(3, 3, 3)] * 5)


def test_a_short_patch_of_coarse_voxels_has_a_wide_kernel_at_the_deepest_stage() -> None:
    """By hand: 16 x 16 is halved twice to 4 x 4, Z (7 voxels) never; 6 mm are coarse beside 1 and 2 mm."""
    strides, kernels = pooling((16, 16, 7), (1.0, 1.0, 6.0))
    assert strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1))
    assert kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3))


def test_a_kernel_of_three_stays_three_at_the_deeper_stages() -> None:
    for patch in ((64, 64, 28), (96, 96, 14), (192, 192, 4)):
        _, kernels = pooling(patch, (1.0, 1.0, 1.0))
        assert set(kernels) == {(3, 3, 3)}
