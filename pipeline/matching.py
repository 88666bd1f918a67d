"""Which prediction found which reference object: the greedy rule of COCO, for one class in one case."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Range = tuple[float, float]

# The thresholds of COCO's own code, to the last bit.
IOU_50_95: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
IOU_10_50: NDArray[np.float64] = np.linspace(0.1, 0.5, 9)

# From which overlap curves and pictures call an object found. In volumes less, as a few voxels more or less
# change the overlap of a small sphere a lot.
PICTURE_IOU = 0.5
VOLUME_IOU = 0.1

ALL_SIZES: Range = (0.0, math.inf)
# Of pictures, in pixels; both ends belong to a range.
SIZE_RANGES: dict[str, Range] = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, math.inf),
}


@dataclass(frozen=True)
class Detections:
    """Predicted and reference objects of one class in one case.

    Attributes:
        scores: (n,) confidence of each prediction, in any order.
        overlaps: (n, m) intersection over union with each reference object, stored where above 0.
        prediction_sizes: (n,) what size ranges are taken over: voxels of the mask, or of the box, or
            diameters in mm.
        reference_sizes: (m,) in the same unit.
    """

    case_id: str
    patient_id: str
    scores: NDArray[np.float64]
    overlaps: csr_array
    prediction_sizes: NDArray[np.float64]
    reference_sizes: NDArray[np.float64]


@dataclass(frozen=True)
class Matches:
    """What became of the objects of one class in one case, at T thresholds.

    A prediction is a hit where `partners` is not -1, a false alarm where it is; neither where `ignored`.

    Attributes:
        predictions: (k,) index of the predictions that count, by falling score, equal scores as given.
        scores: (k,) their scores.
        partners: (T, k) index of the reference object that each one found, or -1.
        ignored: (T, k) whether it counts neither way.
        references: Number of reference objects that are to be found.
    """

    case_id: str
    patient_id: str
    predictions: NDArray[np.intp]
    scores: NDArray[np.float64]
    partners: NDArray[np.intp]
    ignored: NDArray[np.bool_]
    references: int

    @property
    def hits(self) -> NDArray[np.bool_]:
        """(T, k) whether a prediction is a true positive."""
        return (self.partners >= 0) & ~self.ignored


def match(
    detections: Detections,
    thresholds: NDArray[np.float64],
    max_detections: int,
    size_range: Range = ALL_SIZES,
) -> Matches:
    """Gives each prediction, best score first, the free reference object that it overlaps most.

    Reference objects outside the size range need not be found: a prediction takes one only when no other is
    left for it, and is then ignored. A prediction that finds nothing is ignored when its own size lies
    outside the range. Of equal overlaps the later object is taken; of equal scores the earlier prediction
    goes first.

    Source: `COCOeval.evaluateImg` of pycocotools (no crowd annotations).

    Args:
        detections: One class of one case.
        thresholds: (T,) least overlaps of a match, above 0; an overlap equal to one is a match.
        max_detections: Only so many predictions count, the best ones.
        size_range: Smallest and largest size, both within the range.
    """
    order = np.argsort(-detections.scores, kind="stable")[:max_detections]
    outside = _outside(detections.reference_sizes, size_range)
    rows, columns, overlaps = _pairs_by_preference(detections.overlaps, order, outside)
    partners = np.full((len(thresholds), len(order)), -1, dtype=np.intp)
    for partner, threshold in zip(partners, thresholds, strict=True):
        enough = overlaps >= min(
            threshold, 1 - 1e-10
        )  # as COCO: an overlap of 1 that is rounded still counts
        _take_in_turn(rows[enough], columns[enough], partner)
    found = partners >= 0
    ignored = np.broadcast_to(_outside(detections.prediction_sizes[order], size_range), found.shape).copy()
    ignored[found] = outside[partners[found]]
    return Matches(
        case_id=detections.case_id,
        patient_id=detections.patient_id,
        predictions=order,
        scores=detections.scores[order],
        partners=partners,
        ignored=ignored,
        references=int(np.count_nonzero(~outside)),
    )


def _outside(sizes: NDArray[np.float64], size_range: Range) -> NDArray[np.bool_]:
    return (sizes < size_range[0]) | (sizes > size_range[1])


def _pairs_by_preference(
    overlaps: csr_array, order: NDArray[np.intp], outside: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Rank of the prediction, reference object and overlap, in the order in which pairs are offered."""
    rank = np.full(overlaps.shape[0], -1, dtype=np.intp)
    rank[order] = np.arange(len(order))
    rows, columns = np.repeat(rank, np.diff(overlaps.indptr)), overlaps.indices.astype(np.intp)
    preference = np.lexsort((-columns, -overlaps.data, outside[columns], rows))
    preference = preference[rows[preference] >= 0]
    return rows[preference], columns[preference], overlaps.data[preference]


def _take_in_turn(rows: NDArray[np.intp], columns: NDArray[np.intp], partner: NDArray[np.intp]) -> None:
    """Fills in `partner` (k,): a pair is made when both of its ends are free."""
    taken: set[int] = set()
    mate: dict[int, int] = {}
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if row not in mate and column not in taken:
            mate[row] = column
            taken.add(column)
    partner[list(mate.keys())] = list(mate.values())
