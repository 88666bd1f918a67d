"""What `evaluate` would have written: made-up metrics of a made-up test set, and the recipe behind them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.report_files import write_csv, write_json
from tests.report_objects import add_case_columns, detection_numbers, write_curves

METRICS = (
    *("dice", "jaccard", "precision", "recall", "specificity", "f1", "accuracy", "volume_error_mm3"),
    *("relative_volume_error", "hd95_mm", "assd_mm", "surface_dice"),
)
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


@dataclass(frozen=True)
class Recipe:
    """What the made-up project is like.

    Attributes:
        name: Of the data set.
        classes: Foreground classes.
        models: Names with the mean Dice aimed at.
        baseline: Whether an Otsu baseline was measured.
        quarantined: Whether three cases were quarantined and one warned.
        cases: Usable cases.
        promoted: What the gate said.
        volumes: Whether the cases are volumes; else pictures, without FROC.
        compared: Whether there was a champion to compare with.
    """

    name: str = "phantom"
    classes: tuple[str, ...] = ("nodule",)
    models: Mapping[str, float] | None = None
    baseline: bool = True
    quarantined: bool = True
    cases: int = 40
    promoted: bool = True
    volumes: bool = True
    compared: bool = True

    @property
    def scores(self) -> dict[str, float]:
        return dict(self.models or {"unet": 0.83})


def write_metrics(
    root: Path, recipe: Recipe, name: str, mean: float, test: list[str], chance: random.Random
) -> None:
    folder = root / "data/metrics" / name
    rows = case_rows(recipe, mean, test, chance)
    numbers = flat_numbers(rows, recipe.classes, "test")
    numbers |= detection_numbers(recipe.classes, mean, recipe.volumes)
    add_case_columns(rows, mean, recipe.volumes, chance)
    write_csv(folder / "cases.csv", rows)
    write_curves(folder, recipe.classes, mean, recipe.volumes)
    if recipe.baseline:
        others = case_rows(recipe, 0.21, test, chance)
        write_csv(folder / "baseline_cases.csv", others)
        numbers |= flat_numbers(others, recipe.classes, "baseline_otsu_lung")
    record = {
        "model": name, "dataset": recipe.name, "n_cases": len(test), "n_patients": len(test),
        "protocol": {
            "averaging": "per case and foreground class, mean over the cases where it is defined",
            "empty_masks": "both empty: undefined, left out and counted; one empty: overlaps 0",
            "interval": "95 % percentile bootstrap over patients, 2000 resamples, seed 1",
            "object_size": "small, medium, large: below 6 mm, 6 to 10 mm, above",
        },
        "objects": {
            label: {"predicted": 15, "reference": 13, "small": 4, "medium": 9, "large": 0}
            for label in recipe.classes
        },
        "metrics": numbers,
    }  # fmt: skip
    write_json(folder / "metrics.json", record)
    order = sorted((r for r in rows if r["dice"] != ""), key=lambda r: float(r["dice"]))
    for role, place in (("worst", 0), ("median", (len(order) - 1) // 2), ("best", -1), ("busiest", 0)):
        case_id = test[0] if role == "busiest" else order[place]["case_id"]
        kinds = ["objects_"] if role == "busiest" or not recipe.volumes else ["", "objects_"]
        for kind in kinds:
            path = folder / "overlays" / f"{kind}{role}_{case_id}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(PIXEL)


def case_rows(recipe: Recipe, mean: float, test: list[str], chance: random.Random) -> list[dict[str, Any]]:
    """One case has no object at all (all but one metric undefined); in one the prediction is empty."""
    rows = []
    for i, case_id in enumerate(test):
        for label in recipe.classes:
            dice = min(max(chance.gauss(mean, 0.07), 0.01), 0.98)
            row: dict[str, Any] = {"case_id": case_id, "patient_id": case_id, "label": label}
            row |= {
                "dice": dice, "jaccard": dice / (2 - dice), "precision": min(dice + 0.03, 1), "recall": dice - 0.01,
                "specificity": 0.99987, "f1": dice, "accuracy": 0.99971,
                "volume_error_mm3": chance.gauss(-120, 300), "relative_volume_error": chance.gauss(-0.03, 0.1),
                "hd95_mm": 9.5 * (1 - dice), "assd_mm": 2.4 * (1 - dice), "surface_dice": min(dice + 0.08, 1),
                "reference_voxels": 412 + i, "prediction_voxels": 400 + i,
            }  # fmt: skip
            if i == 2:
                row |= dict.fromkeys(METRICS, "") | {"reference_voxels": 0, "prediction_voxels": 0}
                row |= {"specificity": 1.0, "accuracy": 1.0, "volume_error_mm3": 0.0}
            if i == 4:
                row |= dict.fromkeys(("dice", "jaccard", "precision", "recall", "f1", "surface_dice"), 0.0)
                row |= {"hd95_mm": "", "assd_mm": "", "prediction_voxels": 0, "relative_volume_error": -1.0}
            rows.append(row)
    return rows


def flat_numbers(rows: list[dict[str, Any]], classes: Sequence[str], split: str) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {}
    for metric in METRICS:
        means = []
        for label in classes:
            values = [float(r[metric]) for r in rows if r["label"] == label and r[metric] != ""]
            means.append(sum(values) / len(values))
            numbers |= entry(f"{split}/{label}/{metric}", means[-1], values)
        defined = {r["case_id"] for r in rows if r[metric] != ""}
        numbers |= entry(f"{split}/{metric}", sum(means) / len(means), values)
        numbers[f"{split}/{metric}_n"] = len(defined)
    return numbers


def entry(key: str, mean: float, values: list[float]) -> dict[str, float | None]:
    half = 1.96 * math.sqrt(sum((v - mean) ** 2 for v in values)) / len(values)
    return {key: mean, f"{key}_ci_low": mean - half, f"{key}_ci_high": mean + half, f"{key}_n": len(values)}
