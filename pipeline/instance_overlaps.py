"""Overlap of every predicted with every reference object of one case: masks or boxes, images or volumes.

Overlap is intersection over union. Only pairs that touch are stored, so memory grows with the objects, not
with their product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array

from pipeline.errors import SegtrailError

Sizes = NDArray[np.float64]
Overlaps = tuple[csr_array, Sizes, Sizes]

VOXELS_AT_ONCE = 1 << 22
CANDIDATES_AT_ONCE = 1 << 17


def mask_overlaps(
    prediction_ids: NDArray[Any],
    reference_ids: NDArray[Any],
    prediction_keep: Sequence[int] | NDArray[np.integer[Any]],
    reference_keep: Sequence[int] | NDArray[np.integer[Any]],
) -> Overlaps:
    """Intersection over union of the masks of two instance maps.

    Args:
        prediction_ids: Integer map of any shape, 0 is background.
        reference_ids: The same shape.
        prediction_keep: Ids of the prediction that count, each once; they are the rows, in this order. The
            voxels of other ids are background.
        reference_keep: The same for the columns.

    Returns:
        (n, m) overlaps above 0, voxels of each prediction (n,), voxels of each reference object (m,). An id
        that the map does not hold has 0 voxels.

    Raises:
        SegtrailError: The maps differ in shape.
    """
    if prediction_ids.shape != reference_ids.shape:
        raise SegtrailError(
            f"the predicted instances have shape {prediction_ids.shape}, the reference {reference_ids.shape}",
            "instance maps",
            "bring both onto one grid",
        )
    first, second, voxels = _count_pairs(prediction_ids, reference_ids)
    rows, columns = _places(first, prediction_keep), _places(second, reference_keep)
    sizes = _sum_by_place(rows, voxels, len(prediction_keep))
    reference_sizes = _sum_by_place(columns, voxels, len(reference_keep))
    both = (rows >= 0) & (columns >= 0)
    overlaps = _build(rows[both], columns[both], voxels[both], sizes, reference_sizes)
    return overlaps, sizes, reference_sizes


def _count_pairs(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], Sizes]:
    """Voxels of each pair of ids that occurs at one place; an object's size is the sum over its pairs."""
    base = int(second.max(initial=0)) + 1
    codes, counts = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    thickness = max(1, VOXELS_AT_ONCE * len(first) // max(1, first.size))
    for start in range(0, len(first), thickness):
        a, b = first[start : start + thickness], second[start : start + thickness]
        seen = (a != 0) | (b != 0)
        code, count = np.unique(
            a[seen].astype(np.int64) * base + b[seen].astype(np.int64), return_counts=True
        )
        codes.append(code)
        counts.append(count)
    code, place = np.unique(np.concatenate(codes), return_inverse=True)
    voxels = np.bincount(place, weights=np.concatenate(counts), minlength=len(code))
    return code // base, code % base, voxels.astype(np.float64)


def _places(ids: NDArray[Any], keep: Sequence[int] | NDArray[Any]) -> NDArray[np.intp]:
    """Position of each id in `keep`, -1 where it is not kept."""
    kept = np.asarray(keep, dtype=np.int64)
    order = np.argsort(kept)
    if not len(kept):
        return np.full(len(ids), -1)
    found = np.minimum(np.searchsorted(kept, ids, sorter=order), len(kept) - 1)
    places: NDArray[np.intp] = np.where(kept[order[found]] == ids, order[found], -1)
    return places


def _sum_by_place(places: NDArray[np.intp], voxels: Sizes, count: int) -> Sizes:
    kept = places >= 0
    return np.bincount(places[kept], weights=voxels[kept], minlength=count).astype(np.float64)


def box_overlaps(prediction_boxes: ArrayLike, reference_boxes: ArrayLike) -> Overlaps:
    """Intersection over union of half-open boxes with edges along the axes.

    Args:
        prediction_boxes: (n, 2, d): first corner, and the corner behind the last voxel; d is 2 or 3.
        reference_boxes: (m, 2, d).

    Returns:
        (n, m) overlaps above 0, voxels of each predicted box (n,), voxels of each reference box (m,). A box
        without an area overlaps nothing.
    """
    first, second = _boxes(prediction_boxes), _boxes(reference_boxes)
    sizes, reference_sizes = _box_sizes(first), _box_sizes(second)
    empty = (np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp), np.empty(0))
    found = [empty, *_intersect(first, second)] if len(first) and len(second) else [empty]
    rows, columns, common = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _build(rows, columns, common, sizes, reference_sizes), sizes, reference_sizes


def _boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(boxes, dtype=np.float64)
    return array if array.size else np.empty((0, 2, 1))


def _box_sizes(boxes: NDArray[np.float64]) -> Sizes:
    sizes: Sizes = np.clip(boxes[:, 1] - boxes[:, 0], 0, None).prod(axis=1)
    return sizes


def _intersect(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], Sizes]]:
    """Pairs of boxes that touch, with their common voxels.

    A sweep along the axis on which boxes stand widest apart: with the references sorted by their start, those
    that can reach a box follow each other, because none is longer than the longest.
    """
    axis = int(np.ptp(np.concatenate([first[:, 0], second[:, 0]]), axis=0).argmax())
    order = np.argsort(second[:, 0, axis], kind="stable")
    starts = second[order, 0, axis]
    longest = (second[:, 1, axis] - second[:, 0, axis]).max()
    begin = np.searchsorted(starts, first[:, 0, axis] - longest, "left")
    count = np.maximum(np.searchsorted(starts, first[:, 1, axis], "left") - begin, 0)
    block = np.cumsum(count) // CANDIDATES_AT_ONCE
    for rows in np.split(np.arange(len(first)), np.flatnonzero(np.diff(block)) + 1):
        row = np.repeat(rows, count[rows])
        step = np.arange(len(row)) - np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
        column = order[begin[row] + step]
        a, b = first[row], second[column]
        common = np.clip(np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0]), 0, None).prod(axis=1)
        touch = common > 0
        yield row[touch], column[touch], common[touch]


def _build(
    rows: NDArray[np.intp], columns: NDArray[np.intp], common: Sizes, first: Sizes, second: Sizes
) -> csr_array:
    union = first[rows] + second[columns] - common
    return coo_array((common / union, (rows, columns)), shape=(len(first), len(second))).tocsr()
