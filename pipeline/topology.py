"""Depth of a U-Net from its patch: how often, and along which axes, it halves the grid.

Source: Isensee et al., nnU-Net (Nature Methods 18, 2021), supplementary network topology rules.
"""

from __future__ import annotations

import numpy as np

Triple = tuple[int, int, int]
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

SMALLEST_FEATURE_EDGE = 4  # voxels of an axis at the deepest stage


def divisible(patch: tuple[int, ...], spacing: tuple[float, float, float]) -> Triple:
    """Rounds a patch up until every stage halves it without a rest.

    Args:
        patch: Voxels along X, Y, Z.
        spacing: mm along X, Y, Z.
    """
    strides, _ = pooling((patch[0], patch[1], patch[2]), spacing)
    factor = np.prod(strides, axis=0)
    x, y, z = (int(-(-size // f) * f) for size, f in zip(patch, factor, strict=True))
    return x, y, z


def pooling(
    patch: Triple, spacing: tuple[float, float, float]
) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """Chooses strides and kernels of the stages of a U-Net.

    An axis is halved while it has at least twice 4 voxels and its spacing is within a factor of 2 of the
    finest axis that can still be halved. Its kernel is 1 until its spacing is within that factor, then 3.

    Args:
        patch: Voxels along X, Y, Z.
        spacing: mm along X, Y, Z.

    Returns:
        Strides and kernels, one a stage; the first stride is (1, 1, 1).
    """
    sizes, spacings = np.array(patch, dtype=float), np.array(spacing, dtype=float)
    strides: list[Triple] = [(1, 1, 1)]
    kernels: list[Triple] = [_kernel(sizes, spacings)]
    while True:
        large = sizes >= 2 * SMALLEST_FEATURE_EDGE
        if not large.any():
            break
        halved = large & (spacings / spacings[large].min() < 2)
        if halved.sum() == 1 and (sizes > 1).sum() > 1 and sizes[halved].item() < 3 * SMALLEST_FEATURE_EDGE:
            break
        sizes = np.where(halved, np.ceil(sizes / 2), sizes)
        spacings = np.where(halved, spacings * 2, spacings)
        x, y, z = np.where(halved, 2, 1).tolist()
        strides.append((x, y, z))
        kernels.append(_wider(kernels[-1], _kernel(sizes, spacings)))
    return tuple(strides), tuple(kernels)


def _kernel(sizes: Floats, spacings: Floats) -> Triple:
    finest = spacings[sizes > 1].min() if (sizes > 1).any() else spacings.min()
    x, y, z = np.where((spacings / finest < 2) & (sizes > 1), 3, 1).tolist()
    return x, y, z


def _wider(before: Triple, now: Triple) -> Triple:
    """Once 3, an axis keeps its kernel of 3 at the deeper stages."""
    x, y, z = (max(a, b) for a, b in zip(before, now, strict=True))
    return x, y, z
