"""Tables of the report on results: which metrics stand in them, with which digits and units."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report_inputs import CaseRow, ModelInputs, Numbers
from pipeline.report_metrics import METRICS, metric_format, split_name
from pipeline.report_tables import DASH, format_number, plain
from pipeline.scores import is_detection, rank

MEAN = "Mean over classes"


def baseline_split(metrics: Numbers) -> str:
    """First part of the names of a baseline, "" without one."""
    heads = {split_name(name)[0] for name in metrics}
    return next(iter(sorted(head for head in heads if head.startswith("baseline"))), "")


def baseline_title(split: str) -> str:
    """Name of a baseline for a person."""
    return {"baseline_otsu_lung": "Otsu in the lungs"}.get(split, split.replace("_", " ").strip())


def sources(models: Sequence[ModelInputs]) -> list[tuple[str, str, ModelInputs]]:
    """What is compared: title, first part of its metric names, and the record that holds them."""
    found = [(model.name, "test", model) for model in models]
    for model in models:
        if split := baseline_split(model.metrics):
            return [*found, (f"Baseline: {baseline_title(split)}", split, model)]
    return found


def result_groups(models: Sequence[ModelInputs], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table of overlaps: the mean, then each class or region; a single one needs no mean."""
    names = metric_names(models)
    order = [n for n in METRICS if n in names] + sorted(
        n for n in names - set(METRICS) if not is_detection(n)
    )
    regions = any(row.region for model in models for row in model.cases)
    return metric_groups(sources(models), classes, order, "Mean over regions" if regions else MEAN)


def metric_names(models: Sequence[ModelInputs]) -> set[str]:
    """Metrics that a model or its baseline has, without class."""
    names = {split_name(n)[2] for m in models for n in m.metrics}
    return {n for n in names if not n.endswith(("_ci_low", "_ci_high", "_n"))}


def metric_groups(
    columns: Sequence[tuple[str, str, ModelInputs]],
    classes: Sequence[str],
    names: Sequence[str],
    mean: str = MEAN,
) -> list[dict[str, Any]]:
    """One group a class, of several classes their mean first; one row a metric, one cell a column.

    Args:
        columns: See `sources`.
        classes: Foreground classes, or regions and classes.
        names: Metrics.
        mean: Title of the group of means.
    """
    groups = [(label, label) for label in classes]
    if len(classes) != 1:
        groups.insert(0, ("", mean))
    return [
        {"title": title, "rows": [_result_row(columns, label, name) for name in names]}
        for label, title in groups
    ]


def _result_row(columns: Sequence[tuple[str, str, ModelInputs]], label: str, metric: str) -> dict[str, Any]:
    shown = metric_format(metric)
    cells: list[dict[str, Any]] = []
    for _, split, model in columns:
        key = "/".join(part for part in (split, label, metric) if part)
        value, low, high = (model.metrics.get(key + end) for end in ("", "_ci_low", "_ci_high"))
        n = model.metrics.get(f"{key}_n")
        interval = DASH if low is None or high is None else f"{shown.text(low)} to {shown.text(high)}"
        cells.append(
            {
                "model": model.name,
                "key": key,
                "value": value,
                "text": shown.text(value),
                "interval": interval,
                "n": DASH if n is None else f"{n:.0f}",
            }
        )
    ranks = [rank(metric, cell["value"]) for cell in cells if cell["value"] is not None]
    unique = len(cells) > 1 and ranks.count(max(ranks, default=0.0)) == 1 and metric != "reader_dice"
    for cell in cells:
        cell["best"] = unique and cell["value"] is not None and rank(metric, cell["value"]) == max(ranks)
    return {"metric": metric, "shown": shown, "cells": cells}


def uneven_metrics(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Titles of the metrics of which two columns have values over different numbers of cases.

    Args:
        groups: Of `metric_groups`.
    """
    rows = [row for group in groups for row in group["rows"]]
    uneven = [row for row in rows if len({c["n"] for c in row["cells"] if c["value"] is not None}) > 1]
    return list(dict.fromkeys(row["shown"].title for row in uneven))


def evidence(model: ModelInputs, metric: str) -> tuple[int, int]:
    """Cases and patients behind a headline number: those in which the metric is defined."""
    _, label, name = split_name(metric)
    rows = [r for r in averaged_rows(model.cases, name, label) if r.values.get(name) is not None]
    return len({row.case_id for row in rows}), len({row.patient_id for row in rows})


def averaged_rows(rows: Sequence[CaseRow], metric: str, label: str = "") -> list[CaseRow]:
    """Rows of a class or region; without one those that make the mean: of overlaps the regions, if any."""
    if label:
        return [row for row in rows if row.label == label]
    regions = any(row.region for row in rows) and not is_detection(metric)
    return [row for row in rows if row.region == regions]


def case_means(rows: Sequence[CaseRow], metric: str, label: str = "") -> dict[str, float]:
    """Mean of a metric over a case's defined classes (regions), or of one; undefined cases are left out."""
    values: dict[str, list[float]] = {}
    for row in averaged_rows(rows, metric, label):
        value = row.values.get(metric)
        if value is not None:
            values.setdefault(row.case_id, []).append(value)
    return {case_id: statistics.fmean(v) for case_id, v in values.items()}


def worst_cases(
    models: Sequence[ModelInputs], best: ModelInputs, classes: Sequence[str], metric: str, number: int
) -> dict[str, Any]:
    """The best model's worst cases, and what the others made of the same ones."""
    _, label, name = split_name(metric)
    shown = metric_format(name)
    value = case_means(best.cases, name, label)
    order = sorted(value, key=lambda case_id: (rank(name, value[case_id]), case_id))[:number]
    others = []
    for title, split, model in sources(models):
        values = case_means(model.cases if split == "test" else model.baseline_cases, name, label)
        if (split == "test" and model is not best) or (split != "test" and values):
            others.append((title, values))
    rows = []
    for case_id in order:
        of_case = {row.label: row for row in best.cases if row.case_id == case_id}
        rows.append(
            {
                "case_id": case_id,
                "patient_id": next(row.patient_id for row in of_case.values()),
                "value": shown.text(value[case_id]),
                "others": [shown.text(values.get(case_id)) for _, values in others],
                "classes": [(c, of_case[c].values) for c in classes if c in of_case],
            }
        )
    return {"rows": rows, "shown": shown, "others": [title for title, _ in others], "of": best.name}


def gate_rows(numbers: Mapping[str, Any], metric: str) -> list[tuple[str, str, str]]:
    """Name, value and 95 % interval of what the gate measured.

    Args:
        numbers: Of `decision.json`; the ends of an interval stand under `_ci_low` and `_ci_high`.
        metric: Title of the metric that was compared.
    """
    rows = []
    for name, value in numbers.items():
        if name.endswith(("_ci_low", "_ci_high")):
            continue
        low, high = numbers.get(f"{name}_ci_low"), numbers.get(f"{name}_ci_high")
        if not name.endswith("improvement"):
            rows.append((name.removeprefix("n_").replace("_", " ").capitalize(), plain(value), DASH))
            continue
        label = name.removesuffix("improvement").rstrip("/")
        title = f"Improvement in {metric}" + (f", {label}" if label else "")
        ends = [DASH if end is None else format_number(end, 4) for end in (low, high)]
        rows.append((title, format_number(value, 4), DASH if DASH in ends else " to ".join(ends)))
    return rows
