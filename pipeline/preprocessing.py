"""From a raw case to what a network sees: canonical axes, normalised, on the plan's spacing.

Order as in nnU-Net: normalise first, then resample. Training and inference share `prepare_volume`. Volumes are
worked on slab by slab in the type they were read in; only the result is there whole.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import SegtrailError
from pipeline.ignored_voxels import IGNORE_INDEX
from pipeline.instances import IntegerMap, find_boxes, find_instances, instance_labels
from pipeline.io.stored import count_not_finite
from pipeline.normalization import nonzero_mask, normalize, with_own_scale
from pipeline.plan import ChannelNormalization, Plan
from pipeline.resampling import (
    Method,
    Shape,
    nearest,
    resample_indices,
    resample_planes,
    slabs,
    slowest_first,
)
from pipeline.volume import Affine, LabelMap, Volume, spacing_mm, to_canonical

LOGGER = logging.getLogger("segtrail")
LARGEST_ID = 65535  # of uint16


def target_shape(shape: tuple[int, ...], spacing: tuple[float, float, float], plan: Plan) -> Shape:
    """Voxels along X, Y, Z (canonical) on the plan's spacing, at least 1 each."""
    x, y, z = (
        max(1, round(n * old / new)) for n, old, new in zip(shape[-3:], spacing, plan.spacing_mm, strict=True)
    )
    return x, y, z


