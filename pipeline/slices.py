"""Windows of slices: what a 2D detector sees of a picture or of a volume.

A window is a rectangle of one slice; in volumes the neighbouring slices are further channels (2.5D).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.errors import SegtrailError
from pipeline.plan import DetectionPlan, Plan

LARGEST_EDGE = 512  # network pixels that are seen at once in prediction
STEP = 32  # edges are multiples of the coarsest level's stride


@dataclass(frozen=True)
class WindowDetections:
    """What was found in one window, on the CPU, best first.

    Attributes:
        boxes: (n, 4) float32 X0, Y0, X1, Y1 in network pixels, half-open.
        scores: (n,) float32.
        labels: (n,) int64 network class indices.
        masks: (n, 28, 28) float32 probabilities over the box, axes X, Y.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor


def require_detection(plan: Plan) -> DetectionPlan:
    """The plan's detection part.

    Raises:
        SegtrailError: It has none, or voxels that nobody labelled.
    """
    if plan.ignore_value is not None:
        raise SegtrailError(
            f"labels have the ignore value {plan.ignore_value}, which detection of objects cannot leave out",
            "dataset.json: labels",
            "leave models of network maskrcnn out of models in params.yaml, or label every voxel",
        )
    if plan.detection is None:
        raise SegtrailError(
            "no training case has an object, so there is nothing to plan detection from",
            "data/plan/plan.json",
            "leave models of network maskrcnn out of models in params.yaml, or add cases with labelled objects",
        )
    return plan.detection


def source_window(detection: DetectionPlan) -> tuple[int, int]:
    """Voxels of the plan's grid along X and Y that fill a window."""
    x, y = (max(1, round(side / detection.zoom)) for side in detection.window)
    return x, y


def window_scale(detection: DetectionPlan) -> tuple[float, float]:
    """Network pixels a voxel along X and Y: the zoom, up to the rounding of `source_window`."""
    x, y = source_window(detection)
    return detection.window[0] / x, detection.window[1] / y


def enlarge_window(detection: DetectionPlan, shape: tuple[int, ...]) -> DetectionPlan:
    """A plan whose window sees as much of a slice as possible: for prediction, which needs no gradients.

    Objects that no edge of a window cuts need no merging, and less is computed twice.

    Args:
        detection: As trained.
        shape: Voxels of the slice along X and Y.
    """
    wanted = [
        max(trained, min(LARGEST_EDGE, STEP * math.ceil(whole * scale / STEP)))
        for trained, whole, scale in zip(detection.window, shape, window_scale(detection), strict=True)
    ]
    return detection.model_copy(update={"window": (wanted[0], wanted[1])})


def cut_window(
    image: NDArray[Any],
    start: tuple[int, int],
    slice_index: int,
    size: tuple[int, int],
    slices: int,
    padding: tuple[float, ...],
) -> NDArray[np.float32]:
    """Cuts a window and its neighbouring slices.

    Args:
        image: (C, X, Y, Z).
        start: First voxel along X and Y; the window may reach outside the image.
        slice_index: The slice that the window shows.
        size: Voxels along X and Y.
        slices: Odd number of neighbouring slices; beyond the first and last one, that one is repeated.
        padding: Value outside along X and Y, one a channel.

    Returns:
        (slices * C, X, Y) float32, slice after slice.
    """
    wanted = np.arange(slice_index - slices // 2, slice_index + slices // 2 + 1)
    depth = np.clip(wanted, 0, image.shape[3] - 1)
    ends = [min(s + n, whole) for s, n, whole in zip(start, size, image.shape[1:3], strict=True)]
    begins = [max(s, 0) for s in start]
    window = np.empty((slices, len(image), *size), np.float32)
    window[:] = np.asarray(padding, np.float32)[:, None, None]
    target = tuple(slice(b - s, e - s) for b, e, s in zip(begins, ends, start, strict=True))
    inside = image[:, begins[0] : ends[0], begins[1] : ends[1]][..., depth]
    window[(slice(None), slice(None), *target)] = np.moveaxis(inside, -1, 0)
    return window.reshape(-1, *size)


def zoom_image(windows: torch.Tensor, detection: DetectionPlan) -> torch.Tensor:
    """Windows (N, C, X, Y) on the plan's grid in network pixels, bilinear."""
    if tuple(windows.shape[2:]) == detection.window:
        return windows
    return functional.interpolate(windows, size=detection.window, mode="bilinear", align_corners=False)


def zoom_ids(ids: torch.Tensor, detection: DetectionPlan) -> torch.Tensor:
    """Instance ids (N, X, Y) in network pixels, nearest neighbour; any integer type."""
    if tuple(ids.shape[1:]) == detection.window:
        return ids
    scaled = functional.interpolate(ids[:, None].double(), size=detection.window, mode="nearest-exact")
    return scaled[:, 0].to(ids.dtype)
