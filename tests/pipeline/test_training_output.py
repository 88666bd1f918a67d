"""Finished folds become one model: weights, curves, scores and rules; no training is needed to see that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_jobs import cube_plan, make_job

from pipeline.bundle import load_bundle, save_bundle
from pipeline.closing_validation import ClassScore, save_prediction, save_table
from pipeline.history import save_history
from pipeline.metrics import count_voxels, dice
from pipeline.models.networks import build_network
from pipeline.store import load_case
from pipeline.train_worker import run_job
from pipeline.training_job import TrainingJob

CASES = ((0, 2, 4, 6), (1, 3, 5))  # validated by fold 0 and by fold 1
PLAN = cube_plan()
ARGUMENTS = {
    "channels": 1, "classes": 2, "features": PLAN.features, "strides": PLAN.strides, "kernels": PLAN.kernels,
    "dimensions": 3,
}  # fmt: skip


def finish_fold(job: TrainingJob, fold: int, folder: Path) -> list[float]:
    """Writes what a fold leaves: predictions are the reference and a speck in a corner. Returns the Dice."""
    torch.manual_seed(fold)
    folder.mkdir(parents=True)
    save_bundle(
        folder, build_network("unet", **ARGUMENTS).state_dict(), model="unet", network="unet",
        network_arguments=ARGUMENTS, plan=PLAN, params={"seed": fold}, provenance={},
        validation_metric="validation_dice", validation_score=None,
    )  # fmt: skip
    (folder / "predictions").mkdir()
    rows = []
    for case_id in (f"case_{i}" for i in CASES[fold]):
        reference = np.array(load_case(job.store, case_id).label)
        predicted = reference.copy()
        predicted[-2:, -2:, -2:] = 1
        save_prediction(predicted, folder / "predictions", case_id)
        rows.append(ClassScore(case_id, fold, "cube", dice(count_voxels(reference == 1, predicted == 1))))
    save_table(rows, folder / "validation.csv")
    save_history([{"epoch": 1, "step": 10, "train_loss": 0.5 + fold}], folder / "history.csv")
    record = {
        "best_epoch": 1, "validation_metric": "validation_dice", "best_validation_score": 0.5 + 0.25 * fold,
        "seconds": 10.5, "resumed": fold, "devices": "1 x cpu", "started": 100.0 + fold,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(record))
    return [row.dice for row in rows]


def test_folds_are_joined(tmp_path: Path) -> None:
    job = make_job(tmp_path, "joined", folds=2)
    members = tuple(job.scratch / f"fold_{fold}/finished" for fold in (0, 1))
    every = tuple(f"case_{i}" for i in range(7))
    change = {"members": members, "folds": 2, "training_cases": every, "validation_cases": every}
    joint = job.model_copy(update=change)
    scores = [score for fold, folder in enumerate(members) for score in finish_fold(job, fold, folder)]
    run_job(joint)

    metadata = load_bundle(joint.output).metadata
    assert (metadata.members, metadata.params["folds"]) == (2, 2)
    assert metadata.validation_metric == "cross_validation_dice"
    assert metadata.validation_score == pytest.approx(np.mean(scores))
    assert metadata.validation_scores["cube/dice_n"] == 7
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        one, other = (load_bundle(folder).build(torch.device("cpu"))(image) for folder in members)
        torch.testing.assert_close(
            load_bundle(joint.output).build(torch.device("cpu"))(image), (one + other) / 2
        )

    # A speck of 8 voxels beside a cube of 343, in all seven cases: 2 * 343 / (343 + 351) becomes 1.
    (rule,) = metadata.postprocessing
    assert (rule.kind, rule.cases, rule.cases_changed) == ("largest_foreground", 7, 7)
    assert rule.dice_before == pytest.approx(2 * 343 / 694)
    assert rule.dice_after == 1

    assert (joint.output / "history.csv").read_text() == "epoch,step,train_loss\n1,10,1.0\n"
    assert (joint.output / "folds/1/result.json").read_bytes() == (members[1] / "result.json").read_bytes()
    assert (joint.output / "validation.csv").read_text().count("\ncase_") == 7
    result = json.loads((joint.output / "result.json").read_text())
    assert result["best_epoch"] is None
    assert (result["best_validation_score"], result["seconds"], result["resumed"]) == (0.625, 21.0, 1)
    assert result["started"] == 100.0
    assert not (joint.output / "predictions").exists()


def test_one_lock_for_all_folds(tmp_path: Path) -> None:
    job = make_job(tmp_path, "model")
    fold = job.model_copy(update={"scratch": job.scratch / "fold_1", "fold": 1, "folds": 3})
    joint = job.model_copy(update={"folds": 3, "members": (tmp_path,)})
    assert fold.locked == joint.locked == job.locked == job.scratch
    assert (job.is_fold, fold.is_fold, joint.is_fold) == (False, True, False)
