"""Stage `evaluate`: predictions of the test cases against their references, into `data/metrics/<model>`."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prefect import flow

from flows.stage import map_cases, run_stage
from pipeline.cases import CaseRecord, load_cases, usable_cases
from pipeline.config import EvaluateParams, load_params
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
from pipeline.io.nifti import load_label_map, load_volume
from pipeline.io.sources import DatasetFacts
from pipeline.overlays import draw_overlay, pick_cases
from pipeline.plots import draw_dice_by_case
from pipeline.splits import load_splits
from pipeline.volume import LabelMap

LOGGER = logging.getLogger("segtrail")
INSPECTED = Path("data/inspected")
SPLITS = Path("data/splits/splits.csv")
PREDICTIONS = Path("data/predictions")
OUTPUT = Path("data/metrics")


@flow(name="evaluate")
def evaluate_flow(model: str) -> None:
    """Writes metrics, tables, plots and overlays of one model, and hands them to MLflow.

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
    rows = _evaluate_cases(
        cases, lambda case: load_label_map(predictions[case.case_id]), labels, params, model
    )
    numbers = summarise(rows, params)
    save_case_metrics(rows, partial / "cases.csv")
    if params.baseline == "otsu_lung":
        others = _evaluate_cases(cases, _predict_baseline, labels, params, params.baseline)
        numbers |= summarise(others, params, f"baseline_{params.baseline}")
        save_case_metrics(others, partial / "baseline_cases.csv")
    record: dict[str, object] = {
        "model": model,
        "dataset": facts.name,
        "protocol": describe_protocol(params),
        "n_cases": len(cases),
        "n_patients": len({case.patient_id for case in cases}),
        "cases_without_label": unlabelled,
        "metrics": numbers,
    }
    save_record(record, partial / "metrics.json")
    by_class = {name: {row.case_id: row.dice for row in rows if row.label == name} for name in labels}
    draw_dice_by_case(by_class, partial / "plots" / "dice_by_case.png")
    _draw_overlays(cases, predictions, case_dice(rows), labels, partial / "overlays")
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


def _find_predictions(model: str, cases: Sequence[CaseRecord]) -> dict[str, Path]:
    """Files of the predicted label maps by case id."""
    folder = PREDICTIONS / model
    paths = {case.case_id: folder / f"{case.case_id}_labels.nii.gz" for case in cases}
    missing = [case_id for case_id, path in paths.items() if not path.exists()]
    if missing:
        raise SegtrailError(
            f"{len(missing)} of {len(cases)} test cases have no prediction: {', '.join(missing)}",
            str(folder),
            f"dvc repro --force predict@{model}",
        )
    return paths


def _predict_baseline(case: CaseRecord) -> LabelMap:
    from pipeline.baseline import otsu_lung

    return otsu_lung(load_volume([Path(path) for path in case.images]))


def _evaluate_cases(
    cases: Sequence[CaseRecord],
    predict: Callable[[CaseRecord], LabelMap],
    labels: Mapping[str, int],
    params: EvaluateParams,
    name: str,
) -> list[CaseMetrics]:
    """Scores every case; one row a case and class, in the order of the cases."""
    dice: dict[str, float] = {}

    def work(case: CaseRecord) -> list[CaseMetrics]:
        reference, tolerance = load_label_map(Path(case.label)), params.surface_tolerance_mm
        rows = evaluate_case(reference, predict(case), labels, tolerance, case.case_id, case.patient_id)
        dice.update(case_dice(rows))
        return rows

    def describe(case: CaseRecord) -> str:
        return f"{case.case_id} Dice {_dice_text(dice.get(case.case_id))}"

    return [row for rows in map_cases(work, cases, f"evaluate {name}", describe) for row in rows]


def _draw_overlays(
    cases: Sequence[CaseRecord],
    predictions: Mapping[str, Path],
    dice: Mapping[str, float],
    labels: Mapping[str, int],
    folder: Path,
) -> None:
    """Draws the best, the median and the worst case by mean Dice."""
    folder.mkdir()
    by_id = {case.case_id: case for case in cases}
    for role, case_id in pick_cases(dice).items():
        case = by_id[case_id]
        draw_overlay(
            load_volume([Path(path) for path in case.images]),
            load_label_map(predictions[case_id]),
            load_label_map(Path(case.label)),
            folder / f"{role}_{case_id}.png",
            f"{role} case: {case_id}, Dice {_dice_text(dice[case_id])}",
            labels,
        )


def _dice_text(value: float | None) -> str:
    return "undefined (nothing there, nothing found)" if value is None else f"{value:.3f}"


def format_table(numbers: Mapping[str, float | None], labels: Sequence[str]) -> list[str]:
    """Lines of the closing table: Dice with interval, HD95 and number of cases, by class.

    Args:
        numbers: From `summarise`.
        labels: Names of the foreground classes.
    """
    rows = [("class", "Dice [95 % interval]", "HD95 mm", "n")]
    names = {name: f"test/{name}/" for name in labels} | (
        {"mean of classes": "test/"} if len(labels) > 1 else {}
    )
    if "baseline_otsu_lung/dice" in numbers:
        names["otsu_lung baseline"] = "baseline_otsu_lung/"
    for name, prefix in names.items():
        low, high = numbers[f"{prefix}dice_ci_low"], numbers[f"{prefix}dice_ci_high"]
        interval = "" if low is None else f" [{_number(low, 3)}, {_number(high, 3)}]"
        dice = _number(numbers[f"{prefix}dice"], 3) + interval
        rows.append((name, dice, _number(numbers[f"{prefix}hd95_mm"], 2), str(numbers[f"{prefix}dice_n"])))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    run_stage(evaluate_flow, sys.argv[1])
