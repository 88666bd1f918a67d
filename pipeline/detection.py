"""Average precision and recall of scored objects, pooled over cases, exactly as COCO defines them.

Predictions are matched to reference objects case by case (`pipeline.matching`); here they are ranked by score
over all cases. A case without any object adds nothing, misses lower the recall and false alarms the precision
of the whole set.

The bootstrap is part of it: a resample is how often it holds each case, and its average precision is that of
the list in which each case stands that often, one copy after the other.

Source: Lin et al., Microsoft COCO, ECCV 2014, arXiv:1405.0312; `COCOeval.accumulate` of pycocotools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.matching import Matches

Values = NDArray[np.float64]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]

RECALLS: Values = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class _Ranking:
    """Predictions of all cases by falling score, equal scores by case, then as given: sorted once for all draws.

    Attributes:
        scores: (E,).
        hits: (T, E) whether a prediction is a true positive.
        counted: (T, E) whether it counts at all.
        owners: (R,) index of the case of each run of equal scores within one case.
        starts: (R,) first prediction of the run.
        lengths: (R,) predictions in the run.
        references: (cases,) objects to be found.
    """

    scores: Values
    hits: Flags
    counted: Flags
    owners: Indices
    starts: Indices
    lengths: Indices
    references: NDArray[np.int64]

    def repeat(self, draw: NDArray[np.int64]) -> Indices:
        """Predictions of a draw (cases,): each run whole, as often as the draw holds its case."""
        times = draw[self.owners]
        starts, lengths = np.repeat(self.starts, times), np.repeat(self.lengths, times)
        ends = np.cumsum(lengths)
        return np.repeat(starts - ends + lengths, lengths) + np.arange(lengths.sum())


def average_precision(matches: Sequence[Matches], weights: NDArray[Any] | None = None) -> Values:
    """Mean precision at 101 recalls, the best precision at this recall or a higher one.

    Args:
        matches: One entry a case, all at the same T thresholds, at least one.
        weights: (cases,) how often each case counts, whole numbers; once each by default.

    Returns:
        (T,), NaN where there is no object to be found.
    """
    values: Values = bootstrap_average_precision(matches, _as_draw(matches, weights))[0]
    return values


def bootstrap_average_precision(matches: Sequence[Matches], draws: NDArray[Any]) -> Values:
    """Average precision of many resamples of the cases.

    Args:
        matches: One entry a case, all at the same T thresholds, at least one.
        draws: (samples, cases) how often each resample holds each case, whole numbers.

    Returns:
        (samples, T), NaN where a resample holds no object to be found.
    """
    ranking = _rank(matches)
    counts = np.asarray(draws).astype(np.int64)
    result = np.full((len(counts), len(ranking.hits)), np.nan)
    for draw, row in zip(counts, result, strict=True):
        references = int(draw @ ranking.references)
        if references:
            needed, order = _hits_needed(references), ranking.repeat(draw)
            for t, hits in enumerate(ranking.hits):
                counted = ranking.counted[t]
                accepted = None if counted.all() else np.cumsum(counted[order])
                row[t] = _interpolate(np.flatnonzero(hits[order]), accepted, needed).mean()
    return result


def average_recall(matches: Sequence[Matches], weights: NDArray[Any] | None = None) -> Values:
    """Share of the objects that were found by any prediction that counts; COCO's AR is its mean over T.

    Args:
        matches: As for `average_precision`; made with the `max_detections` that AR is named by.
        weights: (cases,) how often each case counts; once each by default.

    Returns:
        (T,), NaN where there is no object to be found.
    """
    values: Values = bootstrap_average_recall(matches, _as_draw(matches, weights))[0]
    return values


def bootstrap_average_recall(matches: Sequence[Matches], draws: NDArray[Any]) -> Values:
    """Average recall of many resamples of the cases.

    Args:
        matches: As for `average_recall`.
        draws: (samples, cases) how often each resample holds each case.

    Returns:
        (samples, T), NaN where a resample holds no object to be found.
    """
    counts = np.asarray(draws, dtype=np.float64)
    found = counts @ np.array([m.hits.sum(axis=1) for m in matches], dtype=np.float64)
    total = (counts @ np.array([m.references for m in matches], dtype=np.float64))[:, None]
    recall: Values = np.full(found.shape, np.nan)
    return np.divide(found, total, out=recall, where=total > 0)


def precision_recall_curve(matches: Sequence[Matches], threshold_index: int) -> tuple[Values, Values, Values]:
    """The curve whose mean height is the average precision.

    Args:
        matches: As for `average_precision`.
        threshold_index: Which of the T thresholds.

    Returns:
        101 recalls, the precision at each, and the score down to which predictions must be accepted to reach
        it (NaN where none reaches it). The precision is NaN when there is no object to be found.
    """
    ranking = _rank(matches)
    references = int(ranking.references.sum())
    if not references:
        return RECALLS, np.full(len(RECALLS), np.nan), np.full(len(RECALLS), np.nan)
    places, needed = np.flatnonzero(ranking.hits[threshold_index]), _hits_needed(references)
    precision = _interpolate(places, np.cumsum(ranking.counted[threshold_index]), needed)
    scores = np.append(ranking.scores[places], np.nan)[np.minimum(needed, len(places) + 1) - 1]
    return RECALLS, precision, scores


def _as_draw(matches: Sequence[Matches], weights: NDArray[Any] | None) -> NDArray[Any]:
    return np.ones((1, len(matches))) if weights is None else np.asarray(weights)[None]


def _rank(matches: Sequence[Matches]) -> _Ranking:
    owner = np.repeat(np.arange(len(matches)), [len(m.scores) for m in matches])
    scores = np.concatenate([m.scores for m in matches])
    order = np.argsort(-scores, kind="stable")
    owner, scores = owner[order], scores[order]
    change = (np.diff(scores) != 0) | (np.diff(owner) != 0)
    starts = np.append(0, np.flatnonzero(change) + 1)[: len(order)]
    return _Ranking(
        scores=scores,
        hits=np.concatenate([m.hits for m in matches], axis=1)[:, order],
        counted=~np.concatenate([m.ignored for m in matches], axis=1)[:, order],
        owners=owner[starts],
        starts=starts,
        lengths=np.diff(starts, append=len(order)),
        references=np.array([m.references for m in matches], dtype=np.int64),
    )


def _interpolate(places: Indices, accepted: NDArray[np.integer[Any]] | None, needed: Indices) -> Values:
    """Precision at each of `RECALLS`, 0 behind the last hit.

    Only hits matter: between two of them the recall stands still and the precision falls.

    Args:
        places: Where the hits stand among the predictions by falling score.
        accepted: How many predictions count, down to each one; None = all do.
        needed: (101,) hits that make each recall.
    """
    best = np.zeros(len(needed))
    reached = needed[needed <= len(places)]
    if len(reached):
        above = places + 1 if accepted is None else accepted[places]
        precision = np.arange(1.0, len(places) + 1) / above
        from_here = np.maximum.reduceat(precision, reached - 1)  # up to the next recall; the last to the end
        best[: len(reached)] = np.maximum.accumulate(from_here[::-1])[::-1]
    return best


def _hits_needed(references: int) -> Indices:
    """Fewest hits (101,), at least 1, whose recall as a floating-point number reaches each of `RECALLS`."""
    return np.searchsorted(np.arange(1, references + 1) / references, RECALLS) + 1
