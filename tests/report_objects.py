"""What `evaluate` would have written about objects: made-up detection numbers and curves of a made-up test set."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.report_files import write_csv

KINDS = ("mask", "box")
SIZES = ("small", "medium", "large")
NAMES = (
    *(
        f"{kind}_{name}"
        for kind in KINDS
        for name in ("map_50_95", "map_50", "map_75", "map_10_50", "mar_100")
    ),
    *("ap_dsb", "ap_dsb_50", "ap_dsb_75", "panoptic_quality", "segmentation_quality", "recognition_quality"),
)
FROC = ("cpm", "froc_0125", "froc_025", "froc_05", "froc_1", "froc_2", "froc_4", "froc_8")


def detection_names(volumes: bool) -> tuple[str, ...]:
    """Metrics with an interval: pictures have no FROC."""
    return (*NAMES, *FROC) if volumes else NAMES


def detection_numbers(classes: Sequence[str], mean: float, volumes: bool) -> dict[str, float | None]:
    """Entries of `metrics.json`; there is no large object."""
    numbers: dict[str, float | None] = {}
    for place, prefix in enumerate(("test/", *(f"test/{label}/" for label in classes))):
        for i, name in enumerate(detection_names(volumes)):
            value = max(0.05, mean - 0.01 * i - 0.02 * place)
            ends = {"": value, "_ci_low": value - 0.06, "_ci_high": value + 0.05, "_n": 7}
            numbers |= {f"{prefix}{name}{end}": number for end, number in ends.items()}
        for kind in KINDS:
            for name in ("map_50_95", "map_10_50"):
                for size, share in zip(SIZES, (0.6, 0.9, None), strict=True):
                    numbers[f"{prefix}{kind}_{name}_{size}"] = None if share is None else share * mean
    return numbers


def add_case_columns(rows: list[dict[str, Any]], mean: float, volumes: bool, chance: random.Random) -> None:
    """Columns of `cases.csv`; undefined where nothing is there and nothing was found."""
    for row in rows:
        there = row["reference_voxels"] or row["prediction_voxels"]
        for name in detection_names(volumes):
            row[name] = min(1.0, max(0.0, chance.gauss(mean, 0.1))) if there else ""


def write_curves(folder: Path, classes: Sequence[str], mean: float, volumes: bool) -> None:
    """precision_recall.csv and, of volumes, froc.csv."""
    points = []
    for iou in ("0.1", "0.5") if volumes else ("0.5", "0.75"):
        for label in classes:
            for i in range(101):
                recall = i / 100
                precision = max(0.0, 1 - recall**4 / mean) if recall < mean + 0.05 else 0.0
                points.append(
                    {
                        "iou": iou,
                        "class": label,
                        "recall": recall,
                        "precision": round(precision, 4),
                        "score": "",
                    }
                )
    write_csv(folder / "precision_recall.csv", points)
    if volumes:
        marks = [(0, 0.0), (0, mean - 0.3), (0.5, mean - 0.15), (3, mean), (11, min(1.0, mean + 0.08))]
        rows = [
            {"class": label, "false_positives_per_scan": x, "sensitivity": round(y, 4), "score": ""}
            for label in classes
            for x, y in marks
        ]
        write_csv(folder / "froc.csv", rows)
