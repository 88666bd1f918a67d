"""The plan of detection by windows: zoom, window, anchors and number of objects, from the extents of objects.

The finest level of a feature pyramid has one cell for 4 x 4 pixels (Lin et al., Feature Pyramid Networks, 2017),
so small objects are enlarged until they cover several cells; anchors then follow the sizes that are there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import PlanParams
from pipeline.fingerprint import Fingerprint
from pipeline.plan import DetectionPlan

LEVELS = 4  # of the pyramid, strides 4, 8, 16 and 32
STEP = 32  # window edges are multiples of the coarsest stride
SMALL_OBJECT = 12.0  # network pixels that the 10th percentile of the object sizes is brought to
ZOOMS = (1.0, 4.0)  # ends of the automatic zoom
LARGE_OBJECT = 32.0  # network pixels that the 10th percentile keeps when large objects are made smaller
SMALLEST_ZOOM = 0.25
OBJECTS_ACROSS = (
    3.0  # edge of a window in long edges of large objects: prediction sees more (pipeline.slices)
)
SMALLEST_EDGE, LARGEST_EDGE = 128, 320
SLICE_SHARE = 0.6  # a slice near the end of an object shows less than its full extent
SMALLEST_ANCHOR = 8.0  # two cells of the finest level: smaller ones would leave gaps between cells
ANCHOR_STEP = 1.6  # largest factor between neighbouring anchor sizes, as far as three a level can do
ALIKE = 1.2  # ratios within this factor are one
LONGEST_RATIO = 4.0
FEWEST_DETECTIONS, MOST_DETECTIONS = 50, 1000


@dataclass(frozen=True)
class _Objects:
    """What was measured, in voxels of the plan's grid.

    Attributes:
        extents: (n, 2) edges of the objects' boxes along X and Y.
        slices: (cases, 2) edges of the slices along X and Y.
        most: (cases,) objects in the fullest slice of each case.
        in_volumes: Whether a case has more than one slice.
    """

    extents: NDArray[np.float64]
    slices: NDArray[np.float64]
    most: NDArray[np.int_]
    in_volumes: bool

    def sizes(self, percentile: float) -> float:
        """Percentile of the root of the boxes' areas in the plane."""
        return float(np.percentile(np.sqrt(self.extents.prod(axis=1)), percentile))


def plan_detection(
    fingerprints: Sequence[Fingerprint],
    spacing_mm: tuple[float, float, float],
    params: PlanParams,
    reasons: dict[str, str],
) -> DetectionPlan | None:
    """Derives what detection needs from the extents of the objects.

    Args:
        fingerprints: Of the non-test cases, at least one.
        spacing_mm: Voxel size of the plan's grid along X, Y, Z.
        params: The section `plan`; its `detection_*` and `anchor_*` override.
        reasons: Receives one entry a value.

    Returns:
        None when no case has an object; `reasons["detection"]` says so.
    """
    objects = _measure(fingerprints, spacing_mm)
    if not len(objects.extents):
        reasons["detection"] = f"none of {len(fingerprints)} cases has an object: no plan for Mask R-CNN"
        return None
    zoom = _zoom(objects, params, reasons)
    window = _window(objects, zoom, params, reasons)
    return DetectionPlan(
        slices=3 if objects.in_volumes else 1,
        zoom=zoom,
        window=window,
        anchor_sizes=_anchor_sizes(objects, zoom, params, reasons),
        anchor_ratios=_anchor_ratios(objects, params, reasons),
        detections=_detections(objects, zoom, window, reasons),
    )


def _measure(fingerprints: Sequence[Fingerprint], spacing_mm: tuple[float, float, float]) -> _Objects:
    of_all = [f.classes.values() for f in fingerprints]
    extents = [extent for classes in of_all for one in classes for extent in one.object_extents_mm]
    shapes = np.array([np.array(f.shape) * f.spacing_mm for f in fingerprints]) / spacing_mm
    return _Objects(
        extents=(np.array(extents).reshape(-1, 3) / spacing_mm)[:, :2],
        slices=shapes[:, :2],
        most=np.array([f.objects_per_slice for f in fingerprints]),
        in_volumes=any(f.shape[2] > 1 for f in fingerprints),
    )


def _zoom(objects: _Objects, params: PlanParams, reasons: dict[str, str]) -> float:
    small = objects.sizes(10)
    if params.detection_zoom != "auto":
        zoom, why = params.detection_zoom, "set by plan.detection_zoom"
    else:
        zoom = float(np.clip(round(2 * SMALL_OBJECT / small) / 2, *ZOOMS))
        why = f"brings it near {SMALL_OBJECT:g}, in half steps from {ZOOMS[0]:g} to {ZOOMS[1]:g}"
        while SMALLEST_ZOOM < zoom <= 1 and small * zoom >= 2 * LARGE_OBJECT:
            zoom /= 2
            why = f"large objects are made smaller as long as it keeps {LARGE_OBJECT:g}"
    reasons["detection_zoom"] = (
        f"10th percentile of the size of {len(objects.extents)} objects in the plane is {small:.1f} voxels, "
        f"{small * zoom:.1f} network pixels: {why}"
    )
    return zoom


