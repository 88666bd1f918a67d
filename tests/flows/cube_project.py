"""A project whose cubes are preprocessed, so that the stage `train` can run for real: seconds, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import model_project as made
import yaml
from training_jobs import SMALL, cube_plan, write_cubes

PROJECT = Path(__file__).resolve().parents[2]
SALT = "cubes"
# By `printf cubes:fold:case_0 | sha256sum`: of 2 folds, the first hexadecimal digit is below 8 in fold 0.
FOLDS = (("case_0", "case_3", "case_5"), ("case_1", "case_2", "case_4", "case_6"))
TEST = "case_7"
CASES = tuple(f"case_{i}" for i in range(8))


def write_cube_project(**changes: Any) -> None:
    """Writes what the stages before `train` leave, into the working directory.

    Args:
        **changes: Of `train.unet`.
    """
    made.write_project()
    (Path("dvc.yaml")).symlink_to(PROJECT / "dvc.yaml")
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["train"]["unet"] |= {**SMALL["unet"], "max_minutes": 60.0, "validate_every_epochs": 2, **changes}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    cube_plan().save(Path("data/plan/plan.json"))
    store = Path("data/preprocessed")
    write_cubes(store)
    manifest = {case_id: {"key": case_id, "sha256": case_id} for case_id in CASES}
    (store / "_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    sides = dict.fromkeys(CASES, "train") | {"case_6": "validation", TEST: "test"}
    rows = [{"case_id": c, "patient_id": c, "split": side} for c, side in sides.items()]
    made.write_csv(rows, ("case_id", "patient_id", "split"), "data/splits/splits.csv")
    made.write_json({"salt": SALT}, "data/splits/split.json")


def start_stage(model: str = "unet") -> subprocess.Popen[str]:
    """Starts the stage as DVC does, without Prefect."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.train", model],
        env=variables | {"SEGTRAIL_NO_PREFECT": "1", "SEGTRAIL_DEVICES": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
