"""The stage `train` with folds: real processes on tiny volumes, and a real MLflow store."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import time
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import yaml
from cube_project import FOLDS, SALT, start_stage, write_cube_project
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_store import delete_store, forget_stores
from model_project import evaluate, write_json
from safetensors.numpy import load_file

from flows import tracking, train
from flows.archive import archive_model
from flows.model_files import present_files
from flows.train import train_flow
from flows.train_jobs import build_folds, build_job, check_planned
from pipeline.bundle import load_bundle
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.store import load_case

MODEL = Path("data/models/unet")


def scratch() -> Path:
    (folder,) = Path(".segtrail/checkpoints/unet").iterdir()
    return folder


def runs() -> dict[str, Run]:
    """All runs of the store, by name; of the model itself "unet"."""
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    names = [run.info.run_name if "fold" in run.info.run_name else "unet" for run in found]
    assert len(set(names)) == len(names), names
    return dict(zip(names, found, strict=True))


def curve(run: Run, key: str) -> dict[int, float]:
    """Points by step; of an epoch that was cut and repeated the latest, as MLflow shows it."""
    points = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_metric_history(run.info.run_id, key)
    return {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def dice_by_hand(reference: np.ndarray, predicted: np.ndarray) -> float:
    return float(2 * (reference * predicted).sum() / (reference.sum() + predicted.sum()))


def check_runs() -> None:
    """What MLflow shows of two folds, compared with the files."""
    found = runs()
    assert set(found) == {"unet", "unet fold 0", "unet fold 1"}
    parent = found["unet"]
    scores = json.loads((MODEL / "bundle.json").read_text())["validation_scores"]
    assert parent.data.metrics["closing_validation/dice"] == scores["dice"]
    table = rows_of(MODEL / "validation.csv")
    for fold in (0, 1):
        run = found[f"unet fold {fold}"]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.params["seed"] == str(1 + fold)
        assert run.data.params["plan.patch_size"] == "[16, 16, 16]"
        own = [float(row["dice"]) for row in table if row["fold"] == str(fold)]
        assert run.data.metrics["closing_validation/dice"] == pytest.approx(fmean(own))
        history = rows_of(MODEL / "folds" / str(fold) / "history.csv")
        assert curve(run, "train/loss") == {int(r["epoch"]): float(r["train_loss"]) for r in history}
    losses = [curve(found[f"unet fold {fold}"], "train/loss") for fold in (0, 1)]
    assert curve(parent, "train/loss") == pytest.approx(
        {e: fmean(c[e] for c in losses) for e in (1, 2, 3, 4)}
    )
    assert parent.info.status == "FINISHED"


@pytest.mark.slow
def test_two_folds_from_store_to_mlflow_and_back(
    tracked: Path, store_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGTRAIL_DEVICES", "cpu")
    write_cube_project(folds=2, max_epochs=4)
    train_flow.fn("unet")

    assert sorted(path.name for path in MODEL.iterdir()) == [
        "bundle.json", "folds", "history.csv", "model.safetensors", "run.json", "validation.csv",
    ]  # fmt: skip
    bundle = load_bundle(MODEL)
    assert bundle.metadata.members == 2
    image = torch.randn(1, 1, 16, 16, 16)
    members = [load_bundle(scratch() / f"fold_{fold}/finished").build(torch.device("cpu")) for fold in (0, 1)]
    with torch.inference_mode():
        mean = (members[0](image) + members[1](image)) / 2
        torch.testing.assert_close(bundle.build(torch.device("cpu"))(image), mean)
        assert not torch.allclose(members[0](image), members[1](image))

    table = rows_of(MODEL / "validation.csv")
    assert [(row["case_id"], row["fold"]) for row in table] == sorted(
        (case_id, str(fold)) for fold in (0, 1) for case_id in FOLDS[fold]
    )
    for row in table:  # out of fold, and scored as written
        folder = scratch() / f"fold_{row['fold']}/finished/predictions"
        predicted = load_file(folder / f"{row['case_id']}.safetensors")["label_map"]
        reference = np.array(load_case(Path("data/preprocessed"), row["case_id"]).label)
        assert float(row["dice"]) == pytest.approx(dice_by_hand(reference, predicted))
    assert bundle.metadata.validation_score == pytest.approx(fmean(float(row["dice"]) for row in table))
    check_runs()

    evaluate("unet", (0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
    archive_model("cubes", present_files("unet"), {})
    delete_store(tracked, store_template)
    for _ in range(2):
        tracking.reconcile()
        check_runs()


@pytest.mark.slow
def test_a_killed_stage_goes_on_in_the_fold_it_was_in(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGTRAIL_DEVICES", "cpu")
    write_cube_project(folds=2, max_epochs=4, checkpoint_every_steps=3)
    stage = start_stage()
    while not list(Path(".segtrail").glob("checkpoints/unet/*/fold_1/resume.safetensors")):
        assert stage.poll() is None, stage.communicate()[0]
        time.sleep(0.002)
    workers = psutil.Process(stage.pid).children(recursive=True)
    stage.send_signal(signal.SIGKILL)
    output, _ = stage.communicate()
    psutil.wait_procs(workers, timeout=10)
    assert "fold 1 of 0 to 1" in output
    first = scratch() / "fold_0/finished/model.safetensors"
    before = first.stat().st_mtime_ns
    assert not (scratch() / "fold_1/finished/result.json").exists()
    dead = runs()["unet fold 1"]
    assert dead.info.status == "RUNNING"
    forget_stores()

    train_flow.fn("unet")

    assert first.stat().st_mtime_ns == before
    resumed = [json.loads((MODEL / f"folds/{fold}/result.json").read_text())["resumed"] for fold in (0, 1)]
    assert resumed == [0, 1]
    assert json.loads((MODEL / "run.json").read_text())["resumed"] == 1
    check_runs()
    assert runs()["unet fold 1"].info.run_id == dead.info.run_id


def test_a_fold_says_how_long_the_folds_left_train(
    tracked: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of three folds of 10 minutes are left. What they take is more: the closing validation has no budget."""
    write_cube_project(folds=3, max_minutes=10.0)
    fold = build_folds(build_job("unet", load_params().train.of("unet"), {"packages": {}}))[1]
    write_json({}, fold.output / "result.json")  # it has finished: nothing is trained here
    names = ("start_fold_run", "finish_fold_run")
    monkeypatch.setattr(train, "tracking", SimpleNamespace(**dict.fromkeys(names, lambda *_: None)))
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    caplog.set_level(logging.INFO, "segtrail")
    train._train_fold(fold, None)
    assert "fold 1 of 0 to 2" in caplog.text
    assert "all that is left trains at most 20 min 00 s" in caplog.text


