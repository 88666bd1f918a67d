"""A project folder as it lies on disk when models have been trained and evaluated, without any training.

Scores are made up; the tables are written by hand as the data contract says.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

PLAN = {
    "dataset": "phantom",
    "channels": ["CT"],
    "label_names": ["background", "nodule", "vessel"],
    "label_values": [0, 1, 2],
    "dimensions": 3,
    "spacing_mm": [2.0, 2.0, 3.0],
    "patch_size": [16, 16, 16],
    "batch_size": 2,
    "strides": [[1, 1, 1], [2, 2, 2]],
    "kernels": [[3, 3, 3], [3, 3, 3]],
    "features": [4, 8],
    "normalization": [{"scheme": "ct", "low": -1000.0, "high": 400.0, "mean": -300.0, "std": 350.0}],
    "reasons": {"spacing_mm": "median"},
    "n_cases": 12,
}
DATA_DIGEST = "0123456789abcdef0123456789abcdef.dir"  # longest that MLflow takes: 36 characters
TEST_CASES = tuple(f"case_{i:02d}" for i in range(6))
LOCK = f"""schema: '2.0'
stages:
  inspect:
    cmd: python -m flows.inspect
    deps:
    - path: data/raw/phantom
      hash: md5
      md5: {DATA_DIGEST}
"""
CASE_COLUMNS = (
    *("case_id", "patient_id", "site", "images", "label", "instances", "sha256", "shape", "spacing_mm"),
    *("orientation", "verdict", "code", "reason", "fixes"),
)
IDENTITY = ("case_id", "patient_id", "label", "reference_voxels", "prediction_voxels")
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def write_project(models: Sequence[str] = ("unet",)) -> None:
    """Writes what the stages before training leave, and `params.yaml` that names these models."""
    text = Path("params.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^models: \[.*?\]", f"models: [{', '.join(models)}]", text, count=1, flags=re.MULTILINE)
    Path("params.yaml").write_text(text, encoding="utf-8")
    Path("dvc.lock").write_text(LOCK, encoding="utf-8")
    write_json(PLAN, "data/plan/plan.json")
    facts = {"name": "phantom", "channels": ["CT"], "labels": {"background": 0, "nodule": 1, "vessel": 2}}
    write_json({**facts, "description": "", "licence": ""}, "data/inspected/dataset.json")
    write_cases(TEST_CASES)


def write_cases(test: Sequence[str], changed: Sequence[str] = ()) -> None:
    """Writes the table of cases and the split: six training cases and the test cases.

    Args:
        test: Test cases.
        changed: Cases whose files have another sha256 than before.
    """
    names = [*(f"train_{i}" for i in range(6)), *test]
    rows = [
        dict.fromkeys(CASE_COLUMNS, "")
        | {
            "case_id": name, "patient_id": name, "images": f"{name}.nii.gz", "label": f"{name}_label.nii.gz",
            "sha256": hashlib.sha256(f"{name}{name in changed}".encode()).hexdigest(), "verdict": "ok",
        }
        for name in names
    ]  # fmt: skip
    write_csv(rows, CASE_COLUMNS, "data/inspected/cases.csv")
    sides = [{"case_id": n, "patient_id": n, "split": "test" if n in test else "train"} for n in names]
    write_csv(sides, ("case_id", "patient_id", "split"), "data/splits/splits.csv")


def write_json(record: Mapping[str, Any], path: str | Path) -> None:
    """Writes JSON and the folders above it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(record, indent=1), encoding="utf-8")


