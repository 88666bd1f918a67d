"""From a raw case to what a network sees: canonical axes, normalised, on the plan's spacing.

Order as in nnU-Net: normalise first, then resample. Training and inference share `prepare_volume`.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.errors import SegtrailError
from pipeline.instances import IntegerMap, find_instances, instance_labels
from pipeline.plan import ChannelNormalization, Plan
from pipeline.volume import Affine, LabelMap, Volume, spacing_mm, to_canonical

LOGGER = logging.getLogger("segtrail")
LARGEST_ID = 65535  # of uint16

Shape = tuple[int, int, int]


def target_shape(shape: tuple[int, ...], spacing: tuple[float, float, float], plan: Plan) -> Shape:
    """Voxels along X, Y, Z (canonical) on the plan's spacing, at least 1 each."""
    x, y, z = (
        max(1, round(n * old / new)) for n, old, new in zip(shape[-3:], spacing, plan.spacing_mm, strict=True)
    )
    return x, y, z


def resample_linear(array: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Trilinear resampling over the same extent (voxel edges stay in place).

    Args:
        array: (C, X, Y, Z) float.
        shape: New X, Y, Z.
    """
    if tuple(array.shape[1:]) == shape:
        return array
    return functional.interpolate(array[None], size=shape, mode="trilinear", align_corners=False)[0]


def normalize(channel: NDArray[np.float32], how: ChannelNormalization) -> NDArray[np.float32]:
    """Brings one channel to the common scale: zero mean and unit deviation, or a window to 0 to 1.

    Args:
        channel: (X, Y, Z) in the unit of the image.
        how: The plan's entry of the channel.
    """
    if how.scheme == "ct":
        return (np.clip(channel, how.low, how.high) - how.mean) / how.std
    if how.scheme == "window":
        return ((channel - how.low) / (how.high - how.low)).clip(0, 1)
    mean, deviation = channel.mean(dtype=np.float64), channel.std(dtype=np.float64)
    return (channel - np.float32(mean)) / np.float32(max(float(deviation), 1e-8))


def prepare_volume(volume: Volume, plan: Plan, where: str) -> torch.Tensor:
    """Makes the network's input from a volume as it was read.

    Args:
        volume: Source grid, any orientation.
        plan: The data set's plan.
        where: Case id and file, for errors.

    Returns:
        (C, X, Y, Z) float32 on the plan's spacing, canonical axis order.

    Raises:
        SegtrailError: The number of channels is not the plan's, or values are not finite.
    """
    if len(volume.array) != len(plan.channels):
        raise SegtrailError(
            f"{len(volume.array)} channel(s), the model wants {len(plan.channels)}: {', '.join(plan.channels)}",
            where,
            "give one file a channel, in this order",
        )
    array, affine = to_canonical(volume.array, volume.affine)
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise SegtrailError(
            f"{int((~np.isfinite(array)).sum())} voxels are NaN or infinite", where, "repair the file"
        )
    for index, how in enumerate(plan.normalization):
        array[index] = normalize(array[index], how)
    shape = target_shape(array.shape, spacing_mm(affine), plan)
    return resample_linear(torch.from_numpy(array), shape)


def prepare_label_map(label_map: LabelMap, plan: Plan) -> NDArray[np.uint8]:
    """Puts a reference on the plan's grid: source values become network indices.

    Each class is resampled as a linear membership and the largest wins, so that thin structures keep their
    volume better than by nearest neighbour.

    Returns:
        (X, Y, Z) uint8 of network indices.
    """
    indices, affine = _to_indices(label_map, plan)
    shape = target_shape(indices.shape, spacing_mm(affine), plan)
    if shape == tuple(indices.shape):
        return indices
    winner = np.zeros(shape, np.uint8)
    highest = np.zeros(shape, np.float32)
    for index in range(len(plan.label_values)):
        member = torch.from_numpy((indices == index).astype(np.float32))[None]
        share = resample_linear(member, shape)[0].numpy()
        better = share > highest
        winner[better] = index
        highest[better] = share[better]
    return winner


def prepare_instances(
    label_map: LabelMap, instances: IntegerMap | None, plan: Plan, where: str
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Puts the objects of a reference on the plan's grid, by nearest neighbour over the same extent.

    Objects that no voxel of the new grid shows, or that lie on background alone, are left out.

    Args:
        label_map: Source grid, any orientation.
        instances: (X, Y, Z) ids on the same grid; without, each connected component of a class is an object.
        plan: The data set's plan.
        where: Case id and file, for errors.

    Returns:
        (X, Y, Z) ids 1..n in the order of the source's, and the network index of each id's class (n + 1,).

    Raises:
        SegtrailError: There are more objects than ids of 16 bits.
    """
    indices, affine = _to_indices(label_map, plan)
    ids = find_instances(indices) if instances is None else to_canonical(instances, label_map.affine)[0]
    labels = instance_labels(ids, indices)
    nearest = resample_nearest(ids, target_shape(ids.shape, spacing_mm(affine), plan))
    seen = np.bincount(nearest.ravel(), minlength=labels.size) > 0
    kept = np.flatnonzero(seen & (labels > 0))
    if kept.size > LARGEST_ID:
        raise SegtrailError(
            f"{kept.size} objects, at most {LARGEST_ID} can be stored",
            where,
            "check the reference for noise, or cut the image into parts",
        )
    there = np.count_nonzero(np.bincount(ids.ravel())[1:])
    LOGGER.debug("%s: %d of %d objects on the plan's grid", where, kept.size, there)
    new_ids = np.zeros(labels.size, np.uint16)
    new_ids[kept] = np.arange(1, kept.size + 1)
    return new_ids[nearest], labels[np.append(0, kept)]


def _to_indices(label_map: LabelMap, plan: Plan) -> tuple[NDArray[np.uint8], Affine]:
    """The label map in canonical axis order, as network indices."""
    array, affine = to_canonical(label_map.array, label_map.affine)
    indices = np.zeros(array.shape, np.uint8)
    for index, value in enumerate(plan.label_values):
        indices[array == value] = index
    return indices, affine


def resample_nearest(array: IntegerMap, shape: Shape) -> IntegerMap:
    """Takes the voxel in which the centre of each new voxel lies; edges stay in place, as in `resample_linear`."""
    picks = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
        for old, new in zip(array.shape, shape, strict=True)
    ]
    return array[np.ix_(*picks)]


def foreground_voxels(label: NDArray[np.uint8], classes: int, most: int, seed: int) -> NDArray[Any]:
    """Draws positions at which a training patch may be centred.

    Args:
        label: (X, Y, Z) network indices.
        classes: Number of classes, background included.
        most: Largest number of positions a class.
        seed: Of the draw, from the case's content.

    Returns:
        (N, 4) int16 rows of class index, x, y, z.
    """
    generator = np.random.default_rng(seed)
    rows = [np.zeros((0, 4), np.int16)]
    for index in range(1, classes):
        positions = np.argwhere(label == index)
        if len(positions) > most:
            positions = positions[np.sort(generator.choice(len(positions), most, replace=False))]
        rows.append(np.insert(positions, 0, index, axis=1).astype(np.int16))
    return np.concatenate(rows)
