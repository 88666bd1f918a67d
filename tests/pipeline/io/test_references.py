"""Masks that overlap, painted by hand."""

from __future__ import annotations

import numpy as np

from pipeline.io.references import Piece, crop, overlap_findings, paint


def piece(*voxels: tuple[int, int, int], shape: tuple[int, int, int] = (4, 3, 1)) -> Piece:
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    found = crop(mask)
    assert found is not None
    return found


def test_a_shared_voxel_goes_to_the_smaller_mask_whatever_the_order() -> None:
    large = piece((0, 0, 0), (1, 0, 0), (2, 0, 0))
    small = piece((2, 0, 0), (3, 0, 0))
    for pieces, expected in (((large, small), [1, 1, 2, 2]), ((small, large), [2, 2, 1, 1])):
        instances, ids, shared = paint(pieces, (4, 3, 1))
        assert instances[:, 0, 0].tolist() == expected
        assert instances.sum() == sum(expected)
        assert (ids, shared, instances.dtype) == ([1, 2], 1, np.uint8)


def test_a_voxel_of_three_masks_counts_once() -> None:
    _, _, shared = paint([piece((1, 1, 0)), piece((1, 1, 0), (2, 1, 0)), piece((1, 1, 0))], (4, 3, 1))
    assert shared == 1


def test_a_hidden_mask_loses_its_id_and_the_others_close_up() -> None:
    pieces = [piece((0, 0, 0), (1, 0, 0)), piece((0, 0, 0)), piece((1, 0, 0)), piece((3, 2, 0))]
    instances, ids, shared = paint(pieces, (4, 3, 1))
    assert ids == [0, 1, 2, 3]
    assert (instances[0, 0, 0], instances[1, 0, 0], instances[3, 2, 0]) == (1, 2, 3)
    findings = overlap_findings(ids, ["a", "b", "c", "d"], shared)
    assert [(f.code, f.fatal) for f in findings] == [("masks_overlap", False), ("mask_hidden", False)]
    assert findings[0].reason == "2 voxel(s) belong to several masks, each goes to the smallest of them"
    assert findings[1].reason == "a lie wholly beneath other masks and have no voxel of their own"


def test_no_mask_is_an_empty_map() -> None:
    instances, ids, shared = paint([], (4, 3, 1))
    assert (instances.max(), ids, shared) == (0, [], 0)


def test_more_than_255_masks() -> None:
    pieces = [piece((i, j, 0), shape=(20, 20, 1)) for i in range(20) for j in range(20)]
    instances, ids, _ = paint(pieces, (20, 20, 1))
    assert (instances.dtype, ids[-1]) == (np.uint16, 400)
    assert (instances[:, :, 0] == np.arange(1, 401).reshape(20, 20)).all()


def test_crop() -> None:
    assert crop(np.zeros((2, 2, 2), bool)) is None
    found = piece((1, 0, 0), (3, 2, 0))
    assert found.box == (slice(1, 4), slice(0, 3), slice(0, 1))
    assert found.mask.shape == (3, 3, 1) and found.mask.sum() == 2
    assert found.mask.base is None  # the mask of the whole image is free to go
