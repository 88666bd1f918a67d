"""Trouble with MLflow stops nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import model_project as made
import pytest
from mlflow import MlflowClient
from mlflow_store import forget_stores

from flows import tracking

PROVENANCE = {
    "dataset": "phantom",
    "data_digest": made.DATA_DIGEST,
    "git_commit": "c0ffee",
    "git_dirty": False,
}
DICE = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def client() -> MlflowClient:
    """A client of the store of the test."""
    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


@pytest.mark.parametrize("trouble", ["garbage", "read_only_folder_is_a_file", "no_server"])
def test_trouble_with_mlflow_stops_nothing(
    trouble: str, project: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    made.write_project()
    made.train("unet", "weights")
    made.evaluate("unet", DICE)
    uri = f"sqlite:///{project}/state/mlflow.db"
    if trouble == "garbage":
        (project / "state").mkdir()
        (project / "state" / "mlflow.db").write_bytes(b"this is no database" * 500)
    elif trouble == "no_server":
        uri = "http://127.0.0.1:9"
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    else:
        (project / "state").write_text("a file where the folder should be")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking.start_training_run("unet", {}, PROVENANCE) is None
    tracking.log_epoch(None, {"epoch": 1})
    tracking.log_epoch("0" * 32, {"epoch": 1, "train_loss": 1.0})
    tracking.finish_training_run("0" * 32, "FINISHED")
    tracking.finish_training_run(None, "FINISHED")
    assert tracking.record_training("unet") is None
    assert tracking.record_evaluation("unet") is None
    assert any("the files are safe" in line for line in messages)


def test_a_store_that_fails_in_the_middle_is_asked_once(
    tracked: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:  # fmt: skip
    made.write_project()
    run_id = tracking.start_training_run("unet", {}, PROVENANCE)
    forget_stores()
    client().delete_run(run_id or "")  # MLflow refuses to log to a deleted run
    for epoch in (1, 2, 3):
        tracking.log_epoch(run_id, {"epoch": epoch, "train_loss": 1.0})
    assert sum("logging an epoch failed" in line for line in messages) == 1
    tracking.finish_training_run(run_id, "FINISHED")


@pytest.mark.slow
def test_training_is_not_imported() -> None:
    code = (
        "import sys, flows.tracking, flows.tracking_served, flows.register; "
        "sys.exit(', '.join({'torch', 'monai', 'pytorch_lightning', 'lightning'} & set(sys.modules)) or 0)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
