"""A training that goes on from the champion: the stage for real on tiny volumes, and what is decided when it cannot."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from cube_project import FOLDS, PROJECT, start_stage, write_cube_project
from mlflow import MlflowClient
from mlflow_store import forget_stores
from model_project import evaluate, train, write_csv, write_json
from registered import run_register
from safetensors.torch import load_file
from training_jobs import cube_plan

from flows import cli
from flows.archive import VERSIONS, archive_model
from flows.contest import choose
from flows.decision import decide, load_decision, save_decision
from flows.model_files import present_files
from flows.train import train_flow
from flows.train_jobs import build_folds, build_job
from flows.warm_start import choose_start
from pipeline.bundle import load_bundle, save_bundle
from pipeline.closing_validation import ClassScore, save_table
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.models.ensemble import join_weights
from pipeline.models.networks import build_network
from pipeline.models.semantic import semantic_arguments
from pipeline.plan import Plan
from pipeline.training_job import TrainingJob

DICE = (0.80, 0.81, 0.82, 0.83, 0.84, 0.85)
MODEL = Path("data/models/unet")
NONE: dict[str, Any] = {"packages": {}}


def make_champion(
    seed: int, minute: int, plan: Plan | None = None, folds: int = 1, parents: tuple[str, ...] = ()
) -> str:
    """Archives networks of random weights as if they had been trained on the cubes; gives their bundle's sha256."""
    train("unet", "", minute=minute)
    plan = plan or cube_plan()
    weights = []
    for fold in range(folds):
        torch.manual_seed(seed + fold)
        weights.append(build_network("unet", **semantic_arguments(plan)).state_dict())
    known = {"provenance": {"dataset": "phantom", **({"parents": list(parents)} if parents else {})}}
    sha256 = save_bundle(
        MODEL, weights[0] if folds == 1 else join_weights(weights), model="unet", network="unet", plan=plan,
        network_arguments=semantic_arguments(plan), params={"seed": seed}, members=folds,
        validation_metric="validation_dice", validation_score=0.5, **known,
    )  # fmt: skip
    rows = [ClassScore(case, fold, "cube", 0.5) for fold, cases in enumerate(FOLDS) for case in cases]
    save_table(rows, MODEL / "validation.csv")
    run = json.loads((MODEL / "run.json").read_text())
    write_json({**run, "bundle_sha256": sha256}, MODEL / "run.json")
    evaluate("unet", tuple(value + 0.02 * minute for value in DICE))
    present, params = [archive_model("phantom", present_files("unet"), {})], load_params().register_
    decision = decide(choose(load_decision("phantom"), present, params), params)
    assert decision["champion_after"] == sha256
    save_decision(decision)
    return sha256


def started(**provenance: Any) -> TrainingJob:
    """What the stage would train now."""
    return choose_start(build_job("unet", load_params().train.of("unet"), {**NONE, **provenance}), "phantom")


def check_scratch(job: TrainingJob, *reasons: str) -> None:
    assert (job.parent, job.provenance["parents"]) == (None, [])
    text = job.provenance["started_from"]
    assert text.startswith("scratch (")
    for reason in reasons:
        assert reason in text


def move_sides(**sides: str) -> None:
    every = dict.fromkeys((case for fold in FOLDS for case in fold), "train")
    every |= {"case_6": "validation", "case_7": "test", **sides}
    rows = [{"case_id": c, "patient_id": c, "split": side} for c, side in every.items()]
    write_csv(rows, ("case_id", "patient_id", "split"), "data/splits/splits.csv")


def run_of(run_id: str) -> Any:
    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(run_id).data


