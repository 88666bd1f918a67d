"""Depth of a U-Net from its patch: how often, and along which axes, it halves the grid.

Source: the rules of nnU-Net (Isensee et al., Nature Methods 18, 2021, supplement; nnunetv2 2.8.1,
`get_pool_and_conv_props`), worded anew.
"""

from __future__ import annotations

import numpy as np

Triple = tuple[int, int, int]

SMALLEST_FEATURE_EDGE = 4  # voxels of an axis at the deepest stage


def divisible(patch: tuple[int, ...], spacing: tuple[float, float, float]) -> Triple:
    """Rounds a patch up until every stage halves it without a rest.

    Args:
        patch: Voxels along X, Y, Z.
        spacing: mm along X, Y, Z.
    """
    factors = halvings((patch[0], patch[1], patch[2]), spacing)
    x, y, z = (-(-size // f) * f for size, f in zip(patch, factors, strict=True))
    return x, y, z


def halvings(patch: Triple, spacing: tuple[float, float, float]) -> Triple:
    """Factor by which the deepest stage is coarser than the patch, along X, Y, Z."""
    x, y, z = np.prod(pooling(patch, spacing)[0], axis=0).tolist()
    return x, y, z


def pooling(
    patch: Triple, spacing: tuple[float, float, float]
) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """Chooses strides and kernels of the stages of a U-Net.

    An axis is halved while it has at least twice 4 voxels and its spacing is within a factor of 2 of the finest
    axis that can still be halved; the only axis that is left needs three times 4 voxels. Its kernel is 1 until
    its spacing is within that factor of the finest of all axes, then 3; at the deepest stage it is 3. An axis
    of one voxel takes no part: its kernel stays 1.

    Args:
        patch: Voxels along X, Y, Z.
        spacing: mm along X, Y, Z.

    Returns:
        Strides and kernels, one a stage; the first stride is (1, 1, 1).
    """
    sizes, spacings = np.array(patch, dtype=float), np.array(spacing, dtype=float)
    there = sizes > 1
    finest = spacings[there].min() if there.any() else 1.0
    wide = np.zeros(3, dtype=bool)  # which axes have a kernel of 3 by now
    strides: list[Triple] = [(1, 1, 1)]
    kernels: list[Triple] = []
    while True:
        large = sizes >= 2 * SMALLEST_FEATURE_EDGE
        if not large.any():
            break
        halved = large & (spacings / spacings[large].min() < 2)
        if halved.sum() == 1 and sizes[halved].item() < 3 * SMALLEST_FEATURE_EDGE:
            break
        wide |= there & (spacings / finest < 2)
        kernels.append(_triple(np.where(wide, 3, 1)))
        sizes = np.where(halved, np.ceil(sizes / 2), sizes)
        spacings = np.where(halved, spacings * 2, spacings)
        finest = spacings[there].min()
        strides.append(_triple(np.where(halved, 2, 1)))
    kernels.append(_triple(np.where(there, 3, 1)))
    return tuple(strides), tuple(kernels)


def _triple(values: np.ndarray[tuple[int], np.dtype[np.int_]]) -> Triple:
    x, y, z = values.tolist()
    return x, y, z
