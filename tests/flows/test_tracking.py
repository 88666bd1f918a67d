"""Runs in a real MLflow store, compared with the files they are a view of."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import model_project as made
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow_store import delete_store, forget_stores

from flows import tracking, tracking_store
from flows.tracking_content import flatten_params
from pipeline.plan import Plan

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


def all_runs() -> list[Run]:
    """Every run, also deleted ones."""
    experiments = [e.experiment_id for e in client().search_experiments(view_type=ViewType.ALL)]
    return list(client().search_runs(experiments, run_view_type=ViewType.ALL))


def artifacts(run_id: str, folder: str | None = None) -> set[str]:
    """Paths of all artifacts of a run."""
    found: set[str] = set()
    for item in client().list_artifacts(run_id, folder):
        found |= artifacts(run_id, item.path) if item.is_dir else {item.path}
    return found


def curve(run_id: str, key: str) -> list[tuple[int, float]]:
    """Points of a metric, by step."""
    return sorted((point.step, point.value) for point in client().get_metric_history(run_id, key))


@pytest.fixture
def evaluated(tracked: Path) -> str:
    """A project with one model, recorded; gives the run's id."""
    made.write_project()
    made.train("unet", "weights")
    made.evaluate("unet", DICE)
    run_id = tracking.record_evaluation("unet")
    assert run_id is not None
    return run_id


def test_a_training_as_it_goes(tracked: Path) -> None:
    made.write_project()
    run_id = tracking.start_training_run("unet", {"seed": 1, "augmentation": {"flip": 0.5}}, PROVENANCE)
    assert run_id is not None
    tracking.log_epoch(run_id, {"epoch": "1", "minutes": "0.1", "train_loss": "0.9", "validation_dice": ""})
    tracking.log_epoch(
        run_id, {"epoch": "2", "minutes": "0.2", "train_loss": "0.8", "validation_dice": "0.5"}
    )
    tracking.log_epoch(
        run_id, {"epoch": "2", "minutes": "0.2", "train_loss": "0.7", "validation_dice": "0.5"}
    )
    assert client().get_run(run_id).info.status == "RUNNING"
    tracking.finish_training_run(run_id, "FINISHED")
    run = client().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("unet-20")
    assert curve(run_id, "train/loss") == [(1, 0.9), (2, 0.8)]
    assert curve(run_id, "validation/dice") == [(2, 0.5)]
    assert run.data.params["augmentation.flip"] == "0.5"
    assert run.data.params["plan.patch_size"] == "[16, 16, 16]"
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("phantom", PROVENANCE["data_digest"])
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]
    assert client().get_experiment(run.info.experiment_id).name == "phantom"


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        (
            {"network": "unet", "configuration": "2d"},
            {"plan.dimensions": "2", "plan.patch_size": "[16, 24, 1]"},
        ),
        (
            {"network": "unet", "configuration": "cascade"},
            {"plan.dimensions": "3", "plan.spacing_mm": "[2.0, 2.0, 3.0]"},
        ),
        ({"network": "maskrcnn"}, {"plan.dimensions": "3"}),
    ],
)
def test_a_live_run_has_the_plan_of_its_bundle(
    tracked: Path, section: dict[str, str], wanted: dict[str, str]
) -> None:
    made.write_project()
    alternative = {
        "spacing_mm": [4.0, 4.0, 6.0], "shape": [32, 48, 20], "batch_size": 9, "strides": [[1, 1, 1], [2, 2, 1]],
        "kernels": [[3, 3, 1], [3, 3, 1]], "features": [4, 8],
    }  # fmt: skip
    planned = made.PLAN | {
        "alternatives": {
            "2d": alternative | {"dimensions": 2, "patch_size": [16, 24, 1]},
            "lowres": alternative | {"dimensions": 3, "patch_size": [16, 16, 16]},
        }
    }
    made.write_json(planned, "data/plan/plan.json")
    parent = tracking.start_training_run("mine", section, PROVENANCE)
    fold = tracking.start_fold_run(parent, "mine", 0, section, PROVENANCE)
    plan = Plan.model_validate(planned)
    configured = plan.configured(*section.values()) if "configuration" in section else plan
    bundle = {"params": section, "plan": configured.model_dump(mode="json")}
    for run_id in (parent, fold):
        assert run_id is not None
        logged = client().get_run(run_id).data.params
        assert logged == flatten_params(bundle["params"], bundle["plan"])
        assert logged.items() >= wanted.items()
    tracking.finish_training_run(parent, "FINISHED")


def test_system_metrics(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "SAMPLING_S", 0.1)
    made.write_project()
    run_id = tracking.start_training_run("unet", {}, PROVENANCE)
    time.sleep(1.0)
    tracking.finish_training_run(run_id, "FINISHED")
    assert run_id is not None
    assert "system/cpu_utilization_percentage" in client().get_run(run_id).data.metrics


