"""Precision-recall and FROC curves as tables: what the plots (which MLflow shows) and the report draw."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from pipeline.config import EvaluateParams
from pipeline.detection import precision_recall_curve
from pipeline.detection_cases import IOUS, ClassObjects
from pipeline.froc import Marks, froc
from pipeline.matching import PICTURE_IOU, VOLUME_IOU, match

PICTURE_IOUS = (PICTURE_IOU, 0.75)
VOLUME_IOUS = (VOLUME_IOU, 0.5)


@dataclass(frozen=True)
class PrecisionRecallPoint:
    """One of the 101 points of the curve of one class, of masks, pooled over cases.

    Attributes:
        iou: Least intersection over union of a match.
        label: Class; the column is called `class`.
        score: Down to which objects must be accepted to reach this recall; NaN where none reaches it.
    """

    iou: float
    label: str
    recall: float
    precision: float
    score: float


@dataclass(frozen=True)
class FrocPoint:
    """One corner of the FROC curve of one class; `score` is the threshold, infinite at the start."""

    label: str
    false_positives_per_scan: float
    sensitivity: float
    score: float


def precision_recall_points(
    objects: Sequence[ClassObjects], params: EvaluateParams
) -> list[PrecisionRecallPoint]:
    """Curves of every class at two overlaps; none for a class without a reference object."""
    ious = PICTURE_IOUS if all(one.marks is None for one in objects) else VOLUME_IOUS
    points = []
    for label in dict.fromkeys(one.label for one in objects):
        matches = [
            match(o.detections["mask"], IOUS, params.max_detections) for o in objects if o.label == label
        ]
        for iou in ious if any(m.references for m in matches) else ():
            curve = precision_recall_curve(matches, int(np.abs(IOUS - iou).argmin()))
            for recall, precision, score in zip(*(values.tolist() for values in curve), strict=True):
                points.append(PrecisionRecallPoint(iou, label, recall, precision, score))
    return points


def froc_points(objects: Sequence[ClassObjects], params: EvaluateParams) -> list[FrocPoint]:
    """Curves of every class that has nodules to be found; none for pictures."""
    points = []
    for label in dict.fromkeys(one.label for one in objects):
        marks: list[Marks] = [o.marks for o in objects if o.label == label and o.marks is not None]
        if not any(len(one.nodules_mm) for one in marks):
            continue
        curve = froc(marks, params.max_marks)
        columns = (curve.false_positives_per_scan, curve.sensitivity, curve.thresholds)
        points += [FrocPoint(label, *row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    return points


def save_precision_recall(points: Sequence[PrecisionRecallPoint], path: Path) -> None:
    """Writes `precision_recall.csv`: iou, class, recall, precision, score."""
    _save([f.name for f in fields(PrecisionRecallPoint)], points, path)


def save_froc(points: Sequence[FrocPoint], path: Path) -> None:
    """Writes `froc.csv`: class, false_positives_per_scan, sensitivity, score."""
    _save([f.name for f in fields(FrocPoint)], points, path)


def _save(names: Sequence[str], points: Sequence[object], path: Path) -> None:
    """One row a point; scores that are not finite become empty cells."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["class" if name == "label" else name for name in names])
        for point in points:
            writer.writerow([_cell(getattr(point, name)) for name in names])


def _cell(value: float | str) -> float | str:
    if isinstance(value, str):
        return value
    return round(value, 6) if np.isfinite(value) else ""
