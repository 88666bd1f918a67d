"""Detections of single slices joined into objects of a volume, and painted into one map.

Linking by overlap as in slice-wise lesion detectors (Jaeger et al., Medical Detection Toolkit, 2020): a
detection continues the object of the slice before it that it overlaps most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

CONTAINED = 0.7  # share of the smaller of two masks that lies in the larger one
GAP = 1  # slices an object may be missed in
TAIL = 0.3  # slices at an object's ends that score below this share of its best slice are cut off


@dataclass(frozen=True)
class SliceObject:
    """A detection in one slice, on the plan's grid.

    Attributes:
        slice_index: Along Z.
        start: First voxel of `mask` along X and Y; inside the image.
        mask: (X, Y) bool of its box.
        score: 0 to 1.
        label: Network class index.
    """

    slice_index: int
    start: tuple[int, int]
    mask: NDArray[np.bool_]
    score: float
    label: int

    @cached_property
    def area(self) -> int:
        """Number of voxels."""
        return int(self.mask.sum())

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """X0, Y0, X1, Y1 of `mask`, half-open."""
        (x, y), (width, height) = self.start, self.mask.shape
        return x, y, x + width, y + height

    def place(self) -> tuple[slice, slice, int]:
        """Index of the mask's box in a map (X, Y, Z)."""
        x, y = self.start
        return slice(x, x + self.mask.shape[0]), slice(y, y + self.mask.shape[1]), self.slice_index


@dataclass
class FoundObject:
    """An object of a volume: detections by slice, at most one a slice.

    Attributes:
        label: Network class index.
        parts: Detections, by slice.
    """

    label: int
    parts: list[SliceObject] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Mean of the slices' scores by area: an object is as sure as its large slices are."""
        areas = np.array([part.area for part in self.parts], float)
        return float(np.average([part.score for part in self.parts], weights=areas))


def overlap(first: SliceObject, second: SliceObject) -> tuple[float, float]:
    """Intersection over union, and over the smaller area, of two masks, whatever their slices."""
    shared = _shared(first, second)
    common = 0 if shared is None else int(shared.mask.sum())
    union = first.area + second.area - common
    return common / union, common / min(first.area, second.area)


def _shared(first: SliceObject, second: SliceObject) -> SliceObject | None:
    """What two masks have in common, with the rest taken from the first; None when their boxes do not meet."""
    low = np.maximum(first.box[:2], second.box[:2])
    high = np.minimum(first.box[2:], second.box[2:])
    if (high <= low).any():
        return None
    pieces = []
    for one in (first, second):
        begin, end = low - one.start, high - one.start
        pieces.append(one.mask[begin[0] : end[0], begin[1] : end[1]])
    start = (int(low[0]), int(low[1]))
    return SliceObject(first.slice_index, start, pieces[0] & pieces[1], first.score, first.label)


def join_slices(detections: Sequence[SliceObject], link_iou: float) -> list[FoundObject]:
    """Links detections of neighbouring slices.

    Pairs of one class are taken by falling overlap, so the best continuation wins. A detection that lies in
    its neighbour is linked too, however small it is: so end round objects. An object may be missed in GAP
    slices; there it gets what the slices around have in common.

    Args:
        detections: Of one case, any order, each with at least one voxel.
        link_iou: Least intersection over union of a link.

    Returns:
        Objects by falling score.
    """
    by_slice: dict[int, list[SliceObject]] = {}
    for one in detections:
        by_slice.setdefault(one.slice_index, []).append(one)
    finished: list[FoundObject] = []
    growing: list[FoundObject] = []
    for index in sorted(by_slice):
        reachable = [one for one in growing if index - one.parts[-1].slice_index <= GAP + 1]
        finished += [one for one in growing if index - one.parts[-1].slice_index > GAP + 1]
        growing = reachable + _continue(reachable, by_slice[index], link_iou)
    objects = [_without_gaps(_without_tails(one)) for one in finished + growing]
    return sorted(objects, key=lambda one: -one.score)


def _continue(
    growing: Sequence[FoundObject], detections: Sequence[SliceObject], link_iou: float
) -> list[FoundObject]:
    """Adds the detections of a slice to the objects they continue; returns the objects that begin here."""
    pairs = []
    for i, j in _meeting([one.parts[-1] for one in growing], detections):
        if growing[i].label == detections[j].label:
            iou, contained = overlap(growing[i].parts[-1], detections[j])
            if iou > 0 and (iou >= link_iou or contained >= CONTAINED):
                pairs.append((iou, i, j))
    taken: set[int] = set()
    continued: set[int] = set()
    for _, i, j in sorted(pairs, reverse=True):
        if i in continued or j in taken:
            continue
        growing[i].parts.append(detections[j])
        continued.add(i)
        taken.add(j)
    return [FoundObject(new.label, [new]) for j, new in enumerate(detections) if j not in taken]


def _meeting(first: Sequence[SliceObject], second: Sequence[SliceObject]) -> list[tuple[int, int]]:
    """Pairs whose boxes share a pixel; masks are compared for these alone."""
    if not first or not second:
        return []
    one, two = (np.array([found.box for found in each]) for each in (first, second))
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    return [(int(i), int(j)) for i, j in np.argwhere((low < high).all(axis=2))]


def _without_tails(found: FoundObject) -> FoundObject:
    """Cuts off doubtful slices at both ends: a chance link would make an object longer than it is."""
    limit = TAIL * max(part.score for part in found.parts)
    sure = [i for i, part in enumerate(found.parts) if part.score >= limit]
    return FoundObject(found.label, found.parts[sure[0] : sure[-1] + 1])


def _without_gaps(found: FoundObject) -> FoundObject:
    """Fills missed slices with what the slices on both sides have in common."""
    parts = list(found.parts)
    for before, after in pairwise(found.parts):
        common = _shared(before, after)
        if common is None or not common.mask.any():
            continue
        score = (before.score + after.score) / 2
        for index in range(before.slice_index + 1, after.slice_index):
            parts.append(replace(common, slice_index=index, score=score))
    return FoundObject(found.label, sorted(parts, key=lambda part: part.slice_index))


def paint_objects(
    objects: Sequence[FoundObject], shape: tuple[int, int, int], duplicate_share: float
) -> tuple[NDArray[np.int32], list[FoundObject]]:
    """Paints objects into one map, the surest first; a voxel belongs to the first that claims it.

    Args:
        objects: By falling score.
        shape: X, Y, Z of the plan's grid.
        duplicate_share: An object of which more than this share is taken already is left out.

    Returns:
        (X, Y, Z) ids from 1, and the object of each id.
    """
    ids = np.zeros(shape, np.int32)
    kept: list[FoundObject] = []
    for found in objects:
        places = [(part.place(), part.mask) for part in found.parts]
        voxels = sum(int(mask.sum()) for _, mask in places)
        taken = sum(int((mask & (ids[place] > 0)).sum()) for place, mask in places)
        if taken > duplicate_share * voxels or taken == voxels:
            continue
        kept.append(found)
        for place, mask in places:
            view = ids[place]
            view[mask & (view == 0)] = len(kept)
    return ids, kept