def _window(objects: _Objects, zoom: float, params: PlanParams, reasons: dict[str, str]) -> tuple[int, int]:
    if params.detection_window != "auto":
        reasons["detection_window"] = "set by plan.detection_window"
        return params.detection_window
    longest = float(np.percentile(objects.extents.max(axis=1), 95)) * zoom
    edges = []
    for whole in (objects.slices.max(axis=0) * zoom).tolist():
        edge = min(max(OBJECTS_ACROSS * longest, SMALLEST_EDGE), LARGEST_EDGE, max(whole, 2 * STEP))
        edges.append(math.ceil(round(edge / STEP, 6)) * STEP)
    reasons["detection_window"] = (
        f"{OBJECTS_ACROSS:g} times the longer edge of objects, {longest:.0f} network pixels at the 95th percentile; "
        f"from {SMALLEST_EDGE} to {LARGEST_EDGE}, not beyond the largest slice; prediction sees up to 512 at once"
    )
    return edges[0], edges[1]


def _anchor_sizes(
    objects: _Objects, zoom: float, params: PlanParams, reasons: dict[str, str]
) -> tuple[tuple[float, ...], ...]:
    if params.anchor_sizes != "auto":
        reasons["anchor_sizes"] = f"set by plan.anchor_sizes, spread over {LEVELS} levels"
        return _over_levels(sorted(params.anchor_sizes))
    low, middle, high = (objects.sizes(percentile) * zoom for percentile in (5, 50, 95))
    share = SLICE_SHARE if objects.in_volumes else 1.0
    first = max(min(low * share, high / 2), min(SMALLEST_ANCHOR, middle))
    # Sizes double from level to level as the strides do, so that the cells of each level lie equally close.
    last = max(high, first * 2 ** (LEVELS - 0.5))
    each = 2 if (last / first) ** (1 / (2 * LEVELS - 1)) <= ANCHOR_STEP else 3
    reasons["anchor_sizes"] = (
        f"5th, 50th and 95th percentile of the object sizes are {low:.1f}, {middle:.1f} and {high:.1f} network "
        "pixels"
        + f", the lowest x {SLICE_SHARE:g} because a slice may cut an object off its middle" * (share < 1)
        + f"; {each} a level in equal factors from {first:.1f} "
        + (f"up to {high:.1f}" if last == high else "on, doubling with the strides")
    )
    return _over_levels(np.geomspace(first, last, LEVELS * each).round(1).tolist())


def _over_levels(sizes: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """Deals sizes to the levels in order, equally many to each: the levels share one head."""
    each = math.ceil(len(sizes) / LEVELS)
    starts = [round(level * (len(sizes) - each) / (LEVELS - 1)) for level in range(LEVELS)]
    return tuple(tuple(sizes[start : start + each]) for start in starts)


def _anchor_ratios(objects: _Objects, params: PlanParams, reasons: dict[str, str]) -> tuple[float, ...]:
    if params.anchor_ratios != "auto":
        reasons["anchor_ratios"] = "set by plan.anchor_ratios"
        return params.anchor_ratios
    measured = np.percentile(objects.extents[:, 1] / objects.extents[:, 0], [10, 50, 90])
    reasons["anchor_ratios"] = (
        "10th, 50th and 90th percentile of the extent along Y over that along X: "
        + ", ".join(f"{ratio:.2f}" for ratio in measured)
        + "; the one nearest to 1 becomes 1"
    )
    ratios = np.clip(measured, 1 / LONGEST_RATIO, LONGEST_RATIO)
    ratios[np.abs(np.log(ratios)).argmin()] = 1.0
    kept = [1.0]
    for ratio in ratios.tolist():
        if all(max(ratio / other, other / ratio) > ALIKE for other in kept):
            kept.append(round(ratio, 2))
    return tuple(sorted(kept))


def _detections(objects: _Objects, zoom: float, window: tuple[int, int], reasons: dict[str, str]) -> int:
    share = np.minimum(np.array(window) / (objects.slices * zoom), 1).prod(axis=1)
    most = float(np.percentile(objects.most * share, 99))
    reasons["detections"] = (
        f"99th percentile over the cases of the objects that fall to a window of the fullest slice is {most:.1f}: "
        f"twice that, from {FEWEST_DETECTIONS} to {MOST_DETECTIONS}"
    )
    return int(np.clip(math.ceil(2 * most), FEWEST_DETECTIONS, MOST_DETECTIONS))
