"""Scores of one case that need no confidence: the Kaggle 2018 score and panoptic quality.

Both count pairs of objects that overlap by more than a threshold, one prediction to one reference object.
Masks that do not overlap one another cannot share more than half of a union with two objects, so above an
intersection over union of 0.5 the pairs are unique. Where they are not (a lower threshold, or masks of one
side that do overlap), as many pairs as possible are made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

# Twentieths: `numpy.linspace` gives 0.8999999999999999, which an overlap of exactly 0.9 would exceed.
DSB_THRESHOLDS: NDArray[np.float64] = np.arange(10, 20) / 20


@dataclass(frozen=True)
class PanopticQuality:
    """Panoptic quality of one class in one case, and what it is made of.

    Attributes:
        pq: Sum of the overlaps of the pairs by TP + FP / 2 + FN / 2, which is `sq` times `rq`. NaN when there
            is no object on either side.
        sq: Segmentation quality, the mean overlap of the pairs; 0 without a pair, NaN without an object.
        rq: Recognition quality, TP by TP + FP / 2 + FN / 2, which is the F1 of the objects.
        tp: Pairs.
        fp: Predicted objects without a partner.
        fn: Reference objects without a partner.
    """

    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int


def panoptic_quality(overlaps: csr_array, n: int, m: int) -> PanopticQuality:
    """Panoptic quality at an intersection over union above 0.5.

    Source: Kirillov et al., Panoptic Segmentation, CVPR 2019, arXiv:1801.00868.

    Args:
        overlaps: (n, m) intersection over union, of masks that do not overlap one another on either side.
        n: Predicted objects.
        m: Reference objects.
    """
    rows, columns = pair_objects(overlaps, 0.5)
    tp = len(rows)
    fp, fn = n - tp, m - tp
    if n + m == 0:
        return PanopticQuality(math.nan, math.nan, math.nan, 0, 0, 0)
    total = float(overlaps[rows, columns].sum()) if tp else 0.0
    weight = tp + fp / 2 + fn / 2
    return PanopticQuality(total / weight, total / tp if tp else 0.0, tp / weight, tp, fp, fn)


def dsb_ap(
    overlaps: csr_array, n: int, m: int, thresholds: NDArray[np.float64] = DSB_THRESHOLDS
) -> NDArray[np.float64]:
    """Share of true among true, false and missed objects of one image: TP / (TP + FP + FN).

    Source: the evaluation page of Kaggle's 2018 Data Science Bowl: a hit has an intersection over union
    greater than the threshold; the score is the mean over the thresholds .50:.05:.95, then over the images.

    Args:
        overlaps: (n, m) intersection over union.
        n: Predicted objects.
        m: Reference objects.
        thresholds: (T,); an overlap equal to a threshold is no hit.

    Returns:
        (T,), all NaN when there is no object on either side.
    """
    if n + m == 0:
        return np.full(len(thresholds), np.nan)
    pairs = np.array(
        [len(pair_objects(overlaps, threshold)[0]) for threshold in thresholds], dtype=np.float64
    )
    return pairs / (n + m - pairs)


def pair_objects(overlaps: csr_array, threshold: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs predictions with reference objects that they overlap by more than a threshold.

    Args:
        overlaps: (n, m) intersection over union.
        threshold: An overlap equal to it is no pair.

    Returns:
        Rows (k,), ascending, and columns (k,) of the pairs. No row and no column appears twice.
    """
    enough = overlaps.data > threshold
    rows = np.repeat(np.arange(overlaps.shape[0]), np.diff(overlaps.indptr))[enough]
    columns = overlaps.indices[enough].astype(np.intp)
    if len(np.unique(rows)) < len(rows) or len(np.unique(columns)) < len(columns):
        graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=overlaps.shape).tocsr()
        partner = maximum_bipartite_matching(graph, perm_type="column")
        rows = np.flatnonzero(partner >= 0)
        columns = partner[rows].astype(np.intp)
    return rows, columns