def prepare_volume(
    volume: Volume, plan: Plan, where: str, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Makes the network's input from a volume as it was read.

    Args:
        volume: Source grid, any orientation; it stays as it is.
        plan: The data set's plan.
        where: Case id and file, for errors.
        dtype: Of the result; everything is computed in float32.

    Returns:
        (C, X, Y, Z) on the plan's spacing, canonical axis order.

    Raises:
        SegtrailError: The number of channels is not the plan's, or values are not finite.
    """
    if len(volume.array) != len(plan.channels):
        raise SegtrailError(
            f"{len(volume.array)} channel(s), the model wants {len(plan.channels)}: {', '.join(plan.channels)}",
            where,
            "give one file a channel, in this order",
        )
    if bad := count_not_finite(volume.array):
        raise SegtrailError(f"{bad} voxels are NaN or infinite", where, "repair the file")
    array, affine = to_canonical(volume.array, volume.affine)
    mask = nonzero_mask(array) if any(how.nonzero_mask for how in plan.normalization) else None
    result = torch.empty((len(array), *target_shape(array.shape, spacing_mm(affine), plan)), dtype=dtype)
    for channel, how, target in zip(array, plan.normalization, result, strict=True):
        _prepare_channel(channel, how, mask if how.nonzero_mask else None, plan.resampling, target)
    return result


def _prepare_channel(
    channel: NDArray[Any],
    how: ChannelNormalization,
    mask: NDArray[np.bool_] | None,
    method: Method,
    target: torch.Tensor,
) -> None:
    own = with_own_scale(channel, how, mask)
    order = slowest_first(channel)
    source, inside = channel.transpose(order), None if mask is None else mask.transpose(order)

    def planes(wanted: NDArray[np.intp]) -> NDArray[np.float32]:
        # Neighbouring planes are a view: one copy less.
        straight = len(wanted) == wanted[-1] - wanted[0] + 1
        part = slice(wanted[0], wanted[-1] + 1) if straight else wanted
        values = source[part].astype(np.float32, order="C")
        return normalize(values, own, None if inside is None else inside[part])

    # What a clipped scale clips to holds after resampling too, as in nnU-Net, which clips to what was there.
    resample_planes(planes, source.shape, target.permute(order), method, how.limits)


def prepare_label_map(label_map: LabelMap, plan: Plan) -> NDArray[np.uint8]:
    """Puts a reference on the plan's grid: source values become network indices, the ignore value IGNORE_INDEX.

    Each class is resampled as a linear membership and the largest wins, so that thin structures keep their
    volume better than by nearest neighbour.

    Returns:
        (X, Y, Z) uint8 of network indices.
    """
    indices, affine = _to_indices(label_map, plan)
    return resample_indices(indices, target_shape(indices.shape, spacing_mm(affine), plan))


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
    indices, affine = _to_indices(label_map, plan, unlabelled=0)
    shape = target_shape(indices.shape, spacing_mm(affine), plan)
    given = None if instances is None else to_canonical(instances, label_map.affine)[0]
    if given is not None and plan.ignore_value is not None:
        given = np.where(to_canonical(label_map.array, label_map.affine)[0] == plan.ignore_value, 0, given)
    found = ndimage.find_objects(((indices if given is None else given).T > 0).view(np.uint8), max_label=1)[0]
    result = np.zeros(shape, np.uint16)
    if found is None:
        return result, np.zeros(1, np.uint8)
    box = found[::-1]
    ids = find_instances(indices[box]) if given is None else given[box]
    labels = instance_labels(ids, indices[box])
    picks, places = _nearest_inside(indices.shape, shape, box)
    shown = ids[np.ix_(*picks)]
    seen = np.zeros(labels.size, np.bool_)
    for plane in shown:  # an index array of the whole volume would be 8 bytes a voxel
        seen[plane] = True
    kept = np.flatnonzero(seen & (labels > 0))
    if kept.size > LARGEST_ID:
        raise SegtrailError(
            f"{kept.size} objects, at most {LARGEST_ID} can be stored",
            where,
            "check the reference for noise, or cut the image into parts",
        )
    there = sum(piece is not None for piece in find_boxes(ids))
    LOGGER.debug("%s: %d of %d objects on the plan's grid", where, kept.size, there)
    new_ids = np.zeros(labels.size, np.uint16)
    new_ids[kept] = np.arange(1, kept.size + 1)
    for plane, into in zip(shown, result[places], strict=True):
        into[:] = new_ids[plane]
    return result, labels[np.append(0, kept)]


def _nearest_inside(
    old: tuple[int, ...], new: Shape, box: tuple[slice, ...]
) -> tuple[list[NDArray[np.intp]], tuple[slice, ...]]:
    """Which voxels of a box the new grid shows, counted from the box's corner, and where."""
    picks, places = [], []
    for size, wanted, edge in zip(old, new, box, strict=True):
        chosen = nearest(size, wanted)
        place = slice(*np.searchsorted(chosen, [edge.start, edge.stop]).tolist())
        picks.append(chosen[place] - edge.start)
        places.append(place)
    return picks, tuple(places)


def _to_indices(
    label_map: LabelMap, plan: Plan, unlabelled: int = IGNORE_INDEX
) -> tuple[NDArray[np.uint8], Affine]:
    """The label map in canonical axis order, as network indices; laid out in memory as it was."""
    array, affine = to_canonical(label_map.array, label_map.affine)
    indexed = dict(zip(plan.label_values, range(len(plan.label_values)), strict=True))
    if plan.ignore_value is not None:
        indexed[plan.ignore_value] = unlabelled
    low, high = min(indexed) - 1, max(indexed) + 1
    table = np.zeros(high - low + 1, np.uint8)  # both ends stand for all other values
    table[np.array(list(indexed)) - low] = list(indexed.values())
    order = slowest_first(array)
    planes = array.transpose(order)
    indices = np.empty(planes.shape, np.uint8)
    for part in slabs(planes.shape):
        indices[part] = table[np.clip(planes[part].astype(np.intp), low, high) - low]
    return indices.transpose(np.argsort(order)), affine


def foreground_voxels(label: NDArray[np.uint8], classes: int, most: int, seed: int) -> NDArray[Any]:
    """Draws positions at which a training patch may be centred.

    Args:
        label: (X, Y, Z) network indices; with IGNORE_INDEX, positions of labelled background are drawn too.
        classes: Number of classes, background included.
        most: Largest number of positions a class.
        seed: Of the draw, from the case's content.

    Returns:
        (N, 4) int16 rows of class index, x, y, z.
    """
    generator = np.random.default_rng(seed)
    rows = [np.zeros((0, 4), np.int16)]
    boxes = ndimage.find_objects(label)
    if len(boxes) == IGNORE_INDEX:
        places = np.flatnonzero(label == 0)
        places = np.sort(generator.choice(places, min(most, len(places)), replace=False))
        background = np.stack(np.unravel_index(places, label.shape), axis=1)
        rows.append(np.insert(background, 0, 0, axis=1).astype(np.int16))
    for index in range(1, min(classes, len(boxes) + 1)):
        if (box := boxes[index - 1]) is None:
            continue
        members = label[box] == index
        places = np.flatnonzero(members)
        if len(places) > most:
            places = places[np.sort(generator.choice(len(places), most, replace=False))]
        positions = np.stack(np.unravel_index(places, members.shape), axis=1)
        positions += [edge.start for edge in box]
        rows.append(np.insert(positions, 0, index, axis=1).astype(np.int16))
    return np.concatenate(rows)
