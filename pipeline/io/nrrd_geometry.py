"""Where the axes of a NRRD image lie: which of them run through space, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.cases import Finding
from pipeline.errors import ImageFileError
from pipeline.io.stored import ORIENTATION_UNKNOWN
from pipeline.volume import Affine

# Sign that brings each axis of a space to RAS+.
SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
LPS = SPACES["lps"]
SPATIAL_KINDS = ("domain", "space")  # of axes without directions; everything else is a list of channels
MILLIMETRES = ("", "mm", "millimeter", "millimeters", "millimetre", "millimetres", "???")
NONE = "none"


@dataclass(frozen=True)
class Axes:
    """How the stored axes make up (C, X, Y, Z).

    Attributes:
        order: For C, X, Y and Z the index of the stored axis; None where there is none.
        affine: (4, 4) to RAS+ mm.
        remarks: What had to be taken for granted.
    """

    order: tuple[int | None, int | None, int | None, int | None]
    affine: Affine
    remarks: tuple[Finding, ...]


def place_axes(header: Mapping[str, str], sizes: Sequence[int], path: Path) -> Axes:
    """Finds the place of a NRRD image in space.

    Args:
        header: Fields by lower-case name.
        sizes: Voxels along each stored axis.
        path: The file, for messages.

    Raises:
        ImageFileError: There is no voxel size, it is not in mm, the directions span no space, or there are other
            axes than 2 or 3 in space and one of channels.
    """
    _require_millimetres(header, path)
    vectors = _directions(header, len(sizes), path)
    spatial = [axis for axis, vector in enumerate(vectors) if vector is not None]
    others = [axis for axis in range(len(sizes)) if axis not in spatial]
    if len(spatial) not in (2, 3) or len(others) > 1:
        what = f"of {len(sizes)} axes {len(spatial)} run through space, expected 2 or 3, and at most one of channels"
        fix = "store channels on one axis, time points as cases"
        raise ImageFileError("shape_invalid", what, path, fix)
    columns = np.column_stack([vector for vector in vectors if vector is not None])
    if len(spatial) == 2:
        normal = np.cross(columns[:, 0], columns[:, 1])
        columns = np.column_stack([columns, normal / max(float(np.linalg.norm(normal)), 1e-12)])
    origin = _origin(header, path)
    if not (np.isfinite(columns).all() and np.isfinite(origin).all()) or abs(np.linalg.det(columns)) < 1e-12:
        what = f"directions {columns.T.tolist()} and origin {origin.tolist()} map the grid to no space"
        raise ImageFileError("geometry_invalid", what, path, "export the file again with its geometry")
    space = header.get("space", "").lower()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    affine[:3] *= np.array(SPACES.get(space, LPS))[:, np.newaxis]
    x, y, z = (*spatial, None)[:3]
    channels = others[0] if others else None
    return Axes(
        (channels, x, y, z), affine + 0.0, () if space in SPACES else (_unknown(space),)
    )  # no negative zeros


def _unknown(space: str) -> Finding:
    named = f"space is {space!r}" if space else "the header names no space"
    what = f"{named}, which does not say where left and front are; axes are taken as LPS"
    return Finding(ORIENTATION_UNKNOWN, what, fatal=False)


def _require_millimetres(header: Mapping[str, str], path: Path) -> None:
    units = [unit.strip() for unit in header.get("space units", "").split('"')]
    if foreign := [unit for unit in units if unit.lower() not in MILLIMETRES]:
        what = f"spacing is in {foreign[0][:20]!r}, expected mm"
        raise ImageFileError("geometry_invalid", what, path, "export the file again in mm")


def _directions(header: Mapping[str, str], count: int, path: Path) -> list[NDArray[np.float64] | None]:
    """The step in mm along each axis; None for an axis that does not run through space."""
    if "space directions" in header:
        found = [_vector(text, path) for text in _vectors(header["space directions"])]
        if len(found) == count:
            return found
        what = (
            f"space directions are {header['space directions'][:80]!r}, expected one for each of {count} axes"
        )
        raise ImageFileError("geometry_invalid", what, path, "export the file again with its geometry")
    spacings = header.get("spacings", "").split()
    if len(spacings) != count:
        what = "the header gives no voxel size (space directions or spacings for each axis)"
        raise ImageFileError("geometry_invalid", what, path, "export the file again with its voxel size")
    kinds = header.get("kinds", "").lower().split()
    kinds = kinds if len(kinds) == count else [SPATIAL_KINDS[0]] * count
    found, along = [], 0
    for text, kind in zip(spacings, kinds, strict=True):
        spatial = kind in SPATIAL_KINDS and text.lower() != "nan" and along < 3
        found.append(_number(text, path) * np.eye(3)[along] if spatial else None)
        along += spatial
    return found


def _vectors(text: str) -> list[str]:
    """Splits "none (1,0,0) (0, 1, 0)" at the blanks outside of brackets."""
    return text.replace(NONE, "(none)").replace("(", " ").split(")")[:-1]


def _vector(text: str, path: Path) -> NDArray[np.float64] | None:
    parts = text.replace(",", " ").split()
    if parts in ([NONE], ["nan"] * 3):
        return None
    if len(parts) not in (2, 3):
        what = f"a direction is {text.strip()[:40]!r}, expected 2 or 3 numbers"
        raise ImageFileError("geometry_invalid", what, path, "export the file again with its geometry")
    return np.array([*(_number(part, path) for part in parts), 0.0][:3])


def _origin(header: Mapping[str, str], path: Path) -> NDArray[np.float64]:
    if "space origin" not in header:
        return np.zeros(3)
    vector = _vector(header["space origin"].strip().strip("()"), path)
    return np.full(3, np.nan) if vector is None else vector


def _number(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError as error:
        what = f"{text[:20]!r} stands where the header has a number"
        raise ImageFileError("geometry_invalid", what, path, "export the file again") from error