def write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: str | Path) -> None:
    """Writes a table and the folders above it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def train(model: str, weights: str, run_id: str = "", minute: int = 0, validation: float | None = 0.8) -> str:
    """Writes `data/models/<model>` as a training would.

    Args:
        model: Name.
        weights: Content of the weights file.
        run_id: MLflow run of the training, "" when MLflow was away.
        minute: When it finished, after noon.
        validation: Validation score; its metric is Dice, for Mask R-CNN average precision.

    Returns:
        sha256 of the bundle.
    """
    measured = "validation_mask_map_10_50" if model == "maskrcnn" else "validation_dice"
    folder = Path("data/models") / model
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(weights, encoding="utf-8")
    bundle = {
        "model": model,
        "network": "unet",
        "network_arguments": {},
        "plan": PLAN,
        "params": {"seed": 1, "learning_rate": 0.01, "augmentation": {"flip": 0.5}},
        "provenance": {
            "dataset": "phantom",
            "data_digest": DATA_DIGEST,
            "git_commit": "c0ffee",
        },
        "validation_metric": measured,
        "validation_score": validation,
        "weights_sha256": hashlib.sha256(weights.encode()).hexdigest(),
    }
    write_json(bundle, folder / "bundle.json")
    history = [
        {
            "epoch": epoch, "step": 25 * epoch, "minutes": 0.5 * epoch, "learning_rate": 0.01 / epoch,
            "train_loss": 1.0 / epoch, "seconds": 30.0,
            "validation_dice": 0.4 * epoch if epoch == 2 else "",
            "validation_dice_nodule": 0.3 * epoch if epoch == 2 else "",
        }
        for epoch in (1, 2, 3)
    ]  # fmt: skip
    write_csv(history, list(history[0]), folder / "history.csv")
    sha256 = hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest()
    run = {
        "model": model, "run_id": run_id, "bundle_sha256": sha256, "git_commit": "c0ffee",
        "started": "2026-11-21T11:58:00+00:00", "finished": f"2026-11-21T12:{minute:02d}:00+00:00",
        "seconds": 90.0, "devices": "cpu", "best_epoch": 2, "resumed": 0,
        "validation_metric": measured, "best_validation_score": validation,
    }  # fmt: skip
    write_json(run, folder / "run.json")
    return sha256


def evaluate(
    model: str,
    dice: Sequence[float],
    cases: Sequence[str] = TEST_CASES,
    more: Mapping[str, Sequence[float]] | None = None,
    regions: Sequence[str] = (),
) -> None:
    """Writes `data/metrics/<model>`, with the same scores for both classes.

    Args:
        model: Name.
        dice: One Dice a case; distances are 10 times 1 - Dice in mm.
        cases: The test cases.
        more: Further metrics, one value a case; the pooled value is their mean.
        regions: Overlapping regions, with the same scores.
    """
    folder = Path("data/metrics") / model
    shutil.rmtree(folder, ignore_errors=True)
    scores: dict[str, Sequence[float]] = {
        "dice": dice,
        "hd95_mm": [round(10 * (1 - value), 6) for value in dice],
        **(more or {}),
    }
    rows: list[dict[str, Any]] = [
        {
            "case_id": case, "patient_id": case, "label": label, "reference_voxels": 50, "prediction_voxels": 40,
            **{name: values[i] for name, values in scores.items()}, "kind": kind,
        }
        for i, case in enumerate(cases)
        for label, kind in (("nodule", "class"), ("vessel", "class"), *((name, "region") for name in regions))
    ]  # fmt: skip
    write_csv(rows, (*IDENTITY, *scores, "kind"), folder / "cases.csv")
    metrics: dict[str, float | None] = {"test/vessel/assd_mm": None, "test/mask_map_10_50_small": 0.5}
    for name, values in scores.items():
        mean = fmean(values)
        for prefix in ("test", "test/nodule", "test/vessel", *(f"test/{name}" for name in regions)):
            ends = {"": mean, "_ci_low": mean - 0.01, "_ci_high": mean + 0.01, "_n": float(len(cases))}
            metrics |= {f"{prefix}/{name}{end}": value for end, value in ends.items()}
    record = {
        "model": model, "dataset": "phantom", "n_cases": len(cases),
        "protocol": {"surface": "2 mm", "reference": "made-up spheres"},
        "settings": {"surface_tolerance_mm": 2.0, "max_detections": 100, "max_marks": 100},
        "n_patients": len(cases), "metrics": metrics,
    }  # fmt: skip
    write_json(record, folder / "metrics.json")
    for name in ("overlays/best_case_00.png", "plots/dice.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG)
