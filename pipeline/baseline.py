"""A threshold inside the lungs: what a segmentation costs nothing to reach.

The report sets it beside the networks, so that a reader sees what training buys. It is no model for use: it
takes vessels for nodules. It needs CT of the chest in Hounsfield units.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from pipeline.errors import SegtrailError
from pipeline.volume import LabelMap, Volume, from_canonical, spacing_mm, to_canonical

Mask = NDArray[np.bool_]

AIR_BELOW_HU = -400.0
CLOSING_MM = 8.0
SMALLEST_LUNG = 0.02  # share of the body's volume; bowel gas and the windpipe stay below it
SECOND_LUNG = 0.15  # share of the larger lung that the smaller one has at least
FOREGROUND = 1


def otsu_lung(volume: Volume) -> LabelMap:
    """Marks what is dense inside the lungs as class 1: a baseline for comparison only.

    The lungs are the two largest spaces of air inside the body, each closed and filled, so that nodules which
    touch the pleura count as lung. Otsu's threshold is taken among their voxels.

    Args:
        volume: (1, X, Y, Z) CT of the chest in HU, any orientation; of several channels the first is used.

    Returns:
        uint8 map on the grid of `volume`: 1 = foreground.

    Raises:
        SegtrailError: There is no air inside a body that could be a lung.

    Source: N. Otsu, IEEE Trans. Systems, Man and Cybernetics 9:62 (1979).
    """
    hu, affine = to_canonical(volume.array[0], volume.affine)
    lungs = find_lungs(hu, spacing_mm(affine))
    values = hu[lungs]
    # Where all values are equal Otsu's threshold is that value, and nothing lies above it.
    dense = lungs & (hu > threshold_otsu(values))  # type: ignore[no-untyped-call]
    # The outermost voxels are half chest wall: without them the threshold does three times better.
    dense &= ndimage.binary_erosion(lungs, border_value=1)
    stored = from_canonical(np.where(dense, FOREGROUND, 0).astype(np.uint8), volume.affine)
    return LabelMap(np.ascontiguousarray(stored), volume.affine)


def find_lungs(hu: NDArray[Any], spacing: tuple[float, float, float]) -> Mask:
    """Finds both lungs with all that lies in them.

    Args:
        hu: (X, Y, Z) in RAS+ order: the third axis runs from feet to head.
        spacing: Voxel size, mm.

    Raises:
        SegtrailError: See `otsu_lung`.
    """
    body = np.zeros(hu.shape, dtype=bool)
    for tissue in _largest(hu > AIR_BELOW_HU, 1):
        # Slice by slice: the lungs are open to the outside where the volume ends above and below.
        for z in range(hu.shape[2]):
            body[:, :, z] = ndimage.binary_fill_holes(tissue[:, :, z])
    least = SMALLEST_LUNG * float(body.sum())
    sides = [side for side in _largest(body & (hu <= AIR_BELOW_HU), 2) if side.sum() > least]
    if not sides:
        raise _no_lungs(hu)
    if len(sides) == 2 and sides[1].sum() < SECOND_LUNG * sides[0].sum():
        sides.pop()
    closed = [_closed(side, spacing) for side in sides]
    return np.asarray(np.logical_or.reduce(closed) & body)


def _largest(mask: Mask, count: int) -> list[Mask]:
    """The largest face-connected parts, largest first; fewer when there are fewer."""
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    order = np.argsort(-sizes, kind="stable")[:count]
    return [np.asarray(parts == part) for part in order if sizes[part] > 0]


def _closed(mask: Mask, spacing: tuple[float, float, float]) -> Mask:
    """Closes gaps of up to twice `CLOSING_MM` and fills holes; margins keep the volume's edge from biting."""
    pad = [int(np.ceil(CLOSING_MM / s)) + 1 for s in spacing]
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    part = np.pad(mask[box], [(p, p) for p in pad])
    grown = ndimage.distance_transform_edt(~part, spacing) <= CLOSING_MM
    shrunk = ndimage.distance_transform_edt(grown, spacing) > CLOSING_MM
    filled = ndimage.binary_fill_holes(shrunk | part)
    inner = tuple(slice(p, n - p) for p, n in zip(pad, filled.shape, strict=True))
    out = np.zeros_like(mask)
    out[box] = filled[inner]
    return out


def _no_lungs(hu: NDArray[Any]) -> SegtrailError:
    return SegtrailError(
        f"no air inside a body that could be a lung; values run from {float(hu.min()):g} to "
        f"{float(hu.max()):g}, expected CT of the chest in HU with lungs below {AIR_BELOW_HU:g}",
        "params.yaml: evaluate.baseline = otsu_lung",
        "set evaluate.baseline to none for images that are not CT of the chest",
    )
