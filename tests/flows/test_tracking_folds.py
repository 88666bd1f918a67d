"""Runs of folds below the run of their model, in a real MLflow store; nothing is trained."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import model_project as made
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_store import delete_store

from flows import tracking
from flows.archive import archive_model
from flows.model_files import present_files

PROVENANCE = {"dataset": "phantom", "data_digest": made.DATA_DIGEST, "git_commit": "c0ffee"}
PARENT = "mlflow.parentRunId"


def client() -> MlflowClient:
    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def fold_runs() -> dict[str, Run]:
    """Runs of folds, by name."""
    found = client().search_runs([e.experiment_id for e in client().search_experiments()])
    folds = [run for run in found if "segtrail.fold" in run.data.tags]
    names = [run.info.run_name for run in folds]
    assert len(set(names)) == len(names), names
    return dict(zip(names, folds, strict=True))


def fold_record(fold: int, run_id: str = "") -> dict[str, Any]:
    """`result.json` of a fold as a training writes it."""
    return {
        "run_id": run_id, "bundle_sha256": f"{fold}" * 64, "fold": fold, "seed": 1 + fold, "best_epoch": 2,
        "training_cases": 4, "validation_cases": 2 + fold, "started": 1_800_000_000.5, "finished": 1_800_000_060.0,
        "validation_scores": {"dice": 0.5 + 0.25 * fold, "nodule/dice": None, "nodule/dice_n": 0.0},
    }  # fmt: skip


def write_folds(run_ids: tuple[str, str] = ("", "")) -> None:
    """A trained model of two folds."""
    made.write_project()
    made.train("unet", "weights")
    for fold, run_id in enumerate(run_ids):
        folder = Path(f"data/models/unet/folds/{fold}")
        folder.mkdir(parents=True)
        shutil.copy("data/models/unet/history.csv", folder)
        made.write_json(fold_record(fold, run_id), folder / "result.json")


def check_folds(parent: str) -> None:
    found = fold_runs()
    assert set(found) == {"unet fold 0", "unet fold 1"}
    for fold in (0, 1):
        run = found[f"unet fold {fold}"]
        assert run.info.status == "FINISHED"
        assert run.data.tags[PARENT] == parent
        assert run.data.params["seed"] == str(1 + fold)
        assert run.data.params["augmentation.flip"] == "0.5"
        closing = {k: v for k, v in run.data.metrics.items() if k.startswith("closing_validation/")}
        assert closing == {
            "closing_validation/dice": 0.5 + 0.25 * fold, "closing_validation/nodule/dice_n": 0,
        }  # fmt: skip
        assert run.data.metrics["train/loss"] == pytest.approx(1 / 3)
        assert f"{2 + fold} validation cases" in run.data.tags["mlflow.note.content"]


def test_folds_as_they_are_trained(tracked: Path) -> None:
    made.write_project()
    parent = tracking.start_training_run("unet", {"seed": 1}, PROVENANCE)
    runs = [tracking.start_fold_run(parent, "unet", k, {"seed": 1 + k}, PROVENANCE) for k in (0, 1)]
    tracking.log_epoch(runs[0], {"epoch": "1", "minutes": "0.1", "train_loss": "0.9"})
    tracking.finish_fold_run(runs[0], fold_record(0))
    found = fold_runs()
    first, second = found["unet fold 0"], found["unet fold 1"]
    assert (first.info.status, second.info.status) == ("FINISHED", "RUNNING")
    assert {run.data.tags[PARENT] for run in found.values()} == {parent}
    assert first.data.metrics["closing_validation/dice"] == 0.5
    assert first.data.params["plan.patch_size"] == "[16, 16, 16]"
    for run_id in (runs[1], parent):
        tracking.finish_training_run(run_id, "FINISHED")


def test_the_run_of_a_killed_fold_is_closed(tracked: Path) -> None:
    made.write_project()
    parent = tracking.start_training_run("unet", {}, PROVENANCE)
    run_id = tracking.start_fold_run(parent, "unet", 0, {}, PROVENANCE)
    tracking.finish_training_run(parent, "KILLED")
    assert run_id is not None
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    client().set_tag(run_id, "segtrail.pid", gone.stdout.strip())
    tracking.reconcile()
    assert fold_runs()["unet fold 0"].info.status == "KILLED"


def test_folds_come_from_files_and_return_after_the_store_is_gone(
    tracked: Path, store_template: Path
) -> None:
    write_folds()
    parent = tracking.record_training("unet")
    assert parent is not None
    check_folds(parent)
    made.evaluate("unet", (0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
    archive_model("phantom", present_files("unet"), {})
    delete_store(tracked, store_template)
    for _ in range(2):
        tracking.reconcile()
        (again,) = [run.data.tags[PARENT] for run in fold_runs().values() if run.info.run_name.endswith("0")]
        assert again != parent
        check_folds(again)


def test_folds_follow_their_model_to_another_run(tracked: Path) -> None:
    """The parent alone is lost for good: its children are moved, not made anew."""
    made.write_project()
    lost = tracking.start_training_run("unet", {}, PROVENANCE)
    first, second = (
        tracking.start_fold_run(lost, "unet", k, {"seed": 1 + k, "augmentation": {"flip": 0.5}}, PROVENANCE)
        for k in (0, 1)
    )
    tracking.finish_training_run(lost, "FINISHED")
    write_folds((str(first), str(second)))
    parent = tracking.record_training("unet")
    assert parent not in (None, lost)
    assert {run.info.run_id for run in fold_runs().values()} == {first, second}
    check_folds(str(parent))


def test_without_mlflow_a_fold_has_no_run(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert tracking.start_fold_run(None, "unet", 0, {}, PROVENANCE) is None
    tracking.finish_fold_run(None, fold_record(0))
