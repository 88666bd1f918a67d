"""Charts of the report: training curves of each model, and the test cases as dots."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from pipeline.figures import Curve, DotRow, dot_plot, line_chart
from pipeline.progress import format_seconds
from pipeline.report_inputs import ModelInputs, Numbers
from pipeline.report_results import case_means, metric_format, sources, split_name
from pipeline.report_tables import DASH, moment, plain

SHARES = ("dice", "jaccard", "precision", "recall", "specificity", "f1", "accuracy", "surface_dice")


def training_view(model: ModelInputs, classes: Sequence[str]) -> dict[str, Any]:
    """Facts, curves and a remark on the training of one model."""
    run, rows = model.run, model.history
    validated = [row.get("epoch") for row in rows if row.get("validation_dice") is not None]
    best = run.get("best_epoch")
    return {
        "name": model.name,
        "facts": _facts(model),
        "charts": _charts(rows, classes, best),
        "late": len(validated) > 2 and best == validated[-1],
    }


def _facts(model: ModelInputs) -> list[tuple[str, str]]:
    run, params, rows = model.run, model.bundle.get("params", {}), model.history
    dice, spent, resumed = (run.get(key) for key in ("best_validation_dice", "seconds", "resumed"))
    seconds = [value for row in rows if (value := row.get("seconds")) is not None]
    last = rows[-1].get("epoch") if rows else 0
    time = DASH if spent is None else format_seconds(spent)
    cases = [plain(run.get(f"{side}_cases")) for side in ("training", "validation")]
    return [
        (
            "Best validation Dice",
            DASH if dice is None else f"{dice:.3f} at epoch {plain(run.get('best_epoch'))}",
        ),
        ("Epochs", f"{plain(last)} of at most {plain(params.get('max_epochs'))}"),
        ("Time", f"{time} of at most {plain(params.get('max_minutes'))} min"),
        ("An epoch", f"{statistics.median(seconds):.1f} s" if seconds else DASH),
        ("Ran on", plain(run.get("devices"))),
        ("Precision", plain(params.get("precision"))),
        ("Cases", f"{cases[0]} to train, {cases[1]} to validate"),
        ("Resumed", {0: "no", 1: "once"}.get(resumed or 0, f"{plain(resumed)} times")),
        ("Started", moment(plain(run.get("started")))),
        ("Finished", moment(plain(run.get("finished")))),
    ]


def _charts(rows: Sequence[Numbers], classes: Sequence[str], best: int | None) -> list[dict[str, Any]]:
    dice = [("mean" if len(classes) > 1 else "Dice", "validation_dice", "s0")]
    if len(classes) > 1:
        dice = [(c, f"validation_dice_{c}", f"s{1 + i % 4}") for i, c in enumerate(classes)] + dice
    wanted: list[tuple[str, list[tuple[str, str, str]], tuple[float, float] | None]] = [
        ("Training loss", [("loss", "train_loss", "s0")], None),
        ("Validation Dice", dice, (0.0, 1.0)),
        ("Learning rate", [("learning rate", "learning_rate", "s0")], None),
    ]
    charts = []
    for title, columns, limits in wanted:
        curves = [Curve(name, _points(rows, column), style) for name, column, style in columns]
        mark = (float(best), "best") if best and title == "Validation Dice" else None
        charts.append(
            {
                "title": title,
                "svg": line_chart(curves, f"{title} by epoch", "epoch", limits, mark),
                "legend": [(c.style, c.name) for c in curves if c.points] if len(curves) > 1 else [],
            }
        )
    return charts


def _points(rows: Sequence[Numbers], column: str) -> tuple[tuple[float, float], ...]:
    pairs = ((row.get("epoch"), row.get(column)) for row in rows)
    return tuple((x, y) for x, y in pairs if x is not None and y is not None)


def case_dots(models: Sequence[ModelInputs], classes: Sequence[str], metric: str) -> Markup:
    """Each test case as a dot, by class and model."""
    name = split_name(metric)[2]
    shown = metric_format(name)
    rows = []
    for label in classes:
        for i, (title, split, model) in enumerate(sources(models)):
            key = f"{split}/{label}/{name}"
            mean, low, high = (model.metrics.get(key + end) for end in ("", "_ci_low", "_ci_high"))
            table = model.cases if split == "test" else model.baseline_cases
            rows.append(
                DotRow(
                    name=f"{label}, {title}",
                    dots=tuple(case_means(table, name, label).items()),
                    mean=mean,
                    interval=None if low is None or high is None else (low, high),
                    style=f"s{i % 5}" if split == "test" else "base",
                )
            )
    axis = f"{shown.title}, one dot a test case" + (f" ({shown.unit})" if shown.unit else "")
    return dot_plot(rows, f"{shown.title} of each test case", axis, (0.0, 1.0) if name in SHARES else None)
