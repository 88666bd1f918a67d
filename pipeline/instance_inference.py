"""Windows of all slices through Mask R-CNN, and what it finds as objects on the plan's grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torchvision.ops import batched_nms

from pipeline.config import PredictParams
from pipeline.plan import DetectionPlan, Plan
from pipeline.preprocessing import prepare_volume
from pipeline.resampling import resample_nearest
from pipeline.slice_joining import FoundObject, SliceObject, join_slices, paint_objects
from pipeline.slices import (
    WindowDetections,
    cut_window,
    enlarge_window,
    require_detection,
    source_window,
    window_scale,
    zoom_image,
)
from pipeline.volume import Volume, from_canonical, reorientation

Detector = Callable[[torch.Tensor, float], list[WindowDetections]]
Window = tuple[tuple[int, int], WindowDetections]  # first voxel, and what was found
WINDOWS_AT_ONCE = {"cpu": 2, "cuda": 16}
BORDER = 1.0  # voxels: a box that comes so near to a window's inner edge is cut by it


def find_objects(
    network: Detector, image: torch.Tensor, plan: Plan, params: PredictParams, device: torch.device
) -> tuple[NDArray[np.int32], list[FoundObject]]:
    """Finds the objects of a prepared case.

    Args:
        network: In evaluation mode, on `device`.
        image: (C, X, Y, Z) on the plan's spacing.
        plan: With its detection part.
        params: Section `predict`.
        device: Where the network runs.

    Returns:
        (X, Y, Z) painted ids from 1, and the object of each id, by falling score.
    """
    array = image.cpu().numpy()
    detection = enlarge_window(require_detection(plan), array.shape[1:3])
    padding = tuple(how.padding for how in plan.normalization)
    found = _run_windows(network, array, detection, padding, params, device)
    detections = [
        one
        for index, windows in enumerate(found)
        for one in _merge(windows, index, array.shape[1:3], detection, params)
    ]
    objects = join_slices(detections, params.link_iou)
    x, y, z = array.shape[1:]
    return paint_objects(objects, (x, y, z), params.duplicate_iou)


def _run_windows(
    network: Detector,
    image: NDArray[np.float32],
    detection: DetectionPlan,
    padding: tuple[float, ...],
    params: PredictParams,
    device: torch.device,
) -> list[list[Window]]:
    """What the network finds in every window, by slice; batches run over slices."""
    size = source_window(detection)
    starts = [
        _starts(whole, side, params.overlap) for whole, side in zip(image.shape[1:3], size, strict=True)
    ]
    places = list(product(range(image.shape[3]), *starts))
    at_once = WINDOWS_AT_ONCE.get(device.type, 1)
    found: list[list[Window]] = [[] for _ in range(image.shape[3])]
    for first in range(0, len(places), at_once):
        batch = places[first : first + at_once]
        windows = [cut_window(image, (x, y), index, size, detection.slices, padding) for index, x, y in batch]
        with torch.inference_mode():
            pixels = zoom_image(torch.from_numpy(np.stack(windows)).to(device), detection)
            results = network(pixels, params.min_score)
        for (index, x, y), result in zip(batch, results, strict=True):
            found[index].append(((x, y), result))
    return found


def _starts(whole: int, size: int, overlap: float) -> list[int]:
    """First voxels of windows along one axis that cover it, overlapping at least as asked."""
    if whole <= size:
        return [min(0, (whole - size) // 2)]
    count = math.ceil((whole - size) / (size * (1 - overlap))) + 1
    return [round(i * (whole - size) / (count - 1)) for i in range(count)]


def _merge(
    found: list[Window],
    index: int,
    shape: tuple[int, ...],
    detection: DetectionPlan,
    params: PredictParams,
) -> list[SliceObject]:
    scale = torch.tensor([*window_scale(detection)] * 2)
    boxes, scores, labels, masks = [], [], [], []
    size = source_window(detection)
    starts = [_starts(whole, side, params.overlap) for whole, side in zip(shape, size, strict=True)]
    for start, one in found:
        own = one.boxes / scale + torch.tensor([*start] * 2, dtype=torch.float32)
        whole = ~_is_cut(own, start, size, starts)
        boxes.append(own[whole])
        scores.append(one.scores[whole])
        labels.append(one.labels[whole])
        masks.append(one.masks[whole])
    box, score, label, mask = (torch.cat(parts) for parts in (boxes, scores, labels, masks))
    kept = batched_nms(box, score, label, params.duplicate_iou)
    objects = [_paste(box[i], mask[i], index, float(score[i]), int(label[i]), shape) for i in kept.tolist()]
    return [one for one in objects if one is not None]


def _is_cut(
    boxes: torch.Tensor, start: tuple[int, int], size: tuple[int, int], starts: list[list[int]]
) -> torch.Tensor:
    """Which boxes are cut by an edge of their window where a neighbouring window sees more of the object.

    Args:
        boxes: (n, 4) X0, Y0, X1, Y1 in voxels.
        start: First voxel of the window.
        size: Its voxels along X and Y.
        starts: First voxels of all windows along X, and along Y, in order.
    """
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    for axis in range(2):
        low, high = boxes[:, axis], boxes[:, axis + 2]
        place = starts[axis].index(start[axis])
        if place > 0:
            end = starts[axis][place - 1] + size[axis]
            cut |= (low <= start[axis] + BORDER) & (high < end - BORDER)
        if place + 1 < len(starts[axis]):
            following = starts[axis][place + 1]
            cut |= (high >= start[axis] + size[axis] - BORDER) & (low > following + BORDER)
    return cut


def _paste(
    box: torch.Tensor, mask: torch.Tensor, index: int, score: float, label: int, shape: tuple[int, ...]
) -> SliceObject | None:
    """The mask of a box on the grid; None when no voxel of the image is in it."""
    first = [max(math.floor(float(box[axis])), 0) for axis in range(2)]
    last = [min(math.ceil(float(box[axis + 2])), shape[axis]) for axis in range(2)]
    if first[0] >= last[0] or first[1] >= last[1]:
        return None
    places = []
    for axis in range(2):
        centres = torch.arange(first[axis], last[axis]) + 0.5
        extent = max(float(box[axis + 2] - box[axis]), 1e-6)
        places.append(2 * (centres - box[axis]) / extent - 1)
    # grid_sample counts in the order Y, X.
    grid = torch.stack(torch.meshgrid(places[0], places[1], indexing="ij")[::-1], dim=-1)
    probability = functional.grid_sample(mask[None, None], grid[None].float(), align_corners=False)[0, 0]
    inside = (probability >= 0.5).numpy()
    if not inside.any():
        return None
    return SliceObject(index, (first[0], first[1]), inside, score, label)


def predict_objects(
    network: Detector,
    volume: Volume,
    plan: Plan,
    params: PredictParams,
    device: torch.device,
    where: str,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
    """Objects on the source grid.

    Args:
        network: In evaluation mode, on `device`.
        volume: As read, any orientation and spacing.
        plan: The plan the network was trained with.
        params: Section `predict`.
        device: Where the network runs.
        where: Case id and file, for errors.

    Returns:
        (X, Y, Z) painted ids from 1 in the axis order of `volume`; class index and score of each id.
    """
    image = prepare_volume(volume, plan, where)
    ids, found = find_objects(network, image, plan, params, device)
    axes, _ = reorientation(volume.affine)
    x, y, z = (volume.array.shape[1 + axis] for axis in axes)
    ids = resample_nearest(ids, (x, y, z)).astype(np.int32, copy=False)
    labels = np.array([one.label for one in found], np.int64)
    scores = np.array([one.score for one in found], np.float64)
    return np.ascontiguousarray(from_canonical(ids, volume.affine)), labels, scores
