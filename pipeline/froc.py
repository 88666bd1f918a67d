"""Free-response operating characteristic of marks, and its mean sensitivity CPM, by the rules of LUNA16.

- A mark hits a nodule when it lies strictly inside the sphere of the nodule's diameter around its centre.
- A nodule that is hit counts once, with the most probable of its hits; its other hits count neither way. A
  mark inside two nodules hits both.
- Marks that hit only ignored findings count neither way. Ignored findings without a diameter have 10 mm.
- At most N marks a scan: when there are more, those more probable than the (N+1)-th stay. Equal ones go.
- Missed nodules stay in the denominator; false positives are divided by all scans, also those without marks.

Source: Setio et al., Medical Image Analysis 42:1-13 (2017), and the official evaluation of LUNA16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Indices = NDArray[np.intp]

RATES: Values = np.array([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8])
MAX_MARKS = 100
UNKNOWN_DIAMETER_MM = 10.0
CELLS_AT_ONCE = 1 << 19  # of draws x marks


@dataclass(frozen=True)
class Marks:
    """Marks and findings of one case, in mm of one world.

    Attributes:
        positions_mm: (n, 3) where the marks lie.
        probabilities: (n,).
        nodules_mm: (m, 3) centres of the nodules that are to be found.
        diameters_mm: (m,).
        ignored_mm: (k, 3) centres of findings that count neither way.
        ignored_diameters_mm: (k,), negative where unknown.
    """

    case_id: str
    patient_id: str
    positions_mm: Values
    probabilities: Values
    nodules_mm: Values
    diameters_mm: Values
    ignored_mm: Values
    ignored_diameters_mm: Values


@dataclass(frozen=True)
class JudgedMarks:
    """What became of the marks of one case; indices are those of `Marks`.

    Attributes:
        kept: (<= max_marks,) marks that count.
        best_hits: (m,) most probable mark inside each nodule, -1 where it was missed.
        false_alarms: (f,) marks that hit nothing.
        repeated: Number of hits on a nodule beside its best one.
        irrelevant: Number of marks that hit only ignored findings.
    """

    kept: Indices
    best_hits: Indices
    false_alarms: Indices
    repeated: int
    irrelevant: int


@dataclass(frozen=True)
class FrocCurve:
    """Corner points of the curve, by falling threshold; it starts at (0, 0) with an infinite threshold.

    Attributes:
        false_positives_per_scan: (p,) rising.
        sensitivity: (p,) share of the nodules, NaN when there is none.
        thresholds: (p,) marks with at least this probability are accepted.
    """

    false_positives_per_scan: Values
    sensitivity: Values
    thresholds: Values


def judge(marks: Marks, max_marks: int = MAX_MARKS) -> JudgedMarks:
    """Says of each mark of a case whether it hit something; `max_marks` is N of the rules above."""
    kept = np.arange(len(marks.probabilities))
    if len(kept) > max_marks:
        limit = np.sort(marks.probabilities)[::-1][max_marks]
        kept = np.flatnonzero(marks.probabilities > limit)
    inside = _inside(marks.positions_mm[kept], marks.nodules_mm, marks.diameters_mm)
    ignored = _inside(marks.positions_mm[kept], marks.ignored_mm, marks.ignored_diameters_mm).any(axis=1)
    best_hits = np.full(len(marks.nodules_mm), -1, dtype=np.intp)
    hit = inside.any(axis=0)
    if hit.any():
        probabilities = np.where(inside[:, hit], marks.probabilities[kept, None], -np.inf)
        best_hits[hit] = kept[probabilities.argmax(axis=0)]
    outside = ~inside.any(axis=1)
    return JudgedMarks(
        kept=kept,
        best_hits=best_hits,
        false_alarms=kept[outside & ~ignored],
        repeated=int(inside.sum() - hit.sum()),
        irrelevant=int(np.count_nonzero(outside & ignored)),
    )


def _inside(positions: Values, centres: Values, diameters: Values) -> NDArray[np.bool_]:
    """Whether each mark (rows) lies strictly inside each sphere (columns)."""
    x, y, z = (positions.reshape(-1, 1, 3) - centres.reshape(1, -1, 3)).transpose(2, 0, 1)
    radii = np.where(diameters < 0, UNKNOWN_DIAMETER_MM, diameters) / 2
    within: NDArray[np.bool_] = x**2 + y**2 + z**2 < radii**2
    return within


@dataclass(frozen=True)
class _Ranking:
    """Best hits and false alarms of all cases by falling probability.

    Attributes:
        owner: (E,) index of the case.
        is_hit: (E,) best hit of a nodule, else a false alarm.
        ends: Index of the last one of each run of equal probabilities.
        thresholds: The probability of each run.
        nodules: (cases,) nodules to be found.
    """

    owner: Indices
    is_hit: NDArray[np.bool_]
    ends: Indices
    thresholds: Values
    nodules: NDArray[np.int64]

    def count(self, draws: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """False alarms and hits (S, thresholds) that each draw (S, cases) accepts."""
        weights = draws[:, self.owner]
        alarms = np.cumsum(weights * ~self.is_hit, axis=1, dtype=np.int32)[:, self.ends]
        hits = np.cumsum(weights * self.is_hit, axis=1, dtype=np.int32)[:, self.ends]
        return alarms, hits


def _rank(cases: Sequence[Marks], max_marks: int) -> _Ranking:
    owners, probabilities, kinds = [np.empty(0, dtype=np.intp)], [np.empty(0)], [np.empty(0, dtype=np.bool_)]
    for index, marks in enumerate(cases):
        judged = judge(marks, max_marks)
        found = judged.best_hits[judged.best_hits >= 0]
        probabilities.append(marks.probabilities[np.concatenate([found, judged.false_alarms])])
        owners.append(np.full(len(probabilities[-1]), index))
        kinds.append(np.arange(len(probabilities[-1])) < len(found))
    probability = np.concatenate(probabilities)
    order = np.argsort(-probability, kind="stable")
    ends = np.flatnonzero(np.diff(probability[order], append=-np.inf) != 0)
    return _Ranking(
        owner=np.concatenate(owners)[order],
        is_hit=np.concatenate(kinds)[order],
        ends=ends,
        thresholds=probability[order][ends],
        nodules=np.array([len(marks.nodules_mm) for marks in cases], dtype=np.int64),
    )


def froc(cases: Sequence[Marks], max_marks: int = MAX_MARKS) -> FrocCurve:
    """Sensitivity against false positives per scan, over all thresholds.

    Args:
        cases: All scans, also those without marks or nodules, at least one.
        max_marks: N of the rules above.
    """
    ranking = _rank(cases, max_marks)
    (alarms,), (hits,) = ranking.count(np.ones((1, len(cases)), dtype=np.int32))
    corners = _corners(alarms, hits)
    nodules = ranking.nodules.sum()
    return FrocCurve(
        false_positives_per_scan=np.append(0, alarms[corners]) / len(cases),
        sensitivity=np.append(0, hits[corners]) / nodules if nodules else np.full(len(corners) + 1, np.nan),
        thresholds=np.append(np.inf, ranking.thresholds[corners]),
    )


def _corners(alarms: NDArray[np.int32], hits: NDArray[np.int32]) -> Indices:
    """Leaves out the points between equal steps, as the official curve does (scikit-learn's `roc_curve`)."""
    bends = (np.diff(alarms, 2) != 0) | (np.diff(hits, 2) != 0)
    ends = [0, len(alarms) - 1] if len(alarms) else []
    return np.union1d(ends, np.flatnonzero(bends) + 1).astype(np.intp)


def sensitivity_at(curve: FrocCurve, rates: Values = RATES) -> Values:
    """Sensitivity at given false positives per scan, linear between the points of the curve.

    Where the curve rises exactly at a rate, the upper end counts; behind its last point it stays level.
    """
    return np.interp(rates, curve.false_positives_per_scan, curve.sensitivity)


def bootstrap_sensitivity(
    cases: Sequence[Marks], draws: NDArray[Any], max_marks: int = MAX_MARKS, rates: Values = RATES
) -> Values:
    """Sensitivity at given rates in many resamples of the cases.

    Args:
        cases: All scans, at least one.
        draws: (samples, cases) how often each resample holds each case, whole numbers.

    Returns:
        (samples, r), NaN where a resample holds no nodule.
    """
    ranking = _rank(cases, max_marks)
    counts = np.asarray(draws).astype(np.int32)
    scans, nodules = counts.sum(axis=1), counts @ ranking.nodules
    result = np.full((len(counts), len(rates)), np.nan)
    rows = max(1, CELLS_AT_ONCE // max(1, len(ranking.owner)))
    for start in range(0, len(counts), rows):
        alarms, hits = ranking.count(counts[start : start + rows])
        for row, (x, y) in enumerate(zip(alarms, hits, strict=True), start):
            if nodules[row]:
                result[row] = np.interp(rates, np.append(0, x) / scans[row], np.append(0, y) / nodules[row])
    return result
