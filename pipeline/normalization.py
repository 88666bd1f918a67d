"""The intensities of a channel on a common scale, slab by slab."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.plan import ChannelNormalization
from pipeline.resampling import slabs, slowest_first


def with_own_scale(
    channel: NDArray[Any], how: ChannelNormalization, mask: NDArray[np.bool_] | None = None
) -> ChannelNormalization:
    """Completes "zscore" with the mean and standard deviation of a case; other schemes are complete.

    Args:
        channel: (X, Y, Z) in the unit of the image.
        how: The plan's entry of the channel.
        mask: (X, Y, Z), which voxels count; all without.
    """
    if how.scheme != "zscore":
        return how
    order = slowest_first(channel)
    planes, inside = channel.transpose(order), None if mask is None else mask.transpose(order)

    def parts() -> Iterator[NDArray[Any]]:
        for part in slabs(planes.shape):
            yield planes[part] if inside is None else planes[part][inside[part]]

    count = channel.size if inside is None else np.count_nonzero(inside)
    if count == 0:
        return how.model_copy(update={"mean": 0.0, "std": 1.0})
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts()) / count
    squares = sum(float(np.square(part - np.float64(mean)).sum()) for part in parts())
    return how.model_copy(update={"mean": mean, "std": max(math.sqrt(squares / count), 1e-8)})


def normalize(
    values: NDArray[np.float32], how: ChannelNormalization, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Brings values to the common scale, in place: zero mean and unit deviation, or a window to 0 to 1.

    Args:
        values: In the unit of the image.
        how: As `with_own_scale` returns it.
        mask: Same shape; what lies outside becomes 0.
    """
    if how.scheme == "zscore":
        values -= np.float32(how.mean)
        values /= np.float32(how.std)
        if mask is not None:
            values[~mask] = 0
        return values
    np.clip(values, how.low, how.high, out=values)
    offset, scale = (how.mean, how.std) if how.scheme == "ct" else (how.low, how.high - how.low)
    values -= np.float32(offset)
    values /= np.float32(scale)
    return values


def nonzero_mask(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Where any channel is not exactly 0, holes filled: the head in a skull-stripped MR, as nnU-Net has it.

    Args:
        array: (C, X, Y, Z).

    Returns:
        (X, Y, Z), laid out in memory as a channel is.
    """
    mask: NDArray[np.bool_] = array[0] != 0
    for channel in array[1:]:
        mask |= channel != 0
    pieces, count = ndimage.label(~mask)
    faces = (pieces.take(edge, axis) for axis in range(3) for edge in (0, -1))
    outside = np.unique(np.concatenate([face.ravel() for face in faces]))
    if count > np.count_nonzero(outside):
        inside = np.ones(count + 1, bool)
        inside[outside[outside > 0]] = False
        for plane, piece in zip(mask, pieces, strict=True):  # plane by plane: an index takes 8 bytes a voxel
            plane[:] = inside[piece]
    return mask
