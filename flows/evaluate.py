"""Stage `evaluate`: predictions of the test cases against their references, into `data/metrics/<model>`."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from prefect import flow

from flows.case_scoring import CaseScorer, Scored
from flows.evaluation_output import draw_curves, draw_overlays, format_table
from flows.stage import map_cases, run_stage
from flows.stage_code import CODE, scoring_code
from pipeline.cases import CaseRecord, load_cases, usable_cases
from pipeline.config import load_params
from pipeline.detection_cases import ClassObjects
from pipeline.detection_evaluation import (
    count_objects,
    describe_detection,
    measure_cases,
    summarise_detection,
)
from pipeline.drift_features import PREDICTED, predicted_features, save_features
from pipeline.errors import SegtrailError
from pipeline.evaluation import (
    CaseMetrics,
    case_dice,
    describe_protocol,
    save_case_metrics,
    save_record,
    summarise,
)
from pipeline.io.case_maps import load_reference
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import load_volume, prediction_suffix
from pipeline.plots import draw_dice_by_case
from pipeline.prediction_files import PredictionFiles, find_predictions, load_record
from pipeline.reader_rows import READERS, load_readers, reader_dice
from pipeline.splits import load_splits

LOGGER = logging.getLogger("segtrail")
INSPECTED = Path("data/inspected")
SPLITS = Path("data/splits/splits.csv")
PREDICTIONS = Path("data/predictions")
OUTPUT = Path("data/metrics")


Score = Callable[[CaseRecord], Scored]


@flow(name="evaluate")
def evaluate_flow(model: str) -> None:
    """Writes metrics, tables, curves, plots and overlays of one model, and hands them to MLflow.

    Args:
        model: One of `params.models`.
    """
    params = load_params().evaluate
    facts = DatasetFacts.load(INSPECTED / "dataset.json")
    labels = facts.foreground
    cases, unlabelled = _load_test_cases()
    predictions = _find_predictions(model, cases)
    partial = OUTPUT / f".{model}.partial"  # moved when whole: nobody reads half a table
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "plots").mkdir(parents=True)
    scorer = CaseScorer(facts, params, cases, INSPECTED / "objects.csv")
    rows, objects = _map_scores(lambda case: scorer.score(case, predictions[case.case_id]), cases, model)
    agreement = reader_dice(load_readers(INSPECTED / READERS), {case.case_id for case in cases})
    further = {"reader_dice": agreement} if agreement else None
    numbers = summarise(rows, params, more=further) | summarise_detection(objects, params)
    columns = measure_cases(objects, params)
    for key, value in agreement.items():
        columns[key] = {**columns.get(key, {}), "reader_dice": value}
    save_case_metrics(rows, partial / "cases.csv", columns)
    if params.baseline == "otsu_lung":
        others, _ = _map_scores(_baseline_score(scorer), cases, params.baseline)
        numbers |= summarise(others, params, f"baseline_{params.baseline}")
        save_case_metrics(others, partial / "baseline_cases.csv")
    records = {case_id: load_record(files) for case_id, files in predictions.items()}
    seen = {case_id: predicted_features(one) for case_id, one in records.items()}
    save_features(seen, partial / PREDICTED)
    settings = next(iter(records.values())).get("settings", {})
    record: dict[str, object] = {
        "model": model,
        "dataset": facts.name,
        "protocol": describe_protocol(params, list(facts.regions), facts.ignore, bool(agreement))
        | describe_detection(objects, params, settings)
        | ({"reference": facts.description} if facts.description else {}),
        "settings": params.model_dump(),
        CODE: scoring_code(),
        "n_cases": len(cases),
        "n_patients": len({case.patient_id for case in cases}),
        "cases_without_label": unlabelled,
        "objects": count_objects(objects),
        "metrics": numbers,
    }
    save_record(record, partial / "metrics.json")
    shown = facts.regions or labels
    by_class = {name: {row.case_id: row.dice for row in rows if row.label == name} for name in shown}
    draw_dice_by_case(by_class, partial / "plots" / "dice_by_case.png")
    draw_curves(objects, params, partial)
    draw_overlays(cases, predictions, case_dice(rows), objects, facts, partial / "overlays")
    shutil.rmtree(OUTPUT / model, ignore_errors=True)
    partial.rename(OUTPUT / model)
    for line in format_table(numbers, list(labels), list(facts.regions)):
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


def _baseline_score(scorer: CaseScorer) -> Score:
    """Scores one case of the baseline; a threshold gives no scores, so it has no detection metrics."""
    from pipeline.baseline import otsu_lung

    def score(case: CaseRecord) -> Scored:
        volume = load_volume([Path(path) for path in case.images])
        reference = load_reference(case, volume.affine)
        return Scored(scorer.score_overlap(case, reference, otsu_lung(volume)))

    return score


def _map_scores(
    score: Score, cases: Sequence[CaseRecord], name: str
) -> tuple[list[CaseMetrics], list[ClassObjects]]:
    """Scores every case; one row a case and class, in the order of the cases."""
    dice: dict[str, float] = {}

    def work(case: CaseRecord) -> Scored:
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