def test_copies_of_one_image_stand_in_one_fold(tracked: Path) -> None:
    """case_1 belongs to fold 1; it has a copy of an image of case_0, who belongs to fold 0."""
    write_cube_project(folds=2)
    params, provenance = load_params().train.of("unet"), {"packages": {}}
    apart = build_folds(build_job("unet", params, provenance))
    assert tuple(fold.validation_cases for fold in apart) == FOLDS
    record = {"salt": SALT, "linked": {"case_0": "case_0", "case_1": "case_0"}}
    write_json(record, "data/splits/split.json")
    linked = build_folds(build_job("unet", params, provenance))
    assert linked[0].validation_cases == ("case_0", "case_1", "case_3", "case_5")
    assert linked[1].validation_cases == ("case_2", "case_4", "case_6")
    assert linked[0].scratch != apart[0].scratch


@pytest.mark.parametrize(("told", "wanted"), [(None, None), ("", None), ("0", 0), ("3", 3)])
def test_loader_processes_of_the_machine(
    tracked: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, wanted: int | None
) -> None:
    write_cube_project()
    monkeypatch.delenv("SEGTRAIL_LOADERS", raising=False)
    if told is not None:
        monkeypatch.setenv("SEGTRAIL_LOADERS", told)
    assert build_job("unet", load_params().train.of("unet"), {"packages": {}}).workers == wanted


def name_models(*models: str) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump({**params, "models": list(models)}))


def test_models_that_the_plan_has_nothing_for_stop_the_first_training(tracked: Path) -> None:
    """The plan of the cubes has no other grid, no residual encoder, and nothing for detection."""
    write_cube_project()
    name_models("unet", "unet_cascade", "unet_2d", "maskrcnn")
    with pytest.raises(SegtrailError) as error:
        train_flow.fn("unet")
    lines = error.value.what.splitlines()
    assert lines[0] == "3 problems:"
    for line, name in zip(lines[1:3], ("unet_cascade", "unet_2d"), strict=True):
        assert f"train.{name}.configuration: the plan has no configuration" in line
        assert f"(fix: use one of: full; or take {name} out of models)" in line
    assert "no training case has an object" in lines[3]
    assert not Path(".segtrail/checkpoints").exists()
    assert runs() == {}


def test_a_section_that_no_model_names_needs_no_plan(tracked: Path) -> None:
    """All sections stand in the shipped file, those for other data too."""
    write_cube_project()
    params = load_params()
    check_planned(params.models, params.train)
    with pytest.raises(SegtrailError, match="no configuration cascade for the network unet") as error:
        check_planned(["unet", "unet_cascade"], params.train)
    assert error.value.fix == "use one of: full; or take unet_cascade out of models"


@pytest.mark.slow
def test_an_impossible_model_ends_the_stage_with_one_message(tracked: Path) -> None:
    write_cube_project()
    name_models("unet", "unet_cascade")
    stage = start_stage("unet_cascade")
    output, _ = stage.communicate(timeout=120)
    assert stage.returncode == 1
    assert output.count("error:") == 1
    assert "take unet_cascade out of models" in output
    assert "last checkpoint" not in output


def test_a_fold_without_cases_is_one_clear_error(tracked: Path) -> None:
    """Nine folds of seven patients. Draws are 0.35, 0.67, 0.54, 0.19, 0.64, 0.36, 0.87: five folds are filled."""
    write_cube_project(folds=9)
    with pytest.raises(SegtrailError) as error:
        train_flow.fn("unet")
    assert "no labelled case in fold" in error.value.what
    assert error.value.fix.startswith("set folds: 5, or add")
    assert error.value.where == "params.yaml: train.unet.folds"
    assert not Path(".segtrail/checkpoints").exists()
    assert runs() == {}
