"""Whether the slices of a DICOM series make one even, right-angled grid: what would bend space is refused."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageFileError

if TYPE_CHECKING:
    from pipeline.io.dicom_slices import DicomSlice

# How far a slice may lie from where even spacing puts it. Positions are often rounded to 0.1 mm, the first and
# last included; but between these shares of the slice distance: one missing slice moves others by half of it.
ROUNDING_MM = 0.11
LEAST_SHARE, LARGEST_SHARE = 0.1, 0.25
SAME_PLACE_MM = 1e-3
SAME_DIRECTION = 1e-4  # of direction cosines; they are written with six digits
# How far the slices may slide sideways from the first to the last, as a share of a pixel: what a reader that knows
# right-angled grids alone would not see.
LARGEST_SLIDE = 0.5


def require_one_series(slices: Sequence[DicomSlice], folder: Path) -> None:
    """Refuses slices of several series (`several_series`), sizes, spacings or directions.

    Raises:
        ImageFileError: Names the first slice that differs.
    """
    series = Counter(item.series_uid for item in slices)
    if len(series) > 1:
        listed = ", ".join(f"{uid or 'without a UID'} ({count} slices)" for uid, count in series.items())
        what = f"the folder holds {len(series)} series, expected one: {listed}"
        raise ImageFileError("several_series", what, folder, "put each series into a folder of its own")
    shared: tuple[tuple[str, str, Callable[[DicomSlice], tuple[float, ...]], float], ...] = (
        ("shape_invalid", "columns and rows", lambda item: item.shape, 0),
        ("geometry_invalid", "spacing", lambda item: item.spacing_mm, SAME_DIRECTION),
        ("geometry_invalid", "directions", lambda item: item.along_x + item.along_y, SAME_DIRECTION),
    )
    first = slices[0]
    for code, name, take, tolerance in shared:
        for item in slices:
            if not np.allclose(take(item), take(first), rtol=0, atol=tolerance):
                what = f"{name} are {take(item)} in {item.path.name} and {take(first)} in {first.path.name}"
                raise ImageFileError(code, what, folder, "keep only the slices of one volume in the folder")


def require_even_spacing(slices: Sequence[DicomSlice], normal: NDArray[Any], folder: Path) -> None:
    """Compares each slice with its place between the first and the last.

    Args:
        slices: In the order of their positions.
        normal: Of the slices.
        folder: For the error.

    Raises:
        ImageFileError: Two slices lie at one place (`duplicate_slice`), or their distances differ (`slice_spacing`).
    """
    positions = np.array([item.position_lps for item in slices])
    steps = np.diff(positions @ normal)
    if len(steps) and steps.min() < SAME_PLACE_MM:
        at = int(steps.argmin())
        what = f"{slices[at].path.name} and {slices[at + 1].path.name} lie at one position"
        fix = "remove the copy, or keep one time point or echo in the folder"
        raise ImageFileError("duplicate_slice", what, folder, fix)
    even = np.linspace(positions[0], positions[-1], len(slices))
    moved = float(np.sqrt(((positions - even) ** 2).sum(axis=1)).max())
    typical = float(np.median(steps)) if len(steps) else 0.0
    if moved > min(max(ROUNDING_MM, LEAST_SHARE * typical), LARGEST_SHARE * typical):
        at = int(np.abs(steps - typical).argmax())
        what = (
            f"the slices are not evenly spaced: {steps[at]:.4g} mm between {slices[at].path.name} and "
            f"{slices[at + 1].path.name}, {typical:.4g} mm between most others"
        )
        fix = "add the missing slices, or resample the series to even spacing"
        raise ImageFileError("slice_spacing", what, folder, fix)


def require_right_angles(slices: Sequence[DicomSlice], normal: NDArray[Any], folder: Path) -> None:
    """Refuses slices that do not lie straight above each other: the gantry of the scanner was tilted.

    Their grid is sheared. Viewers, ITK and every network take grids for right-angled, so what is found on it
    would lie beside the anatomy.

    Raises:
        ImageFileError: The last slice lies more than half a pixel beside the first (`gantry_tilt`).
    """
    way = np.subtract(slices[-1].position_lps, slices[0].position_lps)
    along = float(way @ normal)
    slide = float(np.linalg.norm(way - along * normal))
    limit = max(ROUNDING_MM, LARGEST_SLIDE * min(slices[0].spacing_mm))
    if slide > limit:
        angle = math.degrees(math.atan2(slide, along))
        what = (
            f"the slices are tilted by {angle:.1f} degrees against the way of the table: the last one lies "
            f"{slide:.1f} mm beside the first, limit {limit:.2g} mm"
        )
        fix = "resample the series to a right-angled grid (dcm2niix does; the labels with it)"
        raise ImageFileError("gantry_tilt", what, folder, fix)
