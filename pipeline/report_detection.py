"""Objects in the report: headline numbers, precision-recall and FROC curves, and numbers by size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.figures import FROC_TICKS, Curve, level_out, line_chart
from pipeline.report_inputs import ModelInputs
from pipeline.report_metrics import AP_PARTS, DETECTION, KINDS, SIZES, metric_format
from pipeline.report_results import metric_groups, metric_names
from pipeline.report_tables import DASH

PICTURE_HEADLINES = (
    "mask_map_50",
    "mask_map_50_95",
    "box_map_50_95",
    "ap_dsb",
    "ap_dsb_50",
    "panoptic_quality",
)
VOLUME_HEADLINES = ("mask_map_10_50", "mask_map_50", "box_map_10_50", "cpm", "ap_dsb_50", "panoptic_quality")
RECALL_TICKS = tuple((i / 5, f"{i / 5:g}") for i in range(6))
MOST_CLASSES = 3  # with charts of their own


def detection_view(models: Sequence[ModelInputs], classes: Sequence[str]) -> dict[str, Any] | None:
    """Everything the section shows; None when no model has detection metrics."""
    names = [name for name in DETECTION if name in metric_names(models)]
    if not names:
        return None
    volumes = any("froc" in model.curves for model in models)
    headlines = [name for name in (VOLUME_HEADLINES if volumes else PICTURE_HEADLINES) if name in names]
    columns = [(model.name, "test", model) for model in models]
    rest = [name for name in names if name not in headlines]
    shown = list(classes)[:MOST_CLASSES]
    return {
        "headlines": metric_groups(columns, classes, headlines),
        "rest": metric_groups(columns, classes, rest),
        "charts": [*_precision_recall_charts(models, shown), *_froc_charts(models, shown)],
        "left_out": list(classes)[MOST_CLASSES:],
        "legend": [(f"s{i % 5}", model.name) for i, model in enumerate(models)],
        "sizes": _size_groups(models, classes, "map_10_50" if volumes else "map_50_95"),
    }


def _precision_recall_charts(models: Sequence[ModelInputs], classes: Sequence[str]) -> list[dict[str, Any]]:
    rows = [row for model in models for row in model.curves.get("precision_recall", ())]
    charts = []
    for label in classes:
        for iou in sorted({row["iou"] for row in rows if row["class"] == label}, key=float):
            title = f"Precision over recall, IoU {float(iou):g}" + _suffix(label, classes)
            wanted = {"class": label, "iou": iou}
            curves = _curves(models, "precision_recall", wanted, ("recall", "precision"))
            svg = line_chart(curves, title, "recall", (0.0, 1.0), x_ticks=RECALL_TICKS)
            charts.append({"title": title, "svg": svg})
    return charts


def _froc_charts(models: Sequence[ModelInputs], classes: Sequence[str]) -> list[dict[str, Any]]:
    charts = []
    for label in classes:
        wanted = {"class": label}
        curves = _curves(models, "froc", wanted, ("false_positives_per_scan", "sensitivity"))
        drawn = [Curve(c.name, _on_rates(c.points), c.style) for c in curves if c.points]
        if drawn:
            title = "Sensitivity over false positives a scan" + _suffix(label, classes)
            x_ticks = [(float(i), text) for i, (_, text) in enumerate(FROC_TICKS)]
            svg = line_chart(drawn, title, "false positives a scan", (0.0, 1.0), x_ticks=x_ticks)
            charts.append({"title": title, "svg": svg})
    return charts


def _suffix(label: str, classes: Sequence[str]) -> str:
    return f", {label}" if len(classes) > 1 else ""


def _curves(
    models: Sequence[ModelInputs], table: str, wanted: Mapping[str, str], axes: tuple[str, str]
) -> list[Curve]:
    """One curve a model, in the colour of the model."""
    return [
        Curve(
            model.name,
            tuple(
                (float(row[axes[0]]), float(row[axes[1]]))
                for row in model.curves.get(table, ())
                if all(row[key] == value for key, value in wanted.items())
            ),
            f"s{i % 5}",
        )
        for i, model in enumerate(models)
    ]


def _on_rates(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """FROC points with their rate as its place among the seven, each of which is twice the one before."""
    return tuple((math.log2(rate / FROC_TICKS[0][0]), value) for rate, value in level_out(points))


def _size_groups(models: Sequence[ModelInputs], classes: Sequence[str], name: str) -> list[dict[str, Any]]:
    """Average precision by object size: one group a class, one row a size and kind, one cell a model."""
    groups = []
    for label in classes:
        counts = next((model.objects[label] for model in models if label in model.objects), {})
        rows = []
        for size in SIZES:
            for kind in KINDS:
                values = [model.metrics.get(f"test/{label}/{kind}_{name}_{size}") for model in models]
                best = max((v for v in values if v is not None), default=None)
                cells = [
                    (metric_format("").text(v), len(models) > 1 and v == best and values.count(best) == 1)
                    for v in values
                ]
                objects = str(counts.get(size, DASH)) if kind == "mask" else ""
                rows.append({"size": size, "kind": KINDS[kind], "objects": objects, "cells": cells})
        groups.append({"title": label, "rows": rows})
    return [{**group, "metric": AP_PARTS[name][0]} for group in groups]
