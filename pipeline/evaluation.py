"""Scores predictions against references: one record a case and class or region, then means with intervals."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import metrics
from pipeline.config import EvaluateParams
from pipeline.errors import SegtrailError
from pipeline.ignored_voxels import find_ignored
from pipeline.intervals import draw_patients, estimate, name_estimate
from pipeline.volume import SAME_GRID_MM, LabelMap, corner_distance_mm, spacing_mm


@dataclass(frozen=True)
class CaseMetrics:
    """All metrics of one class or region in one case; NaN where one is undefined (see `pipeline.metrics`).

    Attributes:
        label: Name of the class or region.
        reference_voxels: Its size in the reference.
        prediction_voxels: Its size in the prediction.
        kind: Of a data set with regions, their rows make the means.
    """

    case_id: str
    patient_id: str
    label: str
    dice: float
    jaccard: float
    precision: float
    recall: float
    specificity: float
    f1: float
    accuracy: float
    volume_error_mm3: float
    relative_volume_error: float
    hd95_mm: float
    assd_mm: float
    surface_dice: float
    reference_voxels: int
    prediction_voxels: int
    kind: Literal["class", "region"] = "class"


METRICS = tuple(f.name for f in fields(CaseMetrics) if f.type == "float")


def evaluate_case(
    reference: LabelMap,
    prediction: LabelMap,
    labels: Mapping[str, int],
    tolerance_mm: float,
    case_id: str,
    patient_id: str,
    regions: Mapping[str, Sequence[int]] | None = None,
    ignore: int | None = None,
) -> list[CaseMetrics]:
    """Scores one prediction, region by region and class by class, over the voxels that somebody labelled.

    Args:
        reference: What an expert drew.
        prediction: On the same grid.
        labels: Value of each foreground class, by name.
        tolerance_mm: Of the surface Dice.
        case_id: Of the record.
        patient_id: Of the record.
        regions: Values of each overlapping region, by name.
        ignore: Value of the reference where nobody labelled; None = everywhere somebody did.

    Raises:
        SegtrailError: The two do not lie on one grid.
    """
    _check_grid(reference, prediction, case_id)
    spacing = spacing_mm(reference.affine)
    wanted = [(name, tuple(values), True) for name, values in (regions or {}).items()]
    wanted += [(name, (value,), False) for name, value in labels.items()]
    rows = []
    ignored = find_ignored(reference, ignore)
    known = None if ignored is None else ~ignored
    for name, values, is_region in wanted:
        one, other = (_mask(label_map.array, values) for label_map in (reference, prediction))
        if known is not None:
            one, other = one & known, other & known
        row = _evaluate_mask(one, other, spacing, tolerance_mm, (case_id, patient_id, name), known)
        rows.append(replace(row, kind="region") if is_region else row)
    return rows


def _mask(label_map: NDArray[Any], values: Sequence[int]) -> metrics.Mask:
    mask: metrics.Mask = label_map == values[0] if len(values) == 1 else np.isin(label_map, values)
    return mask


def _check_grid(reference: LabelMap, prediction: LabelMap, case_id: str) -> None:
    if reference.array.shape != prediction.array.shape:
        what = f"the reference has shape {reference.array.shape}, the prediction {prediction.array.shape}"
    else:
        distance = corner_distance_mm(reference.array.shape, reference.affine, prediction.affine)
        if distance <= SAME_GRID_MM:
            return
        limit = f"at most {SAME_GRID_MM} mm is allowed"
        what = f"the corners of reference and prediction lie {distance:.3g} mm apart, {limit}"
    raise SegtrailError(
        what, f"case {case_id}", "predict on the source image's grid: dvc repro --force predict"
    )


def _evaluate_mask(
    reference: metrics.Mask,
    prediction: metrics.Mask,
    spacing: Sequence[float],
    tolerance_mm: float,
    identity: tuple[str, str, str],
    known: metrics.Mask | None,
) -> CaseMetrics:
    counts = metrics.count_voxels(reference, prediction, known)
    distances = metrics.surface_distances(reference, prediction, spacing, known)
    case_id, patient_id, label = identity
    return CaseMetrics(
        case_id=case_id,
        patient_id=patient_id,
        label=label,
        dice=metrics.dice(counts),
        jaccard=metrics.jaccard(counts),
        precision=metrics.precision(counts),
        recall=metrics.recall(counts),
        specificity=metrics.specificity(counts),
        f1=metrics.f1(counts),
        accuracy=metrics.accuracy(counts),
        volume_error_mm3=metrics.volume_error_mm3(counts, spacing),
        relative_volume_error=metrics.relative_volume_error(counts),
        hd95_mm=metrics.hd95_mm(distances),
        assd_mm=metrics.assd_mm(distances),
        surface_dice=metrics.surface_dice(distances, tolerance_mm),
        reference_voxels=counts.reference,
        prediction_voxels=counts.prediction,
    )


def averaged_rows(rows: Iterable[CaseMetrics]) -> list[CaseMetrics]:
    """Rows that make the means: of regions where there are any, else of classes."""
    every = list(rows)
    return [row for row in every if row.kind == "region"] or every


def case_dice(rows: Iterable[CaseMetrics]) -> dict[str, float]:
    """Mean Dice of each case over its defined classes (regions, if any); cases without one are left out."""
    values: dict[str, list[float]] = {}
    for row in averaged_rows(rows):
        if not math.isnan(row.dice):
            values.setdefault(row.case_id, []).append(row.dice)
    return {case_id: sum(dice) / len(dice) for case_id, dice in values.items()}


def summarise(
    rows: Sequence[CaseMetrics],
    params: EvaluateParams,
    split: str = "test",
    more: Mapping[str, Mapping[tuple[str, str], float]] | None = None,
) -> dict[str, float | None]:
    """Means over cases with 95 % intervals, as one flat record.

    For each metric and class or region, `<split>/<name>/<metric>` is the mean over the cases in which it is
    defined, and `<split>/<metric>` the mean of those over the classes that have one; where there are regions,
    over the regions alone, as the BraTS challenge has it. Beside each stand `_ci_low` and
    `_ci_high` (percentile bootstrap over patients; all classes and metrics see the same draws) and `_n`, the
    defined cases: for the mean over classes, those with at least one defined class.

    Args:
        rows: Records of `evaluate_case`; a class that is missing in a case counts as undefined there.
        params: Number of resamples and their seed.
        split: First part of the names.
        more: Further metrics by name, each by case id and class or region; undefined where one is missing.

    Returns:
        Numbers by name; None where a mean is undefined, and for intervals of fewer than two patients.
    """
    labels = list(dict.fromkeys(row.label for row in rows))
    averaged = {row.label for row in averaged_rows(rows)}
    inside = [label in averaged for label in labels]
    cases = {row.case_id: row.patient_id for row in rows}
    patients = {patient: i for i, patient in enumerate(sorted(set(cases.values())))}
    owner = np.array([patients[patient] for patient in cases.values()], dtype=np.intp)
    draws = draw_patients(len(patients), params.bootstrap_samples, params.seed)
    place = {case_id: i for i, case_id in enumerate(cases)}
    out: dict[str, float | None] = {}
    further = more or {}
    for metric in (*METRICS, *further):
        values = np.full((len(cases), len(labels)), np.nan)
        for row in rows:
            own = further[metric].get((row.case_id, row.label)) if metric in further else getattr(row, metric)
            values[place[row.case_id], labels.index(row.label)] = np.nan if own is None else own
        overall, by_label = estimate(values, owner, draws)
        if not all(inside):
            overall, _ = estimate(values[:, inside], owner, draws)
        out |= name_estimate(f"{split}/{metric}", overall)
        for label, one in zip(labels, by_label, strict=True):
            out |= name_estimate(f"{split}/{label}/{metric}", one)
    return out


def describe_protocol(
    params: EvaluateParams, regions: Sequence[str] = (), ignore: int | None = None, readers: bool = False
) -> dict[str, str]:
    """Says how the numbers of `summarise` come about; stands beside them in `metrics.json` and the report."""
    resamples = f"{params.bootstrap_samples} resamples, seed {params.seed}"
    text = {
        "split": "test: held out by patient, never used in planning, training or choice of the epoch",
        "averaging": "per case and foreground class; mean over the cases where defined, then over classes",
        "empty_masks": "both empty: undefined, left out and counted; one empty: overlaps 0, no distance",
        "interval": f"95 % percentile bootstrap over patients, {resamples}",
        "surface": f"boundary voxels, distances in mm, surface Dice at {params.surface_tolerance_mm:g} mm",
    }
    if regions:
        text["regions"] = (
            f"overlaps without a name are means over the regions {', '.join(regions)}, not over classes; "
            "a region is the union of its classes in the label map"
        )
    if ignore is not None:
        text["ignored"] = (
            f"voxels with the value {ignore} in the reference, which nobody labelled, count in no metric, as if they "
            "lay outside of the image; volumes and objects are those of the labelled voxels"
        )
    if readers:
        text["readers"] = (
            "reader_dice is the mean Dice of each two human readers of a case; dice is that of the model against the "
            "readers' consensus, which is smoother than any of them: a model as good as a reader is somewhat above"
        )
    return text


def save_record(record: Mapping[str, object], path: Path) -> None:
    """Writes `metrics.json`; what is undefined is null."""
    path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def save_case_metrics(
    rows: Iterable[CaseMetrics], path: Path, more: Mapping[tuple[str, str], Mapping[str, float]] | None = None
) -> None:
    """Writes one CSV row a case and class; NaN becomes an empty cell.

    Args:
        rows: Overlap metrics.
        path: CSV file to write.
        more: Further columns, by case id and class; empty cells where one is missing.
    """
    columns = list(dict.fromkeys(name for values in (more or {}).values() for name in values))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(
            stream, [*(f.name for f in fields(CaseMetrics)), *columns], lineterminator="\n"
        )
        writer.writeheader()
        for row in rows:
            cells = asdict(row) | dict((more or {}).get((row.case_id, row.label), {}))
            writer.writerow({k: "" if v != v else v for k, v in cells.items()})