def test_a_resumed_training_goes_on_in_its_run(tracked: Path) -> None:
    made.write_project()
    run_id = tracking.start_training_run("unet", {}, PROVENANCE)
    assert run_id is not None
    rows = [{"epoch": str(e), "minutes": "1", "train_loss": str(1 / e)} for e in (1, 2, 3, 4)]
    for row in rows[:2]:
        tracking.log_epoch(run_id, row)
    tracking._LIVE.clear()  # the process is killed
    client().set_terminated(run_id, "KILLED")
    for row in rows:  # the next one reads the history from its beginning
        tracking.log_epoch(run_id, row)
    assert client().get_run(run_id).info.status == "RUNNING"
    assert curve(run_id, "train/loss") == [(e, 1 / e) for e in (1, 2, 3, 4)]
    tracking.finish_training_run(run_id, "FINISHED")


def test_a_run_holds_what_the_files_hold(evaluated: str) -> None:
    run = client().get_run(evaluated)
    record = json.loads(Path("data/metrics/unet/metrics.json").read_text())
    defined = {name: value for name, value in record["metrics"].items() if value is not None}
    logged = {name: value for name, value in run.data.metrics.items() if name.startswith("test/")}
    assert logged == pytest.approx(defined, abs=0)  # the same numbers, and no others
    assert curve(evaluated, "train/loss") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert curve(evaluated, "validation/nodule/dice") == [(2, 0.6)]
    times = [point.timestamp for point in client().get_metric_history(evaluated, "train/loss")]
    assert [t - run.info.start_time for t in sorted(times)] == [30_000, 60_000, 90_000]
    assert run.data.params["learning_rate"] == "0.01"
    assert artifacts(evaluated) == {
        "model/bundle.json", "model/history.csv", "model/run.json", "data/plan.json", "data/splits.csv",
        "data/cases.csv", "data/dataset.json", "metrics/metrics.json", "tables/cases.csv", "tables/cases.json",
        "overlays/best_case_00.png", "plots/dice.png",
    }  # fmt: skip
    table = client().load_table(run.info.experiment_id, "tables/cases.json", [evaluated])
    assert list(table["dice"]) == pytest.approx([value for value in DICE for _ in range(2)])
    assert "| test/dice | 0.7500 | 0.7400 to 0.7600 | 6 |" in run.data.tags["mlflow.note.content"]
    (data,) = run.inputs.dataset_inputs
    assert json.loads(data.dataset.profile) == {"cases": {"train": 6, "validation": 0, "test": 6}}


def test_a_training_that_ended_while_mlflow_was_away(tracked: Path) -> None:
    made.write_project()
    run_id = tracking.start_training_run("unet", {}, PROVENANCE)
    assert run_id is not None
    tracking._LIVE.pop(run_id).monitor.finish()  # type: ignore[union-attr, no-untyped-call]
    made.train("unet", "weights", run_id=run_id, minute=7)
    for status in ("RUNNING", "KILLED"):
        client().update_run(run_id, status=status)
        assert tracking.record_training("unet") == run_id
        info = client().get_run(run_id).info
        assert info.status == "FINISHED"
        assert info.end_time == datetime(2026, 11, 21, 12, 7, tzinfo=UTC).timestamp() * 1000


def test_repeated_epochs_get_the_values_of_the_resumed_training(tracked: Path) -> None:
    made.write_project()
    run_id = tracking.start_training_run("unet", {}, PROVENANCE)
    assert run_id is not None
    for epoch, loss in ((1, "1.0"), (2, "0.75")):  # killed; epoch 2 is trained again, with another loss
        tracking.log_epoch(run_id, {"epoch": epoch, "train_loss": loss})
    tracking.finish_training_run(run_id, "KILLED")
    made.train("unet", "weights", run_id=run_id)
    tracking.record_training("unet")
    points = client().get_metric_history(run_id, "train/loss")
    assert sorted((p.step, p.value) for p in points) == [
        (1, 1.0),
        (2, 0.5),
        (2, 0.75),
        (3, pytest.approx(1 / 3)),
    ]
    assert max((p.timestamp, p.value) for p in points if p.step == 2)[1] == 0.5


def test_recording_again_writes_nothing(evaluated: str) -> None:
    def state() -> tuple[Any, ...]:
        run = client().get_run(evaluated)
        folder = Path(run.info.artifact_uri)
        times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
        return run.data.tags, len(client().get_metric_history(evaluated, "test/dice")), times

    before = state()
    assert tracking.record_training("unet") == evaluated
    assert tracking.record_evaluation("unet") == evaluated
    assert state() == before
    assert len(all_runs()) == 1


