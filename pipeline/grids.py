"""Where two grids differ, in words and millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.volume import Affine, axis_codes, corner_distance_mm, spacing_mm

SAME_SPACING_MM = 1e-6
SAME_DEGREES = 1e-4


@dataclass(frozen=True)
class Grid:
    """A voxel grid in the world.

    Attributes:
        shape: Voxels along X, Y, Z.
        affine: (4, 4), voxel index to RAS+ mm.
    """

    shape: tuple[int, ...]
    affine: Affine


def describe_difference(first: Grid, second: Grid, limit_mm: float) -> str:
    """Says which of shape, orientation, spacing, direction and origin differ, and by how much.

    Args:
        first: The grid that counts.
        second: The one to judge.
        limit_mm: Largest distance between corresponding corners that is no difference.

    Returns:
        "" when the grids are the same within the limit.
    """
    if first.shape != second.shape:
        parts = [f"shape is {_text(second.shape)}, expected {_text(first.shape)}"]
        # Of grids of two shapes the far corners differ anyway: only fields that are moved by more than the limit.
        common = tuple(map(min, first.shape, second.shape))
        if corner_distance_mm(common, first.affine, second.affine) > limit_mm:
            parts += _fields(first.affine, second.affine)
        return "; ".join(parts)
    moved = corner_distance_mm(first.shape, first.affine, second.affine)
    if moved <= limit_mm:
        return ""
    codes = axis_codes(first.affine), axis_codes(second.affine)
    if codes[0] != codes[1]:
        parts = [f"orientation is {codes[1]}, expected {codes[0]}"]
    else:
        parts = _fields(first.affine, second.affine)
    return f"{'; '.join(parts)}; corners lie up to {moved:.3g} mm apart"


def _fields(first: Affine, second: Affine) -> list[str]:
    parts = []
    spacings = np.array(spacing_mm(first)), np.array(spacing_mm(second))
    if np.abs(spacings[1] - spacings[0]).max() > SAME_SPACING_MM:
        parts.append(f"spacing is {_text(spacings[1])} mm, expected {_text(spacings[0])} mm")
    directions = first[:3, :3] / spacings[0], second[:3, :3] / spacings[1]
    cosines = np.clip((directions[0] * directions[1]).sum(axis=0), -1, 1)
    degrees = float(np.degrees(np.arccos(cosines)).max())
    if degrees > SAME_DEGREES:
        parts.append(f"direction is turned by {degrees:.3g} degrees")
    offset = second[:3, 3] - first[:3, 3]
    if np.abs(offset).max() > 0:
        parts.append(f"origin is moved by {_text(offset)} mm")
    return parts


def _text(values: object) -> str:
    return "(" + ", ".join(f"{float(v):.6g}" for v in np.asarray(values).ravel()) + ")"
