"""From the label maps of several readers to one reference, and how far the readers agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

LabelArray = NDArray[np.integer[Any]]
Voxels = NDArray[np.int64]  # places in the flattened (X, Y, Z) image, each once, rising


def mean_pairwise_dice(masks: Sequence[Voxels]) -> float:
    """Mean Dice of each two readers' masks.

    Args:
        masks: Voxels of each reader; a reader who drew nothing has none.

    Returns:
        Two empty masks count for nothing, of exactly one it is 0; NaN without any pair that counts.
    """
    pairs = [(a, b) for a, b in combinations(masks, 2) if a.size + b.size]
    dice = [2 * np.intersect1d(a, b, assume_unique=True).size / (a.size + b.size) for a, b in pairs]
    return sum(dice) / len(dice) if dice else math.nan


def agreeing_voxels(masks: Sequence[Voxels], readers: int) -> Voxels:
    """Voxels that at least so many readers drew; there may be none."""
    voxels, counts = np.unique(np.concatenate(masks), return_counts=True)
    return voxels[counts >= readers]


def vote(labels: Sequence[LabelArray], ignore: int | None) -> LabelArray:
    """The value that most readers gave each voxel; of equally many the smallest, so background before any class.

    Args:
        labels: (X, Y, Z) of each reader.
        ignore: Value of voxels that a reader did not label: there he has no vote; nobody's vote leaves it.
    """
    most = np.zeros(labels[0].shape, np.uint8)
    winner = np.full(labels[0].shape, 0 if ignore is None else ignore, _common_type(labels, ignore))
    values = np.unique(np.concatenate([np.unique(label) for label in labels]))
    for value in values[values != ignore] if ignore is not None else values:
        votes = np.zeros_like(most)
        for label in labels:
            votes += label == value
        better = votes > most
        winner[better], most[better] = value, votes[better]
    return winner


def _common_type(labels: Sequence[LabelArray], ignore: int | None) -> np.dtype[Any]:
    """Integer type that holds the values of all readers, whose files need not be of one type."""
    return np.result_type(*labels, np.min_scalar_type(ignore or 0))


def staple(labels: Sequence[LabelArray], ignore: int | None) -> LabelArray:
    """SimpleITK's multi-label STAPLE: votes weighed by how reliable each reader is for each class.

    Undecided voxels are background.

    Args:
        labels: (X, Y, Z) of each reader.
        ignore: Of no reader's map: STAPLE has no missing votes, so `vote` decides where a voxel has this value.

    Source: Rohlfing et al., Performance-based classifier combination in atlas-based image segmentation (2004).
    """
    import SimpleITK as sitk

    largest = max(int(label.max()) for label in labels)
    wide = np.uint8 if largest < np.iinfo(np.uint8).max else np.uint16
    if all(np.array_equal(labels[0], label) for label in labels[1:]):
        return labels[0]
    images = [sitk.GetImageFromArray(label.astype(wide).T) for label in labels]
    joined = sitk.MultiLabelSTAPLE(images, 0)  # type: ignore[no-untyped-call]
    found: LabelArray = sitk.GetArrayFromImage(joined).T.astype(_common_type(labels, ignore))
    if ignore is None:
        return found
    missing = np.any([label == ignore for label in labels], axis=0)
    return np.where(missing, vote(labels, ignore), found)


def take_first(labels: Sequence[LabelArray], ignore: int | None) -> LabelArray:
    """The first reader's map."""
    return labels[0]


CONSENSUS: Mapping[str, Callable[[Sequence[LabelArray], int | None], LabelArray]] = {
    "majority": vote,
    "staple": staple,
    "first": take_first,
}
