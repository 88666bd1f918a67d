"""Charts of the report: training curves of each model, and the test cases as dots."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.figures import Curve, DotRow, dot_plot, line_chart
from pipeline.progress import format_seconds
from pipeline.report_configurations import network_facts, rule_rows
from pipeline.report_inputs import ModelInputs, Numbers
from pipeline.report_metrics import DETECTION, metric_format, split_name
from pipeline.report_results import case_means, sources
from pipeline.report_tables import DASH, moment, plain
from pipeline.scores import is_detection

OVERLAPS = ("dice", "jaccard", "precision", "recall", "specificity", "f1", "accuracy", "surface_dice")
SHARES = (*OVERLAPS, *DETECTION)
LOSSES = {
    "objectness": "objectness",
    "rpn_box": "proposal box",
    "class": "class",
    "box": "box",
    "mask": "mask",
}


def training_view(model: ModelInputs, classes: Sequence[str]) -> dict[str, Any]:
    """Facts, curves and a remark on the training of one model."""
    run, rows = model.run, model.history
    score = str(run.get("validation_metric") or "validation_dice")
    validated = [row.get("epoch") for row in rows if row.get(score) is not None]
    best = run.get("best_epoch")
    return {
        "name": model.name,
        "facts": _facts(model, score),
        "charts": _charts(rows, classes, score, best),
        "low_charts": _charts(model.low_history, classes, score, None) if model.low_history else [],
        "rules": rule_rows(model.bundle),
        "late": len(validated) > 2 and best == validated[-1],
    }


def _score_title(column: str) -> str:
    """Name of a column such as "validation_dice" or "validation_mask_map_50"."""
    return f"Validation {metric_format(column.removeprefix('validation_')).title}"


def _facts(model: ModelInputs, score: str) -> list[tuple[str, str]]:
    run, params, rows = model.run, model.bundle.get("params", {}), model.history
    best, spent, resumed = (run.get(key) for key in ("best_validation_score", "seconds", "resumed"))
    seconds = [value for row in rows if (value := row.get("seconds")) is not None]
    last = rows[-1].get("epoch") if rows else 0
    time = DASH if spent is None else format_seconds(spent)
    folds = int(run.get("folds") or 1)
    reached = f"at epoch {plain(run.get('best_epoch'))}" if folds == 1 else "on average over the folds"
    return [
        (
            f"Best {_score_title(score).lower().replace('map', 'mAP').replace('dice', 'Dice')}",
            DASH if best is None else f"{best:.3f} {reached}",
        ),
        *_closing(run, folds),
        *network_facts(model.bundle),
        ("Epochs", f"{plain(last)} of at most {plain(params.get('max_epochs'))}"),
        (
            "Time",
            f"{time}, budget {f'{folds} x ' if folds > 1 else ''}{plain(params.get('max_minutes'))} min",
        ),
        ("An epoch", f"{statistics.median(seconds):.1f} s" if seconds else DASH),
        ("Ran on", plain(run.get("devices"))),
        ("Precision", plain(params.get("precision"))),
        ("Cases", _cases(run, folds)),
        ("Resumed", {0: "no", 1: "once"}.get(resumed or 0, f"{plain(resumed)} times")),
        ("Started", moment(plain(run.get("started")))),
        ("Finished", moment(plain(run.get("finished")))),
    ]


def _closing(run: Mapping[str, Any], folds: int) -> list[tuple[str, str]]:
    """Dice of the chosen weights, see `closing_validation`; not of Mask R-CNN, nor of models of before."""
    score, judged = (
        run.get("validation_score"),
        "outside their fold" if folds > 1 else "on the validation side",
    )
    if "validation_scores" not in run:
        return []
    return [("Closing validation Dice", DASH if score is None else f"{score:.3f}, cases {judged}")]


def _cases(run: Mapping[str, Any], folds: int) -> str:
    training, validation = (plain(run.get(f"{side}_cases")) for side in ("training", "validation"))
    return f"{training} to train, {validation} to validate" if folds == 1 else f"{training} in {folds} folds"


def _charts(
    rows: Sequence[Numbers], classes: Sequence[str], score: str, best: int | None
) -> list[dict[str, Any]]:
    columns = list(rows[0]) if rows else []
    validation = _score_title(score) if score == "validation_dice" else "Validation"
    wanted: list[tuple[str, list[tuple[str, str, str]], tuple[float, float] | None]] = [
        ("Training loss", _loss_columns(columns), None),
        (validation, _validation_columns(columns, classes, score), (0.0, 1.0)),
        ("Learning rate", [("learning rate", "learning_rate", "s0")], None),
    ]
    charts = []
    for title, shown, limits in wanted:
        curves = [Curve(name, _points(rows, column), style) for name, column, style in shown]
        mark = (float(best), "best") if best and title == validation else None
        charts.append(
            {
                "title": title,
                "svg": line_chart(curves, f"{title} by epoch", "epoch", limits, mark),
                "legend": [(c.style, c.name) for c in curves if c.points] if len(curves) > 1 else [],
            }
        )
    return charts


def _loss_columns(columns: Sequence[str]) -> list[tuple[str, str, str]]:
    """Name, column and colour of the parts of the loss, where it has parts, and of their sum, drawn last."""
    styles = ("s1", "s2", "s3", "s4", "base")
    parts = [
        (name, f"train_loss_{part}", style)
        for (part, name), style in zip(LOSSES.items(), styles, strict=True)
        if f"train_loss_{part}" in columns
    ]
    return [*parts, ("sum" if parts else "loss", "train_loss", "s0")]


def _validation_columns(
    columns: Sequence[str], classes: Sequence[str], score: str
) -> list[tuple[str, str, str]]:
    """Name, column and colour of the curves of the validation, the one that chooses the epoch drawn last."""
    if score == "validation_dice":
        every = [(c, f"validation_dice_{c}", f"s{1 + i % 4}") for i, c in enumerate(classes)]
        return [*every, ("mean", score, "s0")] if len(classes) > 1 else [("Dice", score, "s0")]
    others = [c for c in columns if c.startswith("validation_") and c != score]
    shown = [(c, f"s{1 + i % 4}") for i, c in enumerate(others)] + [(score, "s0")]
    return [(metric_format(c.removeprefix("validation_")).title, c, style) for c, style in shown]


def _points(rows: Sequence[Numbers], column: str) -> tuple[tuple[float, float], ...]:
    pairs = ((row.get("epoch"), row.get(column)) for row in rows)
    return tuple((x, y) for x, y in pairs if x is not None and y is not None)


def value_name(metric: str) -> str:
    """What the number of a test set is to those of its cases; of the Kaggle score it is their mean."""
    name = split_name(metric)[2]
    return "pooled value" if is_detection(name) and not name.startswith("ap_dsb") else "mean"


def case_dots(models: Sequence[ModelInputs], classes: Sequence[str], metric: str) -> Markup:
    """Each test case as a dot, by class and model."""
    name = split_name(metric)[2]
    shown = metric_format(name)
    rows = []
    for label in classes:
        for i, (title, split, model) in enumerate(sources(models)):
            key = f"{split}/{label}/{name}"
            mean, low, high = (model.metrics.get(key + end) for end in ("", "_ci_low", "_ci_high"))
            dots = case_means(model.cases if split == "test" else model.baseline_cases, name, label)
            if split != "test" and not dots:
                continue  # a baseline has no detection metrics
            rows.append(
                DotRow(
                    name=f"{label}, {title}",
                    dots=tuple(dots.items()),
                    mean=mean,
                    mean_name=value_name(metric),
                    interval=None if low is None or high is None else (low, high),
                    style=f"s{i % 5}" if split == "test" else "base",
                )
            )
    axis = f"{shown.title}, one dot a test case" + (f" ({shown.unit})" if shown.unit else "")
    return dot_plot(rows, f"{shown.title} of each test case", axis, (0.0, 1.0) if name in SHARES else None)
