"""Sparse overlaps of masks and boxes: by hand, against brute force, and for very many objects."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline import instance_overlaps
from pipeline.errors import SegtrailError
from pipeline.instance_overlaps import box_overlaps, mask_overlaps


def test_masks_worked_out_by_hand() -> None:
    prediction = np.array([[1, 1, 1, 0, 7, 7]])
    reference = np.array([[0, 4, 4, 4, 0, 2]])
    overlaps, sizes, reference_sizes = mask_overlaps(prediction, reference, [7, 1], [2, 4])
    # 7 and 2 share 1 of 2 voxels, 1 and 4 share 2 of 4.
    assert overlaps.toarray().tolist() == [[0.5, 0.0], [0.0, 0.5]]
    assert sizes.tolist() == [2, 3]
    assert reference_sizes.tolist() == [1, 3]


def test_ids_that_are_not_kept_are_background() -> None:
    prediction, reference = np.array([[1, 1, 2, 2]]), np.array([[3, 3, 3, 5]])
    overlaps, sizes, reference_sizes = mask_overlaps(prediction, reference, [2], [3])
    assert overlaps.toarray().tolist() == [[0.25]]
    assert (sizes.tolist(), reference_sizes.tolist()) == ([2], [3])
    overlaps, sizes, _ = mask_overlaps(prediction, reference, [9, 1], [])  # 9 does not occur
    assert (overlaps.shape, sizes.tolist()) == ((2, 0), [0, 2])


@pytest.mark.parametrize("shape", [(0, 3), (3, 2), (2, 2, 2)])
def test_maps_without_any_object(shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape, dtype=np.uint16)
    overlaps, sizes, reference_sizes = mask_overlaps(empty, empty, [], [])
    assert (overlaps.shape, overlaps.nnz, len(sizes), len(reference_sizes)) == ((0, 0), 0, 0, 0)


def test_maps_of_different_shape_are_refused() -> None:
    with pytest.raises(SegtrailError, match=r"\(2, 3\).*\(3, 2\)"):
        mask_overlaps(np.zeros((2, 3), dtype=int), np.zeros((3, 2), dtype=int), [], [])


def _maps(dtype: Any) -> st.SearchStrategy[tuple[NDArray[Any], NDArray[Any]]]:
    shapes = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)
    one = st.integers(0, 4)
    return shapes.flatmap(
        lambda s: st.tuples(hnp.arrays(dtype, s, elements=one), hnp.arrays(dtype, s, elements=one))
    )


@given(_maps(np.uint16), st.permutations([1, 2, 3, 4]), st.permutations([1, 2, 3, 4]), st.integers(0, 4))
def test_masks_equal_brute_force(
    maps: tuple[NDArray[Any], NDArray[Any]], rows: list[int], columns: list[int], kept: int
) -> None:
    prediction, reference = maps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instance_overlaps, "VOXELS_AT_ONCE", 4)  # several pieces even here
        overlaps, sizes, reference_sizes = mask_overlaps(
            prediction, np.asfortranarray(reference), rows[:kept], columns
        )
    assert sizes.tolist() == [(prediction == i).sum() for i in rows[:kept]]
    assert reference_sizes.tolist() == [(reference == j).sum() for j in columns]
    for i, row in enumerate(rows[:kept]):
        for j, column in enumerate(columns):
            a, b = prediction == row, reference == column
            expected = (a & b).sum() / max(1, (a | b).sum())
            assert overlaps[i, j] == expected
    assert (overlaps.data > 0).all()


def test_boxes_worked_out_by_hand() -> None:
    # 4 x 2 and 2 x 2 pixels that share 2 x 1; the third only touches the first, the fourth has no area.
    prediction = [[[0, 0], [4, 2]]]
    reference = [[[2, 1], [4, 3]], [[4, 0], [6, 2]], [[1, 1], [1, 2]]]
    overlaps, sizes, reference_sizes = box_overlaps(prediction, reference)
    assert overlaps.toarray().tolist() == [[2 / 10, 0.0, 0.0]]
    assert (sizes.tolist(), reference_sizes.tolist()) == ([8], [4, 4, 0])


def test_boxes_of_a_volume_worked_out_by_hand() -> None:
    overlaps, sizes, _ = box_overlaps([[[0, 0, 0], [2, 2, 2]]], [[[1, 1, 1], [3, 3, 3]]])
    assert overlaps.toarray().tolist() == [[1 / 15]]
    assert sizes.tolist() == [8]


def test_no_boxes_on_either_side() -> None:
    one = np.array([[[0, 0], [1, 1]]])
    for first, second in ((one, []), ([], one), ([], [])):
        overlaps, sizes, reference_sizes = box_overlaps(first, second)
        assert overlaps.shape == (len(first), len(second)) == (len(sizes), len(reference_sizes))
        assert overlaps.nnz == 0


def _boxes(dimensions: int) -> st.SearchStrategy[NDArray[Any]]:
    return st.integers(0, 8).flatmap(
        lambda n: hnp.arrays(np.int64, (n, 2, dimensions), elements=st.integers(0, 6)).map(
            lambda b: np.sort(b, axis=1)
        )
    )


@given(st.integers(2, 3).flatmap(lambda d: st.tuples(_boxes(d), _boxes(d))), st.sampled_from([1, 5, 1000]))
def test_boxes_equal_brute_force(boxes: tuple[NDArray[Any], NDArray[Any]], at_once: int) -> None:
    prediction, reference = boxes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instance_overlaps, "CANDIDATES_AT_ONCE", at_once)
        overlaps, _, _ = box_overlaps(prediction, reference)
    for i, a in enumerate(prediction):
        for j, b in enumerate(reference):
            common = int(np.prod(np.clip(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0, None)))
            union = int(np.prod(a[1] - a[0]) + np.prod(b[1] - b[0])) - common
            assert overlaps[i, j] == (common / union if common else 0)


def test_twenty_thousand_objects_need_little_memory() -> None:
    # Squares of 4 pixels on a grid of 200 x 100, the prediction one pixel further: a dense matrix of
    # 20 000 x 20 000 numbers would take 3.2 GB.
    ids = np.arange(1, 20_001).reshape(200, 100)
    reference = np.zeros((1200, 600), dtype=np.int32)
    for x in range(4):
        for y in range(4):
            reference[x::6, y::6] = ids
    prediction = np.roll(reference, 1, axis=0)
    corner = np.stack(np.divmod(np.arange(20_000), 100), axis=1) * 6
    boxes = np.stack([corner, corner + 4], axis=1)
    tracemalloc.start()
    try:
        masks, *_ = mask_overlaps(prediction, reference, range(1, 20_001), range(1, 20_001))
        squares, *_ = box_overlaps(boxes + [1, 0], boxes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    # Each shares 12 pixels of 20 with its own reference, and none with another.
    for overlaps in (masks, squares):
        assert overlaps.nnz == 20_000
        assert (overlaps.diagonal() == 12 / 20).all()
