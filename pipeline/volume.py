"""Volume, LabelMap, Instances and Prediction: arrays that know where they lie.

Axis order is X, Y, Z everywhere; the world is RAS+ (x to the right, y to the front, z to the head) in mm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
# Grids whose corners lie further apart are different grids; the largest `inspect.affine_tolerance_mm`.
SAME_GRID_MM = 1.0


@dataclass(frozen=True)
class Volume:
    """An image.

    Attributes:
        array: (C, X, Y, Z), any real dtype; a 2D image has Z = 1.
        affine: (4, 4), voxel index to RAS+ mm.
    """

    array: NDArray[Any]
    affine: Affine


@dataclass(frozen=True)
class LabelMap:
    """One class a voxel.

    Attributes:
        array: (X, Y, Z) integer; 0 is background.
        affine: (4, 4), voxel index to RAS+ mm.
    """

    array: NDArray[np.integer[Any]]
    affine: Affine


@dataclass(frozen=True)
class Instance:
    """One found object.

    Attributes:
        id: Its value in the instance map, 1..n by falling score.
        label: Its class, as in the label map.
        score: Confidence, 0 to 1.
        voxels: Number of voxels.
        centroid_mm: World position (RAS+) of the centre of gravity.
        box_voxels: Half-open box ((x0, y0, z0), (x1, y1, z1)) in voxels of the source grid.
    """

    id: int
    label: int
    score: float
    voxels: int
    centroid_mm: tuple[float, float, float]
    box_voxels: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Instances:
    """Objects of one case.

    Attributes:
        array: (X, Y, Z) integer map of ids; 0 is background.
        items: One record an id.
        affine: (4, 4), voxel index to RAS+ mm.
    """

    array: NDArray[np.integer[Any]]
    affine: Affine
    items: tuple[Instance, ...] = field(default=())


@dataclass(frozen=True)
class Prediction:
    """What every model returns, on the grid of the source image."""

    label_map: LabelMap
    instances: Instances


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Voxel size along X, Y, Z in mm: the lengths of the affine's columns."""
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def voxel_volume_mm3(affine: Affine) -> float:
    """Volume of one voxel in mm3, also on a sheared grid (gantry tilt)."""
    return abs(float(np.linalg.det(affine[:3, :3])))


def voxel_size_mm(affine: Affine, shape: tuple[int, ...]) -> float:
    """What one voxel counts: mm3; on an image of a single slice mm2."""
    thickness = spacing_mm(affine)[2] if shape[2] == 1 else 1.0
    return voxel_volume_mm3(affine) / thickness


def axis_codes(affine: Affine) -> str:
    """Nearest anatomical direction of each voxel axis, such as "RAS" or "LPS"."""
    axes, flips = reorientation(affine)
    codes = [""] * 3
    for world, (source, flipped) in enumerate(zip(axes, flips, strict=True)):
        codes[source] = ("LPI" if flipped else "RAS")[world]
    return "".join(codes)


def reorientation(affine: Affine) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Finds the axis order and flips that bring a grid nearest to RAS+.

    Args:
        affine: (4, 4); oblique and left-handed ones are allowed.

    Returns:
        axes: For world axis R, A, S the voxel axis that runs along it.
        flips: Whether that voxel axis points the other way.
    """
    directions = affine[:3, :3] / np.maximum(np.sqrt((affine[:3, :3] ** 2).sum(axis=0)), 1e-12)
    best = max(permutations(range(3)), key=lambda p: sum(abs(directions[w, p[w]]) for w in range(3)))
    flips = tuple(bool(directions[world, source] < 0) for world, source in enumerate(best))
    return (best[0], best[1], best[2]), (flips[0], flips[1], flips[2])


def to_canonical(array: NDArray[Any], affine: Affine) -> tuple[NDArray[Any], Affine]:
    """Reorders and flips the last three axes to the nearest RAS+ grid; no voxel value changes.

    Args:
        array: (..., X, Y, Z).
        affine: (4, 4) of `array`.

    Returns:
        The array (a view) and its affine.
    """
    axes, flips = reorientation(affine)
    lead = array.ndim - 3
    out = array.transpose(*range(lead), *(lead + a for a in axes))
    new_affine = affine.copy()
    new_affine[:3, :3] = affine[:3, list(axes)]
    for axis, flipped in enumerate(flips):
        if flipped:
            out = np.flip(out, lead + axis)
            new_affine[:3, 3] += new_affine[:3, axis] * (out.shape[lead + axis] - 1)
            new_affine[:3, axis] *= -1
    return out, new_affine


def from_canonical(array: NDArray[Any], affine: Affine) -> NDArray[Any]:
    """Undoes `to_canonical`.

    Args:
        array: (..., R, A, S), as `to_canonical` returned it.
        affine: (4, 4) of the *source* grid.
    """
    axes, flips = reorientation(affine)
    lead = array.ndim - 3
    for axis, flipped in enumerate(flips):
        if flipped:
            array = np.flip(array, lead + axis)
    return array.transpose(*range(lead), *(lead + axes.index(a) for a in range(3)))


def corner_distance_mm(shape: tuple[int, ...], first: Affine, second: Affine) -> float:
    """Largest distance between the corners of one voxel box under two affines, in mm."""
    corners = np.array([(*c, 1.0) for c in product(*((0, n - 1) for n in shape[-3:]))])
    moved = (corners @ first.T)[:, :3] - (corners @ second.T)[:, :3]
    return float(np.sqrt((moved**2).sum(axis=1)).max())
