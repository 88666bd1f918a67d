"""Small scenes for detection metrics: discs and cubes whose numbers are worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import EvaluateParams
from pipeline.detection_cases import ClassObjects, ReferenceObjects, collect_objects
from pipeline.objects import ObjectRow
from pipeline.volume import Instance, Instances, LabelMap, Prediction

PARAMS = EvaluateParams(
    surface_tolerance_mm=2.0,
    bootstrap_samples=200,
    seed=1,
    baseline="none",
    max_detections=100,
    max_marks=100,
)
FIRST, SECOND, ELSEWHERE = (10, 10), (30, 10), (10, 30)
# (class value, score, centre) of a predicted object.
Found = tuple[int, float, tuple[int, ...]]
IdMap = NDArray[np.integer[Any]]


def disc(shape: tuple[int, ...], centre: Sequence[float], radius: float = 4.0) -> NDArray[np.bool_]:
    """Disc in a picture (Z = 1), ball in a volume."""
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    centre = [*centre, *([0] * (3 - len(centre)))]
    inside: NDArray[np.bool_] = sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) <= radius**2
    return inside


def reference(
    shape: tuple[int, ...], objects: Mapping[tuple[int, ...], int], radius: float = 4.0
) -> tuple[LabelMap, IdMap]:
    """Label map and instance map of objects given as centre: class value."""
    labels, ids = np.zeros(shape, np.uint8), np.zeros(shape, np.uint16)
    for number, (centre, value) in enumerate(objects.items(), 1):
        mask = disc(shape, centre, radius)
        labels[mask], ids[mask] = value, number
    return LabelMap(labels, np.eye(4)), ids


def prediction(
    shape: tuple[int, ...], found: Sequence[Found], label_score: float = 0.0, radius: float = 4.0
) -> Prediction:
    """Objects by falling score; only those of at least `label_score` stand in the label map."""
    labels, ids, items = np.zeros(shape, np.uint8), np.zeros(shape, np.uint16), []
    for number, (value, score, centre) in enumerate(sorted(found, key=lambda f: -f[1]), 1):
        mask = disc(shape, centre, radius) & (ids == 0)
        ids[mask] = number
        labels[mask & (score >= label_score)] = value
        x, y, z = (float(v) for v in np.argwhere(mask).mean(axis=0))
        items.append(Instance(number, value, score, int(mask.sum()), (x, y, z), ((0, 0, 0), (1, 1, 1))))
    return Prediction(LabelMap(labels, np.eye(4)), Instances(ids, np.eye(4), tuple(items)))


def compare(
    shape: tuple[int, ...],
    objects: Mapping[tuple[int, ...], int],
    found: Sequence[Found],
    case_id: str = "a",
    patient_id: str = "",
    label_score: float = 0.0,
    labels: Mapping[str, int] | None = None,
    flat: bool | None = None,
) -> list[ClassObjects]:
    """The objects of one case, a picture where Z = 1 unless said otherwise; each reference has a row of 8 mm."""
    names = {value: name for name, value in (labels or {"nodule": 1}).items()}
    label_map, ids = reference(shape, objects)
    rows = [
        ObjectRow(case_id, i, names[value], 8.0, *(float(v) for v in (*centre, 0.0)[:3]), 100)
        for i, (centre, value) in enumerate(objects.items(), 1)
    ]
    truth = ReferenceObjects(label_map, ids, rows)
    made = prediction(shape, found, label_score)
    return collect_objects(
        truth,
        made,
        labels or {"nodule": 1},
        case_id,
        patient_id or case_id,
        shape[2] == 1 if flat is None else flat,
    )