@pytest.mark.slow
def test_from_the_champion_to_run_registry_and_lineage(
    tracked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGTRAIL_DEVICES", "cpu")
    least = {"max_epochs": 1, "steps_per_epoch": 1, "validate_every_epochs": 1, "learning_rate": 1e-6}
    write_cube_project(start="champion", **least)
    grandparent = make_champion(1, 1)
    parent = make_champion(2, 2, parents=(grandparent,))
    before = load_file(MODEL / "model.safetensors")

    train_flow.fn("unet")

    after = load_file(MODEL / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        # AdamW: at most learning_rate x (1 + weight_decay x weight), and rounding.
        np.testing.assert_allclose(after[name], tensor, rtol=1e-6, atol=1.01e-6, err_msg=name)
    run = json.loads((MODEL / "run.json").read_text())
    bundle = load_bundle(MODEL).metadata
    text = f"the champion {parent[:12]} (unet)"
    assert (run["started_from"], run["parents"]) == (text, [parent])
    assert (bundle.provenance["started_from"], bundle.provenance["parents"]) == (text, [parent])
    shown = run_of(run["run_id"])
    assert (shown.tags["segtrail.started_from"], shown.tags["segtrail.parents"]) == (text, parent)
    assert shown.params["start"] == "champion"

    evaluate("unet", tuple(value + 0.1 for value in DICE))
    decision, numbers = run_register()
    assert decision["champion_after"] == run["bundle_sha256"]
    version = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_model_version(
        "phantom", numbers[run["bundle_sha256"]]
    )
    assert version.tags["segtrail.parents"] == parent
    assert cli.main(["lineage", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["started_from"], record["parents"]) == (text, [parent])
    assert [line["bundle_sha256"] for line in record["ancestors"]] == [parent, grandparent]
    assert cli.main(["lineage"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("started", "parents"))]
    assert lines == [
        f"started     from {text}",
        f"parents     {parent[:12]} (unet of 2026-11-21T12:02); "
        f"before that {grandparent[:12]} (unet of 2026-11-21T12:01)",
    ]


@pytest.mark.slow
def test_a_killed_training_keeps_its_parent_though_the_champion_has_moved(
    tracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGTRAIL_DEVICES", "cpu")
    write_cube_project(start="champion", max_epochs=4, checkpoint_every_steps=3)
    first = make_champion(1, 1)
    stage = start_stage()
    while not list(Path(".segtrail").glob("checkpoints/unet/*/resume.safetensors")):
        assert stage.poll() is None, stage.communicate()[0]
        time.sleep(0.002)
    workers = psutil.Process(stage.pid).children(recursive=True)
    stage.send_signal(signal.SIGKILL)
    stage.communicate()
    psutil.wait_procs(workers, timeout=10)
    forget_stores()
    second = make_champion(2, 2)

    train_flow.fn("unet")

    run = json.loads((MODEL / "run.json").read_text())
    assert (run["parents"], run["resumed"]) == ([first], 1)
    assert second != first


def test_a_change_of_the_champion_alone_is_no_change_for_dvc() -> None:
    deps = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]["train"]["deps"]
    assert not [path for path in deps if path.startswith("data/registry") or path == "flows/decision.py"]


def test_who_asks_for_nothing_gets_the_same_job_as_before(tracked: Path) -> None:
    write_cube_project()
    make_champion(1, 1)
    job = started(git_commit="abc")
    assert (job.parent, job.provenance) == (None, {**NONE, "git_commit": "abc"})
    assert not job.scratch.exists()


def test_without_a_champion_it_starts_from_scratch_and_says_so(tracked: Path, messages: list[str]) -> None:
    write_cube_project(start="champion")
    check_scratch(started(), "(no champion yet)")
    assert messages == ["train unet: started from scratch (no champion yet)"]


def test_a_clone_without_its_registry_is_told(tracked: Path) -> None:
    write_cube_project(start="champion")
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    lock["stages"]["register"] = {"cmd": "python -m flows.register"}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    check_scratch(started(), "dvc checkout data/registry")


def test_the_parent_is_chosen_once_a_training(tracked: Path) -> None:
    """The second champion does not even fit: it is not looked at."""
    write_cube_project(start="champion")
    first = make_champion(1, 1)
    assert started().provenance["parents"] == [first]
    make_champion(2, 2, plan=cube_plan().model_copy(update={"features": (8, 16, 32)}))
    job = started()
    assert job.provenance["parents"] == [first]
    assert job.parent is not None
    assert load_bundle(job.parent).sha256 == first


def test_a_champion_that_does_not_fit_is_no_error(tracked: Path, messages: list[str]) -> None:
    write_cube_project(start="champion")
    champion = make_champion(1, 1, plan=cube_plan().model_copy(update={"features": (8, 16, 32)}))
    check_scratch(started(), champion[:12], "features: 8, 16, 32 there, 4, 8, 16 here")
    assert any(line.startswith("train unet: start: champion is asked for, but") for line in messages)


def test_another_voxel_size_is_told_and_no_obstacle(tracked: Path) -> None:
    write_cube_project(start="champion")
    champion = make_champion(1, 1, plan=cube_plan().model_copy(update={"spacing_mm": (1.0, 1.0, 1.1)}))
    job = started()
    assert job.provenance["parents"] == [champion]
    assert job.provenance["started_from"].endswith(
        "; other than there: spacing_mm: 1, 1, 1.1 there, 1, 1, 1 here"
    )


def test_a_patient_who_has_changed_sides_stops_the_warm_start(tracked: Path) -> None:
    write_cube_project(start="champion")
    make_champion(1, 1)
    move_sides(case_0="validation")
    check_scratch(started(), "1 patient(s) of the validation cases")
    move_sides(case_0="test", case_6="test", case_1="validation")
    check_scratch(started(), "2 patient(s) of the test cases", "1 patient(s) of the validation cases")


def test_a_new_patient_does_not(tracked: Path) -> None:
    write_cube_project(start="champion")
    champion = make_champion(1, 1)
    move_sides(new_1="validation", new_2="train", new_3="test")
    assert started().provenance["parents"] == [champion]


def test_weights_whose_own_origin_is_lost_are_not_gone_on_from(tracked: Path) -> None:
    write_cube_project(start="champion")
    make_champion(1, 1, parents=("d" * 64,))
    check_scratch(started(), "dddddddddddd, which it started from, is not in the archive")


def test_each_fold_goes_on_from_the_network_of_its_fold(tracked: Path) -> None:
    write_cube_project(start="champion", folds=2)
    champion = make_champion(1, 1, folds=2)
    job = started()
    assert job.provenance["parents"] == [champion]
    folds = build_folds(job)
    assert [(fold.fold, fold.parent) for fold in folds] == [(0, job.parent), (1, job.parent)]
    assert [fold.provenance for fold in folds] == [job.provenance] * 2


def test_folds_that_were_dealt_otherwise_start_from_scratch(tracked: Path) -> None:
    """Both were validated by the other fold: each network would be judged by patients it has learned from."""
    write_cube_project(start="champion", folds=2)
    make_champion(1, 1, folds=2)
    path = next(VERSIONS.glob("phantom/*/model/validation.csv"))
    rows = [ClassScore(case, 1 - fold, "cube", 0.5) for fold, cases in enumerate(FOLDS) for case in cases]
    save_table(rows, path)
    check_scratch(started(), "7 patient(s) of the validation cases")


def test_folds_do_not_go_on_from_one_network(tracked: Path) -> None:
    write_cube_project(start="champion", folds=2)
    make_champion(1, 1)
    check_scratch(started(), "networks: 1 there, 2 here")


def test_a_damaged_champion_is_an_error_before_anything_is_trained(tracked: Path) -> None:
    write_cube_project(start="champion")
    make_champion(1, 1)
    weights = next(VERSIONS.glob("phantom/*/model/model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(SegtrailError, match="sha256"):
        started()
    assert not list(Path(".segtrail/checkpoints").rglob("start.json"))
