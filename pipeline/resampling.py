"""Resampling to another number of voxels over the same extent, slab by slab, so that no second copy is made.

Voxel edges stay in place: the centre of new voxel j lies at (j + 0.5) * old / new - 0.5 old voxels, which is
PyTorch's `align_corners=False`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

Shape = tuple[int, int, int]
Box = tuple[slice, slice, slice]
Planes = Callable[[NDArray[np.intp]], NDArray[np.float32]]

Method = Literal["linear", "cubic"]

SLAB_VOXELS = 1 << 23  # of one slab, 32 MB in float32
KEYS = -0.75  # slope of the cubic kernel at the neighbouring voxel; PyTorch's bicubic has no other


def neighbours(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """The two old voxels around each new centre along one axis.

    Returns:
        Lower and upper index (new,), and the share of the upper one (new,), 0 to 1; without a share both are
        the same voxel.
    """
    centres = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    lower = centres.astype(np.intp)
    share = centres - lower
    return lower, np.where(share > 0, lower + 1, lower), share


def nearest(old: int, new: int) -> NDArray[np.intp]:
    """The old voxel in which the centre of each new voxel lies, along one axis; (new,)."""
    return np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)


def resample_nearest(array: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Takes the voxel in which the centre of each new voxel lies.

    Args:
        array: (X, Y, Z).
        shape: New X, Y, Z.
    """
    return array[np.ix_(*(nearest(old, new) for old, new in zip(array.shape, shape, strict=True)))]


def slowest_first(array: NDArray[Any]) -> list[int]:
    """Axes by falling stride: planes of the first lie together in memory, whatever the order of the file."""
    return sorted(range(array.ndim), key=lambda axis: (-abs(array.strides[axis]), axis))


def slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cuts the first axis so that no part is large."""
    step = max(1, SLAB_VOXELS // math.prod(shape[1:]))
    return (slice(start, start + step) for start in range(0, shape[0], step))


def cubic_neighbours(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The four old voxels around each new centre along one axis, and their weights in cubic convolution.

    Source: Keys 1981, doi:10.1109/TASSP.1981.1163711, with PyTorch's a = -0.75; of the values in use it loses
    least on real images (docs/explanation/preprocessing.md).

    Returns:
        Indices (4, new), held at the edges, and weights (4, new), which add up to 1.
    """
    centres = (np.arange(new) + 0.5) * (old / new) - 0.5
    below = np.floor(centres)
    steps = np.arange(-1, 3)[:, None]
    distance = np.abs(centres - below - steps)
    inner = ((KEYS + 2) * distance - (KEYS + 3)) * distance**2 + 1
    outer = ((distance - 5) * distance + 8) * distance * KEYS - 4 * KEYS
    weights = np.where(distance <= 1, inner, outer).astype(np.float32)
    return np.clip(below + steps, 0, old - 1).astype(np.intp), weights