def test_only_what_changed_is_written_again(evaluated: str) -> None:
    folder = Path(client().get_run(evaluated).info.artifact_uri)
    plot_before = (folder / "plots" / "dice.png").stat().st_mtime_ns
    made.evaluate("unet", (0.1,) * 6)
    overlays = Path("data/metrics/unet/overlays")
    (overlays / "best_case_00.png").rename(overlays / "best_case_03.png")
    assert tracking.record_evaluation("unet") == evaluated
    assert client().get_run(evaluated).data.metrics["test/dice"] == pytest.approx(0.1)
    table = client().load_table(
        client().get_run(evaluated).info.experiment_id, "tables/cases.json", [evaluated]
    )
    assert list(table["dice"]) == [0.1] * 12  # replaced, not appended
    assert {path.name for path in (folder / "overlays").iterdir()} == {"best_case_03.png"}
    assert (folder / "plots" / "dice.png").stat().st_mtime_ns == plot_before
    assert len(client().get_metric_history(evaluated, "train/loss")) == 3


def test_a_deleted_run_comes_back(evaluated: str) -> None:
    client().delete_run(evaluated)
    assert tracking.record_evaluation("unet") == evaluated
    assert client().get_run(evaluated).info.lifecycle_stage == "active"
    experiment = client().get_run(evaluated).info.experiment_id
    client().delete_experiment(experiment)
    assert tracking.record_evaluation("unet") == evaluated
    assert client().get_experiment(experiment).lifecycle_stage == "active"


def test_a_lost_run_is_made_anew_once(tracked: Path, store_template: Path) -> None:
    made.write_project()
    run_id = tracking.start_training_run("unet", {"seed": 1}, PROVENANCE)
    tracking.finish_training_run(run_id, "FINISHED")
    made.train("unet", "weights", run_id=run_id or "")
    made.evaluate("unet", DICE)
    assert tracking.record_evaluation("unet") == run_id
    assert len(client().get_run(run_id).inputs.dataset_inputs) == 1  # logged live, then synced
    delete_store(tracked, store_template)
    new = tracking.record_evaluation("unet")
    assert new not in (None, run_id)
    assert tracking.record_training("unet") == new
    (run,) = all_runs()
    assert run.data.tags["recovered_from"] == run_id
    assert run.info.run_name == "unet-20261121-1158"
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 120_000
    assert run.data.metrics["test/dice"] == pytest.approx(0.75)
    assert len(curve(run.info.run_id, "train/loss")) == 3
    assert "overlays/best_case_00.png" in artifacts(run.info.run_id)


def test_lost_artifacts_come_back(evaluated: str, tracked: Path) -> None:
    before = artifacts(evaluated)
    shutil.rmtree(tracked / ".segtrail" / "mlartifacts")
    assert tracking.record_evaluation("unet") == evaluated
    assert artifacts(evaluated) == before
    assert len(client().get_metric_history(evaluated, "test/dice")) == 2  # logged again with its file


def test_a_moved_project_keeps_its_store(
    evaluated: str, tracked: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    before = artifacts(evaluated)
    forget_stores()
    moved = tmp_path_factory.mktemp("elsewhere") / "it's moved"
    shutil.move(tracked, moved)
    monkeypatch.chdir(moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved}/.segtrail/mlflow.db")
    assert tracking.record_evaluation("unet") == evaluated
    assert artifacts(evaluated) == before
    assert client().get_run(evaluated).info.artifact_uri.startswith(str(moved))
    assert (
        client().get_experiment_by_name("phantom").artifact_location
        == f"{moved}/.segtrail/mlartifacts/phantom"
    )
    assert len(client().get_metric_history(evaluated, "test/dice")) == 1  # nothing had to be written
    root = moved / ".segtrail" / "mlartifacts"
    assert tracking_store.relocate_artifacts(moved / ".segtrail" / "mlflow.db", root) == 0


def test_curves_are_kept_as_tables_and_pictures(evaluated: str) -> None:
    folder = Path("data/metrics/unet")
    (folder / "precision_recall.csv").write_text("iou,class,recall,precision,score\n0.5,nodule,0.0,1.0,0.9\n")
    (folder / "froc.csv").write_text("class,false_positives_per_scan,sensitivity,score\n")  # no nodule
    shutil.copy(folder / "plots" / "dice.png", folder / "plots" / "froc.png")
    assert tracking.record_evaluation("unet") == evaluated
    assert {
        "plots/froc.png", "tables/precision_recall.csv", "tables/precision_recall.json", "tables/froc.csv",
    } <= artifacts(evaluated)  # fmt: skip
