"""Instance maps: one id an object. Objects from components, their classes, and what each one measures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.volume import Affine, voxel_size_mm

TOUCHING: NDArray[np.bool_] = np.ones((3, 3, 3), dtype=bool)  # voxels that share a corner belong together

SLAB = 1 << 22  # voxels that are counted at once

IntegerMap = NDArray[np.integer[Any]]
Boxes = list[tuple[slice, slice, slice] | None]


@dataclass(frozen=True)
class ReferenceObject:
    """One object of a reference.

    Attributes:
        id: Its value in the instance map.
        label: Value of its class in the label map; 0 where the label map says background throughout.
        voxels: Number of voxels.
        centroid_mm: World position (RAS+) of the centre of gravity.
        diameter_mm: Of the sphere of the same volume; in 2D of the disc of the same area.
        extent_voxels: Edges of its box along X, Y, Z of the grid.
        box_voxels: Half-open box ((x0, y0, z0), (x1, y1, z1)).
    """

    id: int
    label: int
    voxels: int
    centroid_mm: tuple[float, float, float]
    diameter_mm: float
    extent_voxels: tuple[int, int, int]
    box_voxels: tuple[tuple[int, int, int], tuple[int, int, int]]


def find_boxes(instances: IntegerMap) -> Boxes:
    """Smallest box around each id, as slices along X, Y, Z; entry i is that of id i + 1, None when unused."""
    # NIfTI stores X fastest: transposed, the walk through memory is straight (several times faster).
    found = ndimage.find_objects(instances.T)
    return [None if box is None else (box[2], box[1], box[0]) for box in found]


def find_instances(label_map: IntegerMap) -> IntegerMap:
    """Makes each connected component of each class an object; voxels that share a corner are connected.

    Args:
        label_map: (X, Y, Z), 0 is background.

    Returns:
        (X, Y, Z) of the smallest unsigned type that holds the ids 1..n, class after class.
    """
    ids: IntegerMap = np.zeros(label_map.shape, np.uint8, order="F")
    count = 0
    for value, box in enumerate(find_boxes(label_map), 1):
        if box is None:
            continue
        pieces, found = ndimage.label(label_map[box] == value, TOUCHING)
        if count + found > np.iinfo(ids.dtype).max:
            ids = ids.astype(np.min_scalar_type(count + found))
        np.add(pieces, count, out=ids[box], where=pieces > 0, casting="unsafe")
        count += found
        del pieces  # before those of the next class are made
    return ids


def z_slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice, slice]]:
    """Parts along Z of about SLAB voxels: NumPy turns indices into 8 bytes a voxel."""
    planes = max(1, SLAB // max(shape[0] * shape[1], 1))
    for first in range(0, shape[2], planes):
        yield slice(None), slice(None), slice(first, min(first + planes, shape[2]))


def instance_voxels(ids: IntegerMap, count: int) -> NDArray[np.int64]:
    """Voxels of each of the ids 1..count; (count,)."""
    voxels = np.zeros(count + 1, np.int64)
    for part in z_slabs(ids.shape):
        voxels += np.bincount(ids[part].ravel(order="K"), minlength=count + 1)
    return voxels[1:]


def instance_labels(instances: IntegerMap, label_map: IntegerMap) -> IntegerMap:
    """Class of each object: the most frequent foreground value of the label map inside it.

    Args:
        instances: (X, Y, Z) of ids, 0 is background.
        label_map: (X, Y, Z) on the same grid; of equally frequent values the smallest counts.

    Returns:
        (largest id + 1,) of label_map's type; 0 for ids that do not occur or lie on background alone.
    """
    inside = (instances.T > 0) & (label_map.T > 0)
    ids, values = instances.T[inside], label_map.T[inside]
    classes = np.flatnonzero(np.bincount(values))  # counting, as sorting the voxels is several times slower
    labels = np.zeros(int(instances.max(initial=0)) + 1, label_map.dtype)
    if classes.size:
        index = np.zeros(classes[-1] + 1, np.int64)
        index[classes] = np.arange(classes.size)
        joint = ids.astype(np.int64) * classes.size + index[values]
        counts = np.bincount(joint, minlength=labels.size * classes.size).reshape(-1, classes.size)
        labels[:] = np.where(counts.any(axis=1), classes[counts.argmax(axis=1)], 0)
    return labels


def describe_objects(instances: IntegerMap, label_map: IntegerMap, affine: Affine) -> list[ReferenceObject]:
    """Measures every object of a case.

    Args:
        instances: (X, Y, Z) of ids, 0 is background.
        label_map: (X, Y, Z) on the same grid.
        affine: (4, 4), voxel index to RAS+ mm.

    Returns:
        One record an id that occurs, by id.
    """
    labels = instance_labels(instances, label_map)
    places = np.nonzero(instances.T)[::-1]
    ids = instances[places]
    voxels = np.bincount(ids, minlength=1)
    sums = np.stack([np.bincount(ids, weights=axis, minlength=1) for axis in places], axis=1)
    centres = sums / np.maximum(voxels, 1)[:, None] @ affine[:3, :3].T + affine[:3, 3]
    voxel_size, flat = voxel_size_mm(affine, instances.shape), instances.shape[2] == 1
    objects = []
    for number, box in enumerate(find_boxes(instances), 1):
        if box is None:
            continue
        (x0, y0, z0), (x1, y1, z1) = (tuple(getattr(part, end) for part in box) for end in ("start", "stop"))
        x, y, z = centres[number].tolist()
        objects.append(
            ReferenceObject(
                id=number,
                label=int(labels[number]),
                voxels=int(voxels[number]),
                centroid_mm=(x, y, z),
                diameter_mm=_diameter(float(voxels[number] * voxel_size), flat),
                extent_voxels=(x1 - x0, y1 - y0, z1 - z0),
                box_voxels=((x0, y0, z0), (x1, y1, z1)),
            )
        )
    return objects


def _diameter(size: float, flat: bool) -> float:
    """Diameter of the disc of an area (mm2), or of the sphere of a volume (mm3)."""
    return 2 * math.sqrt(size / math.pi) if flat else 2 * (3 * size / (4 * math.pi)) ** (1 / 3)
