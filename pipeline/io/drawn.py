"""What was drawn on slices in the world, as voxels of an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.volume import Affine

# How far, as a share of a voxel, a plane may lie from a slice, and its pixels from the slice's, to be the same.
# Positions are often rounded to 0.1 mm; what lies further off belongs to another slice, or to another grid.
SAME_SLICE = 0.25
SAME_PIXEL = 0.1


@dataclass(frozen=True)
class Drawing:
    """The mask of one name.

    Attributes:
        name: As its object has it.
        voxels: Places in the flattened (X, Y, Z) image.
    """

    name: str
    voxels: NDArray[np.int64]


def to_voxels(points_lps: NDArray[np.float64], affine: Affine) -> NDArray[np.float64]:
    """Voxel positions (n, 3), not rounded, of points in LPS+ mm.

    Args:
        points_lps: (n, 3).
        affine: Of the image, to RAS+ mm.
    """
    inverse = np.linalg.inv(affine)
    ras = points_lps * [-1.0, -1.0, 1.0]
    placed: NDArray[np.float64] = ras @ inverse[:3, :3].T + inverse[:3, 3]
    return placed