def resample_planes(
    planes: Planes,
    shape: tuple[int, ...],
    target: torch.Tensor,
    method: Method = "linear",
    limits: tuple[float, float] | None = None,
) -> None:
    """Separable resampling of planes that are made when they are needed, into an array that is there.

    Where an axis keeps its voxels nothing is weighed: values stay as they are, bit by bit.

    Args:
        planes: Gives (n, A, B) float32 for n ascending indices along the first axis; the array is used up.
        shape: Voxels of the source, planes first.
        target: (P, A', B') of any float type; is filled.
        method: "linear" or "cubic" (convolution), along all three axes.
        limits: Lowest and highest value of what is resampled; cubic convolution overshoots at edges.
    """
    count, *size = target.shape
    resampled = [count, *size] != list(shape)
    if method == "cubic":
        near, weights = cubic_neighbours(shape[0], count)
    else:
        lower, upper, share = neighbours(shape[0], count)
        near, weights = np.stack([lower, upper]), np.stack([1 - share, share]).astype(np.float32)
    if count == shape[0]:
        near, weights = np.arange(count)[None], np.ones((1, count), np.float32)
    step = max(1, SLAB_VOXELS // max(shape[1] * shape[2], size[0] * size[1]))
    for start in range(0, count, step):
        part = slice(start, start + step)
        wanted = np.unique(near[:, part])
        slab = torch.from_numpy(planes(wanted))
        if list(slab.shape[1:]) != size:
            mode = "bicubic" if method == "cubic" else "bilinear"
            slab = functional.interpolate(slab[None], size=size, mode=mode, align_corners=False)[0]
        if count != shape[0]:
            slab = _mix(slab, np.searchsorted(wanted, near[:, part]), weights[:, part])
        if limits is not None and resampled:
            slab.clamp_(*limits)
        target[part].copy_(slab)


def _mix(slab: torch.Tensor, near: NDArray[np.intp], weights: NDArray[np.float32]) -> torch.Tensor:
    """Sums of weighted planes: `near` and `weights` (taps, P)."""
    taps = [torch.from_numpy(picks) for picks in near]
    shares = [torch.from_numpy(share)[:, None, None] for share in np.ascontiguousarray(weights)]
    if len(taps) == 2:
        return torch.lerp(slab[taps[0]], slab[taps[1]], shares[1])
    mixed = slab[taps[0]].mul_(shares[0])
    for tap, share in zip(taps[1:], shares[1:], strict=True):
        mixed.addcmul_(slab[tap], share)
    return mixed


def resample_indices(indices: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """Resamples each index of a label map as a linear membership; the largest wins, of equal ones the smallest.

    Only where the eight old voxels around a new one differ is there anything to weigh.

    Args:
        indices: (X, Y, Z).
        shape: New X, Y, Z.
    """
    if indices.shape == shape:
        return indices.copy(order="C")
    order = slowest_first(indices)
    source, result = indices.transpose(order), np.zeros(shape, np.uint8)
    target = torch.from_numpy(result.transpose(order))
    axes = [neighbours(old, new) for old, new in zip(source.shape, target.shape, strict=True)]
    step = max(1, SLAB_VOXELS // max(source[0].size, target[0].numel()))
    for start in range(0, target.shape[0], step):
        part = slice(start, start + step)
        lower, upper, share = (values[part] for values in axes[0])
        slab = source[lower[0] : upper[-1] + 1]
        box = _foreground_box(slab)
        if box is None:
            continue
        # New voxels that a foreground voxel reaches.
        reach = [
            slice(int(np.searchsorted(high, edge.start)), int(np.searchsorted(low, edge.stop)))
            for (low, high, _), edge in zip(axes[1:], box[1:], strict=True)
        ]
        inside = [tuple(values[cut] for values in axis) for axis, cut in zip(axes[1:], reach, strict=True)]
        weighed = _weigh(slab, [(lower - lower[0], upper - lower[0], share), *inside])
        target[part, reach[0], reach[1]].copy_(torch.from_numpy(weighed))
    return result


def _foreground_box(labels: NDArray[np.uint8]) -> Box | None:
    """Smallest box around all that is not 0."""
    found = ndimage.find_objects((labels > 0).view(np.uint8), max_label=1)[0]
    return None if found is None else (found[0], found[1], found[2])


def _weigh(source: NDArray[np.uint8], axes: list[tuple[NDArray[Any], ...]]) -> NDArray[np.uint8]:
    """The winner at each new voxel; `axes` holds lower and upper index and the upper one's share, axis by axis."""
    smallest = largest = source
    for axis, (lower, upper, _) in enumerate(axes):
        smallest = np.minimum(smallest.take(lower, axis), smallest.take(upper, axis))
        largest = np.maximum(largest.take(lower, axis), largest.take(upper, axis))
    places = np.nonzero(smallest != largest)
    corners, weights = [], []
    for choice in np.ndindex(2, 2, 2):
        corners.append(source[tuple(axes[a][choice[a]][places[a]] for a in range(3))])
        shares = (axes[a][2][places[a]] for a in range(3))
        weights.append(np.prod([w if up else 1 - w for w, up in zip(shares, choice, strict=True)], axis=0))
    highest, winner = np.zeros(len(places[0])), np.zeros(len(places[0]), np.uint8)
    for index in np.unique(np.array(corners)):
        share = np.where(np.array(corners) == index, weights, 0).sum(axis=0)
        better = share > highest + 1e-9  # sums of the same weights in another order are equal
        winner[better], highest[better] = index, share[better]
    smallest[places] = winner
    return smallest
