"""Stage `evaluate`: predictions of the test cases against their references, into `data/metrics/<model>`."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefect import flow

from flows.evaluation_output import draw_curves, draw_overlays, format_table
from flows.stage import map_cases, run_stage
from pipeline.cases import CaseRecord, load_cases, usable_cases
from pipeline.config import EvaluateParams, load_params
from pipeline.detection_cases import ClassObjects, ReferenceObjects, collect_objects
from pipeline.detection_evaluation import (
    count_objects,
    describe_detection,
    measure_cases,
    summarise_detection,
)
from pipeline.errors import SegtrailError
from pipeline.evaluation import (
    CaseMetrics,
    case_dice,
    describe_protocol,
    evaluate_case,
    save_case_metrics,
    save_record,
    summarise,
)
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import load_label_map, load_volume, prediction_suffix
from pipeline.objects import ObjectRow, load_objects
from pipeline.plots import draw_dice_by_case
from pipeline.prediction_files import PredictionFiles, find_predictions, load_prediction, load_settings
from pipeline.splits import load_splits
from pipeline.volume import LabelMap

LOGGER = logging.getLogger("segtrail")
INSPECTED = Path("data/inspected")
SPLITS = Path("data/splits/splits.csv")
PREDICTIONS = Path("data/predictions")
OUTPUT = Path("data/metrics")


@dataclass(frozen=True)
class _Scored:
    """What was measured in one case: overlaps, and the objects (none of a baseline)."""

    rows: list[CaseMetrics]
    objects: list[ClassObjects] = field(default_factory=list)


Score = Callable[[CaseRecord], _Scored]


@flow(name="evaluate")
def evaluate_flow(model: str) -> None:
    """Writes metrics, tables, curves, plots and overlays of one model, and hands them to MLflow.

    Args:
        model: One of `params.models`.
    """
    params = load_params().evaluate
    facts = DatasetFacts.load(INSPECTED / "dataset.json")
    labels = {name: value for name, value in facts.labels.items() if value != 0}
    cases, unlabelled = _load_test_cases()
    predictions = _find_predictions(model, cases)
    partial = OUTPUT / f".{model}.partial"  # moved when whole: nobody reads half a table
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "plots").mkdir(parents=True)
    flat = all(case.shape[2:] == (1,) for case in cases)
    rows, objects = _map_scores(_model_score(predictions, labels, params, flat), cases, model)
    numbers = summarise(rows, params) | summarise_detection(objects, params)
    save_case_metrics(rows, partial / "cases.csv", measure_cases(objects, params))
    if params.baseline == "otsu_lung":
        others, _ = _map_scores(_baseline_score(labels, params), cases, params.baseline)
        numbers |= summarise(others, params, f"baseline_{params.baseline}")
        save_case_metrics(others, partial / "baseline_cases.csv")
    settings = load_settings(next(iter(predictions.values())))
    record: dict[str, object] = {
        "model": model,
        "dataset": facts.name,
        "protocol": describe_protocol(params)
        | describe_detection(objects, params, settings)
        | ({"reference": facts.description} if facts.description else {}),
        "settings": params.model_dump(),
        "n_cases": len(cases),
        "n_patients": len({case.patient_id for case in cases}),
        "cases_without_label": unlabelled,
        "objects": count_objects(objects),
        "metrics": numbers,
    }
    save_record(record, partial / "metrics.json")
    by_class = {name: {row.case_id: row.dice for row in rows if row.label == name} for name in labels}
    draw_dice_by_case(by_class, partial / "plots" / "dice_by_case.png")
    draw_curves(objects, params, partial)
    draw_overlays(cases, predictions, case_dice(rows), objects, labels, partial / "overlays")
    shutil.rmtree(OUTPUT / model, ignore_errors=True)
    partial.rename(OUTPUT / model)
    for line in format_table(numbers, list(labels)):
        LOGGER.info("%s", line)
    from flows.tracking import record_evaluation  # imports MLflow

    record_evaluation(model)


def _load_test_cases() -> tuple[list[CaseRecord], list[str]]:
    """Labelled cases of the test side, and the ids of those without a label."""
    sides = load_splits(SPLITS)
    test = [c for c in usable_cases(load_cases(INSPECTED / "cases.csv")) if sides.get(c.case_id) == "test"]
    unlabelled = [case.case_id for case in test if not case.label]
    if unlabelled:
        LOGGER.info(
            "%d test case(s) have no label and are not scored: %s", len(unlabelled), ", ".join(unlabelled)
        )
    cases = [case for case in test if case.label]
    if not cases:
        raise SegtrailError(
            f"none of the {len(test)} test cases has a label",
            str(SPLITS),
            "add cases with labels, or raise split.test_fraction in params.yaml",
        )
    return cases, unlabelled


def _find_predictions(model: str, cases: Sequence[CaseRecord]) -> dict[str, PredictionFiles]:
    suffixes = {case.case_id: prediction_suffix([Path(path) for path in case.images]) for case in cases}
    return find_predictions(PREDICTIONS / model, suffixes, f"dvc repro --force predict@{model}")


def _model_score(
    predictions: Mapping[str, PredictionFiles], labels: Mapping[str, int], params: EvaluateParams, flat: bool
) -> Score:
    """Scores one case of a model, its objects included; see `collect_objects` for `flat`."""
    rows_by_case: dict[str, list[ObjectRow]] = {}
    for row in load_objects(INSPECTED / "objects.csv"):
        rows_by_case.setdefault(row.case_id, []).append(row)

    def score(case: CaseRecord) -> _Scored:
        prediction = load_prediction(predictions[case.case_id], labels)
        reference = load_label_map(Path(case.label))
        rows = _score_overlap(case, reference, prediction.label_map, labels, params)
        ids = load_label_map(Path(case.instances)).array if case.instances else None
        truth = ReferenceObjects(reference, ids, rows_by_case.get(case.case_id, []))
        return _Scored(rows, collect_objects(truth, prediction, labels, case.case_id, case.patient_id, flat))

    return score


def _baseline_score(labels: Mapping[str, int], params: EvaluateParams) -> Score:
    """Scores one case of the baseline; a threshold gives no scores, so it has no detection metrics."""
    from pipeline.baseline import otsu_lung

    def score(case: CaseRecord) -> _Scored:
        prediction = otsu_lung(load_volume([Path(path) for path in case.images]))
        return _Scored(_score_overlap(case, load_label_map(Path(case.label)), prediction, labels, params))

    return score


def _score_overlap(
    case: CaseRecord,
    reference: LabelMap,
    prediction: LabelMap,
    labels: Mapping[str, int],
    params: EvaluateParams,
) -> list[CaseMetrics]:
    tolerance = params.surface_tolerance_mm
    return evaluate_case(reference, prediction, labels, tolerance, case.case_id, case.patient_id)


def _map_scores(
    score: Score, cases: Sequence[CaseRecord], name: str
) -> tuple[list[CaseMetrics], list[ClassObjects]]:
    """Scores every case; one row a case and class, in the order of the cases."""
    dice: dict[str, float] = {}

    def work(case: CaseRecord) -> _Scored:
        scored = score(case)
        dice.update(case_dice(scored.rows))
        return scored

    def describe(case: CaseRecord) -> str:
        value = dice.get(case.case_id)
        text = "undefined (nothing there, nothing found)" if value is None else f"{value:.3f}"
        return f"{case.case_id} Dice {text}"

    scored = map_cases(work, cases, f"evaluate {name}", describe)
    return [row for one in scored for row in one.rows], [o for one in scored for o in one.objects]


if __name__ == "__main__":
    run_stage(evaluate_flow, sys.argv[1])
