"""A champion with a real network, scored on three test cases, and a challenger that was scored on two more.

Scores of old are made up, so that a score that was computed is told from them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import model_project as made
import nibabel
import numpy as np
import pytest
from mlflow_store import PROJECT, forget_stores, link_code
from registered import run_register
from small_bundle import write_nodule_bundle

from pipeline.cases import CaseRecord, save_cases

OLD, NEW = ("old_0", "old_1", "old_2"), ("new_0", "new_1")
TRAINED = ("train_0", "train_1")
CHAMPION, CHALLENGER = 0.5, 0.9  # their made-up Dice in every case
OBJECTS = "case_id,id,label,diameter_mm,x_mm,y_mm,z_mm,voxels,readers,agreement,ignored\n"


def write_cases(test: Sequence[str]) -> None:
    """Table, split and files of the training cases and these test cases."""
    cases = []
    for number, name in enumerate((*TRAINED, *test)):
        random = np.random.default_rng(number)
        label = np.zeros((16, 16, 16), np.uint8)
        label[:8, 4:12], label[8:, 4:12] = 1, 2
        paths = [Path(f"data/raw/phantom/{name}{end}.nii.gz") for end in ("", "_label")]
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for path, array in zip(
            paths, (random.normal(50, 80, label.shape).astype(np.float32), label), strict=True
        ):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), path)
        digest = hashlib.sha256(name.encode()).hexdigest()
        cases.append(
            CaseRecord(name, f"patient_{name}", "", (str(paths[0]),), str(paths[1]), "", digest, label.shape)
        )
    save_cases(cases, Path("data/inspected/cases.csv"))
    Path("data/inspected/objects.csv").write_text(OBJECTS)
    rows = [
        {"case_id": c.case_id, "patient_id": c.patient_id, "split": "test" if c.case_id in test else "train"}
        for c in cases
    ]
    made.write_csv(rows, ("case_id", "patient_id", "split"), "data/splits/splits.csv")


def train_champion() -> str:
    """A bundle that can be loaded, in the place of the made-up one; its sha256."""
    made.train("unet", "", minute=1)
    folder = Path("data/models/unet")
    bundle = write_nodule_bundle(Path("bundle"))
    for path in bundle.iterdir():
        shutil.copy(path, folder / path.name)
    shutil.rmtree(bundle)
    sha256 = hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest()
    run = json.loads((folder / "run.json").read_text())
    made.write_json({**run, "bundle_sha256": sha256}, folder / "run.json")
    return sha256


def make_template(folder: Path, store_template: Path) -> None:
    """Fills a project folder; the next `register` is to compare the two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy(PROJECT / "params.yaml", "params.yaml")
        link_code(folder)
        Path("dvc.yaml").symlink_to(PROJECT / "dvc.yaml")
        Path(".segtrail").mkdir()
        shutil.copy(store_template, ".segtrail/mlflow.db")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/.segtrail/mlflow.db")
        made.write_project()
        write_cases(OLD)
        train_champion()
        made.evaluate("unet", [CHAMPION] * len(OLD), OLD, more={"surface_dice": [CHAMPION] * len(OLD)})
        run_register()
        write_cases((*OLD, *NEW))
        made.train("unet", "challenger", minute=2)
        scores = [CHALLENGER] * len((*OLD, *NEW))
        made.evaluate("unet", scores, (*OLD, *NEW), more={"surface_dice": scores})
        forget_stores()
