"""Voxels of a reference that nobody labelled: they teach nothing, count in no metric, and are no background.

`dataset.json` names their value (`"labels": {..., "ignore": 3}`, nnU-Net's spelling). A network sees them as
`IGNORE_INDEX`, whatever their value is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.instances import describe_objects
from pipeline.volume import LabelMap, Prediction

IGNORE_INDEX = 255  # of uint8 label maps in the store; classes have the indices below
Mask = NDArray[np.bool_]


def find_ignored(label_map: LabelMap, ignore: int | None) -> Mask | None:
    """Which voxels nobody labelled, (X, Y, Z); None when all are labelled.

    Args:
        label_map: A reference.
        ignore: Value of `dataset.json`; None = there is none.
    """
    if ignore is None:
        return None
    ignored: Mask = label_map.array == ignore
    return ignored if ignored.any() else None


def hide_ignored(maps: Mapping[str, LabelMap], ignored: Mask | None) -> dict[str, LabelMap]:
    """Label and instance maps with background where nobody labelled; maps of another shape stay as they are."""
    if ignored is None:
        return dict(maps)
    return {
        role: replace(one, array=np.where(ignored, np.zeros((), one.array.dtype), one.array))
        if one.array.shape == ignored.shape
        else one
        for role, one in maps.items()
    }


def hide_unlabelled(predicted: NDArray[Any], reference: NDArray[Any]) -> NDArray[Any]:
    """Network indices of a prediction, background where the reference is `IGNORE_INDEX`."""
    return np.where(reference == IGNORE_INDEX, np.zeros((), predicted.dtype), predicted)


def crop_prediction(prediction: Prediction, ignored: Mask | None) -> Prediction:
    """What a prediction says where the reference says something, as if the rest lay outside of the image.

    Objects lose their ignored voxels and are measured again; those without any other voxel are gone. Ids and
    scores stay.

    Args:
        prediction: On the grid of the reference.
        ignored: From `find_ignored`.
    """
    if ignored is None:
        return prediction
    hidden = hide_ignored(
        {
            "label": prediction.label_map,
            "ids": LabelMap(prediction.instances.array, prediction.label_map.affine),
        },
        ignored,
    )
    label_map, ids = hidden["label"], hidden["ids"].array
    left = {one.id: one for one in describe_objects(ids, label_map.array, prediction.instances.affine)}
    items = tuple(
        replace(
            item,
            voxels=left[item.id].voxels,
            centroid_mm=left[item.id].centroid_mm,
            box_voxels=left[item.id].box_voxels,
        )
        for item in prediction.instances.items
        if item.id in left
    )
    return Prediction(label_map, replace(prediction.instances, array=ids, items=items))


def find_boundary(mask: Mask, known: Mask) -> Mask:
    """Voxels of a mask with a face neighbour outside it, where only some voxels are known.

    Unknown neighbours, and those beyond the array, are outside, just as beyond the edge of an image. Along an
    axis on which a voxel has no known neighbour at all nothing is outside, as in an image of one slice: the
    surface of a single labelled slice is its contour. A voxel without any known neighbour is a surface by itself.

    Args:
        mask: (X, Y, Z), of known voxels alone.
        known: The same shape.
    """
    boundary, alone = np.zeros_like(mask), mask.copy()
    for axis in range(mask.ndim):
        line = [1] * mask.ndim
        line[axis] = 3
        around = np.ones(line, np.bool_)
        inner = ndimage.binary_erosion(mask, around)
        sides = around.copy()
        sides[tuple(1 if n == 3 else 0 for n in line)] = False
        beside = ndimage.binary_dilation(known, sides)
        boundary |= mask & ~inner & beside
        alone &= ~beside
    return boundary | alone
