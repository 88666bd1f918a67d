"""Label and instance maps of a case on the grid of its image, mended as `inspect` has recorded it.

The one door through which stages read references: raw files are never changed, what is wrong with them without
loss is mended each time they are read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.cases import CaseRecord
from pipeline.instances import IntegerMap
from pipeline.io.images import load_label_map
from pipeline.volume import (
    SAME_GRID_MM,
    Affine,
    LabelMap,
    corner_distance_mm,
    from_canonical,
    to_canonical,
)

ORIENTATION = "orientation"  # name of `inspect.fix`


def load_reference(case: CaseRecord, affine: Affine) -> LabelMap:
    """Reads the label map of a case.

    Args:
        case: Usable, with a label; inspection has found it on the grid of the image, at most turned.
        affine: (4, 4) of the image. It becomes that of the label map, whose own may differ within the tolerance;
            one that is further off is kept, for whoever compares grids.

    Raises:
        SegtrailError: The file cannot be read.
    """
    return _load(case, "label", affine)


def load_instance_ids(case: CaseRecord, affine: Affine) -> IntegerMap | None:
    """Reads the instance map of a case as `load_reference` does; None when it has none."""
    return _load(case, "instances", affine).array if case.instances else None


def turn_map(stored: LabelMap, affine: Affine) -> LabelMap:
    """Brings a map into the axis order of a grid by flips and permutations; no voxel changes its value or place.

    Returns:
        The map with an affine of its own, which is `affine` where both were one grid.
    """
    array, own = to_canonical(stored.array, stored.affine)
    turned = from_canonical(array, affine)
    canonical = to_canonical(turned, affine)[1]
    steps = np.rint(
        np.linalg.solve(canonical, affine)
    )  # index in the grid to canonical index: flips, an order
    return LabelMap(turned, own @ steps)


def _load(case: CaseRecord, role: str, affine: Affine) -> LabelMap:
    stored = load_label_map(Path(getattr(case, role)))
    if f"{role}:{ORIENTATION}" in case.fixes:
        stored = turn_map(stored, affine)
    moved = corner_distance_mm(stored.array.shape, stored.affine, affine)
    return LabelMap(stored.array, affine) if moved <= SAME_GRID_MM else stored
