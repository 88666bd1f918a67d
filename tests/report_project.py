"""A project folder as it lies on disk before the stage `report`, with made-up but plausible numbers.

Only files of the data contract are written, with the standard library: no code under test takes part.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.report_files import write_csv, write_json
from tests.report_scores import Recipe, write_metrics

EVIL = 'x_<script>alert("1")</script>'
CASE_HEADING = (
    *("case_id", "patient_id", "site", "images", "label", "instances", "sha256", "shape", "spacing_mm"),
    *("orientation", "verdict", "code", "reason", "fixes"),
)


def build_project(root: Path, recipe: Recipe) -> None:
    """Writes data/ and dvc.lock below `root`."""
    chance = random.Random(7)
    ids = [f"case_{i:03d}" for i in range(1, recipe.cases + 1)]
    sides = {c: ("test", "validation", "train", "train", "train")[i % 5] for i, c in enumerate(ids)}
    write_inspected(root, recipe, ids, chance)
    write_csv(
        root / "data/splits/splits.csv",
        [{"case_id": c, "patient_id": c, "split": s} for c, s in sides.items()],
    )
    write_json(root / "data/plan/plan.json", plan(recipe))
    test = [c for c in ids if sides[c] == "test"]
    for name, mean in recipe.scores.items():
        write_training(root, recipe, name, chance)
        write_metrics(root, recipe, name, mean, test, chance)
    write_json(root / "data/registry/decision.json", decision(recipe, root))
    write_lock(root, recipe)


def write_inspected(root: Path, recipe: Recipe, ids: list[str], chance: random.Random) -> None:
    rows: list[dict[str, Any]] = [
        {
            "case_id": c, "patient_id": c, "images": f"data/raw/{recipe.name}/imagesTr/{c}.nii.gz",
            "label": f"data/raw/{recipe.name}/labelsTr/{c}.nii.gz",
            "sha256": f"{i:064x}", "shape": "112;96;48", "spacing_mm": "2.0;2.0;3.0",
            "orientation": "RAS" if i % 3 else "LPS", "verdict": "ok",
        }
        for i, c in enumerate(ids)
    ]  # fmt: skip
    rows[0] |= {"shape": "120;96;52", "spacing_mm": "1.8;2.0;2.5"}
    if recipe.quarantined:
        rows[3] |= {
            "verdict": "warn", "code": "position_outlier",
            "reason": "the centre of nodule lies 9.1 deviations from the median, limit 8",
        }  # fmt: skip
        bad = [
            ("case_101", "unreadable", "the file ends after 10240 of 51022 bytes"),
            ("case_102", "not_finite", "516096 of 516096 voxels are NaN, limit 0"),
            (EVIL, "label_shifted", "image and label lie 24.00 mm apart, limit 0.01 mm"),
        ]
        for name, code, reason in bad:
            rows.append(
                {
                    "case_id": name,
                    "patient_id": name,
                    "verdict": "quarantined",
                    "code": code,
                    "reason": reason,
                }
            )
    write_csv(root / "data/inspected/cases.csv", rows, CASE_HEADING)
    labels = {"background": 0} | {name: i for i, name in enumerate(recipe.classes, 1)}
    facts = {
        "name": recipe.name, "channels": ["CT"], "labels": labels,
        "description": "Synthetic thorax with nodules", "licence": "CC0",
    }  # fmt: skip
    write_json(root / "data/inspected/dataset.json", facts)
    for i, c in enumerate(ids):
        voxels = 0 if i % 8 == 5 else 60 + 9 * chance.randrange(200)
        write_json(root / f"data/inspected/fingerprints/{c}.json", fingerprint(c, recipe.classes, voxels))


def fingerprint(case_id: str, classes: Sequence[str], voxels: int) -> dict[str, Any]:
    record = {
        "voxels": voxels,
        "volume_mm3": voxels * 12.0,
        "components": 1 + voxels % 4,
        "centroid_fraction": None,
    }
    return {
        "case_id": case_id,
        "shape": [112, 96, 48],
        "spacing_mm": [2.0, 2.0, 3.0],
        "intensity": [
            {
                "mean": 20.5, "std": 61.2, "median": 31.0, "min": -300.0, "max": 220.0,
                "p00_5": -240.0, "p99_5": 160.0, "samples": [],
            }
        ],
        "classes": dict.fromkeys(classes, record),
    }  # fmt: skip


def plan(recipe: Recipe) -> dict[str, Any]:
    return {
        "dataset": recipe.name, "channels": ["CT"], "label_names": ["background", *recipe.classes],
        "label_values": list(range(len(recipe.classes) + 1)), "dimensions": 3, "spacing_mm": [2.0, 2.0, 3.0],
        "patch_size": [80, 64, 40], "batch_size": 2, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
        "kernels": [[3, 3, 3]] * 4, "features": [12, 24, 48, 96],
        "normalization": [{"scheme": "ct", "low": -241.5, "high": 163.0, "mean": 19.8, "std": 62.4}],
        "detection": {
            "slices": 3, "zoom": 2.0, "window": [160, 192], "anchor_sizes": [[8, 12], [16.5], [32], [64]],
            "anchor_ratios": [0.7, 1.0, 1.4], "detections": 50,
        },
        "reasons": {
            "detection_zoom": "the 10th percentile of the objects is 5.1 voxels: 2 makes it 10 pixels",
            "detection_window": "three times the large objects", "anchor_sizes": "from 13 objects",
            "anchor_ratios": "quartiles of y over x", "detections": "at least 50",
            "spacing_mm": "median of 32 cases",
            "dimensions": "48 slices along Z: whole volumes",
            "patch_size": "median shape [112, 96, 48], at most 262144 voxels, divisible by the strides",
            "batch_size": "voxel budget allows 1, 5 % of the data 4, at least 2",
            "features": "12 doubling with each stage, at most 320",
            "strides": "an axis is halved while it keeps 4 voxels: 4 stages",
            "normalization CT": "modality CT: ct",
        },
        "n_cases": 32,
    }  # fmt: skip


def write_training(root: Path, recipe: Recipe, name: str, chance: random.Random) -> None:
    rows: list[dict[str, Any]] = []
    for epoch in range(1, 121):
        row: dict[str, Any] = {
            "epoch": epoch, "step": epoch * 25, "minutes": round(epoch * 0.041, 4),
            "learning_rate": 0.01 * (1 - (epoch - 1) / 120) ** 0.9,
            "train_loss": round(0.35 + 1.1 * math.exp(-epoch / 25) + chance.gauss(0, 0.03), 5),
            "seconds": round(2.4 + chance.random() / 5, 3),
        }  # fmt: skip
        row |= validation(recipe, name, epoch)
        rows.append(row)
    folder = root / "data/models" / name
    write_csv(folder / "history.csv", rows)
    run = {
        "model": name, "run_id": "0f3c" * 8, "started": "2026-11-20T22:14:03+00:00",
        "finished": "2026-11-20T22:19:09+00:00", "training_cases": 24, "validation_cases": 8,
        "git_commit": "4d1f9c7a" * 5, "bundle_sha256": bundle_sha256(name), "best_epoch": 110,
        "best_validation_score": 0.8301, "seconds": 301.4, "resumed": 1, "devices": "2 CPU cores",
    }  # fmt: skip
    run["validation_metric"] = "validation_mask_map_10_50" if name == "maskrcnn" else "validation_dice"
    write_json(folder / "run.json", run)
    params = {
        "seed": 1,
        "max_epochs": 400,
        "max_minutes": 5.0,
        "precision": "32-true",
        "augmentation": {"flip": 0.5},
    }
    provenance = {
        "dataset": recipe.name, "data_digest": "9a0364b9e99bb480dd25e1f0284c8555.dir",
        "dvc_lock_sha256": "77" * 32, "git_commit": "4d1f9c7a" * 5, "git_dirty": False, "python": "3.11.7",
        "packages": {"torch": "2.15.0", "monai": "1.6.1", "dvc": "3.67.1", "mlflow": "3.17.2"},
    }  # fmt: skip
    bundle = {"model": name, "params": params, "provenance": provenance, "weights_sha256": "ab" * 32}
    write_json(folder / "bundle.json", bundle)


def validation(recipe: Recipe, name: str, epoch: int) -> dict[str, Any]:
    """Columns of `history.csv` that depend on the model; a validation every tenth epoch."""
    values = [round(0.85 - 0.07 * i - 0.8 * math.exp(-epoch / 30), 5) for i in range(len(recipe.classes))]
    mean, blank = round(sum(values) / len(values), 5), epoch % 10 != 0
    if name == "maskrcnn":
        parts = ("objectness", "rpn_box", "class", "box", "mask")
        losses = {
            f"train_loss_{p}": round(0.3 * math.exp(-epoch / 40) + 0.02 * i, 5) for i, p in enumerate(parts)
        }
        shown = {"validation_mask_map_10_50": mean, "validation_mask_map_50": round(0.8 * mean, 5)}
        return losses | {key: "" if blank else value for key, value in shown.items()}
    shown = {"validation_dice": mean}
    shown |= {f"validation_dice_{c}": v for c, v in zip(recipe.classes, values, strict=True)}
    return {key: "" if blank else value for key, value in shown.items()}


def bundle_sha256(name: str) -> str:
    return (name.encode().hex() + "c0ffee" * 11)[:64]


def decision(recipe: Recipe, root: Path) -> dict[str, Any]:
    best = max(recipe.scores, key=lambda name: recipe.scores[name])
    old = "0123456789abcdef" * 4
    versions = [
        {
            "bundle_sha256": sha, "model": model, "created": "2026-11-20T22:19:09+00:00", "run_id": "0f3c" * 8,
            "metric": "test/dice", "value": value, "ci_low": value - 0.05, "ci_high": value + 0.04, "n": 7,
            "dataset": recipe.name, "data_digest": "9a0364b9e99bb480dd25e1f0284c8555.dir",
            "dvc_lock_sha256": "77" * 32, "git_commit": "4d1f9c7a" * 5,
        }
        for sha, model, value in [(old, "unet", 0.71), *((bundle_sha256(m), m, v) for m, v in recipe.scores.items())]
    ]  # fmt: skip
    return {
        "name": recipe.name, "metric": "test/dice", "challenger": bundle_sha256(best),
        "champion_before": old if recipe.compared else None,
        "champion_after": bundle_sha256(best) if recipe.promoted else old, "promoted": recipe.promoted,
        "reasons": ["test/dice improves by 0.0312 over 7 paired cases; the lower bound 0.0101 lies above the margin 0"]
        if recipe.promoted
        else ["the improvement in test/dice is 0.0040 with lower bound -0.0100, which does not lie above 0"],
        "numbers": {"n_cases": 7.0, "n_patients": 7.0, "improvement": 0.0312, "improvement_ci_low": 0.0101,
                    "improvement_ci_high": 0.0533},
        "decided": "2026-11-20T22:20:00+00:00", "versions": versions,
    }  # fmt: skip


def write_lock(root: Path, recipe: Recipe) -> None:
    model = next(iter(recipe.scores))
    lines = ["schema: '2.0'", "stages:"]
    outs = {
        "inspect": "data/inspected", "plan": "data/plan", f"train@{model}": f"data/models/{model}",
        "register": "data/registry", "report": "data/report",
    }  # fmt: skip
    for i, (stage, path) in enumerate(outs.items()):
        lines += [
            f"  {stage}:",
            "    cmd: python",
            "    outs:",
            f"    - path: {path}",
            f"      md5: {i:032x}.dir",
        ]
    (root / "dvc.lock").write_text("\n".join(lines) + "\n", encoding="utf-8")
