"""Training as a process: it learns, it obeys its budget, and a killed one ends where an undisturbed one does."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from safetensors.numpy import load_file

from pipeline.bundle import load_bundle
from pipeline.config import TrainParams
from pipeline.errors import SegtrailError
from pipeline.plan import ChannelNormalization, Plan
from pipeline.store import StoredCase, save_case
from pipeline.topology import pooling
from pipeline.train_worker import TrainingJob, class_weights, hold_lock, run_job


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Eight cases with one bright cube on noise each."""
    folder = tmp_path / "store"
    folder.mkdir()
    for index in range(8):
        generator = np.random.default_rng(index)
        label = np.zeros((20, 18, 16), np.uint8)
        x, y, z = generator.integers(2, 8, 3)
        label[x : x + 7, y : y + 7, z : z + 7] = 1
        image = (generator.normal(0, 0.3, label.shape) + 2 * label)[None].astype(np.float16)
        foreground = np.insert(np.argwhere(label == 1), 0, 1, axis=1).astype(np.int16)
        save_case(folder, f"case_{index}", StoredCase(image, label, foreground))
    return folder


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    """A tiny plan: 16 voxels cube, 4 feature maps."""
    patch = (16, 16, 16)
    strides, kernels = pooling(patch, (1.0, 1.0, 1.0))
    plan = Plan(
        dataset="cubes",
        channels=("MRI",),
        label_names=("background", "cube"),
        label_values=(0, 1),
        dimensions=3,
        spacing_mm=(1.0, 1.0, 1.0),
        patch_size=patch,
        batch_size=2,
        strides=strides,
        kernels=kernels,
        features=tuple(4 * 2**i for i in range(len(strides))),
        normalization=(ChannelNormalization(scheme="zscore"),),
        reasons={},
        n_cases=8,
    )
    path = tmp_path / "plan.json"
    plan.save(path)
    return path


def make_job(tmp_path: Path, store: Path, plan_file: Path, name: str, **changes: Any) -> TrainingJob:
    shipped = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["train"]["unet"]
    small = {
        "max_epochs": 6,
        "max_minutes": 60.0,
        "steps_per_epoch": 10,
        "checkpoint_every_steps": 3,
        "validate_every_epochs": 2,
    }
    devices = changes.pop("devices", "cpu")
    return TrainingJob(
        model="unet",
        params=TrainParams(**{**shipped, **small, **changes}),
        plan=plan_file,
        store=store,
        training_cases=tuple(f"case_{i}" for i in range(6)),
        validation_cases=("case_6", "case_7"),
        scratch=tmp_path / name,
        output=tmp_path / name / "finished",
        provenance={"git_commit": "abc"},
        devices=devices,
    )


def start(job: TrainingJob) -> subprocess.Popen[str]:
    job.scratch.mkdir(exist_ok=True)
    job_file = job.scratch / "job.json"
    job_file.write_text(job.model_dump_json(), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.train_worker", str(job_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def test_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, store: Path, plan_file: Path
) -> None:
    undisturbed = make_job(tmp_path, store, plan_file, "undisturbed")
    finish(start(undisturbed))

    killed = make_job(tmp_path, store, plan_file, "killed")
    process = start(killed)
    checkpoint = killed.scratch / "resume.safetensors"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not killed.output.exists()
    output = finish(start(killed))

    assert "continuing the interrupted training" in output
    first, second = (load_file(job.output / "model.safetensors") for job in (undisturbed, killed))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert json.loads((killed.output / "result.json").read_text())["resumed"] == 1
    rows = list(csv.DictReader((killed.output / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert [row["step"] for row in rows] == ["10", "20", "30", "40", "50", "60"]


def test_a_cube_is_learned_and_the_schedule_ends_near_zero(
    tmp_path: Path, store: Path, plan_file: Path
) -> None:
    job = make_job(tmp_path, store, plan_file, "cube", max_epochs=12, patience=0)
    run_job(job)
    bundle = load_bundle(job.output)
    assert bundle.metadata.validation_dice is not None
    assert bundle.metadata.validation_dice > 0.9
    rates = [float(row["learning_rate"]) for row in csv.DictReader((job.output / "history.csv").open())]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.02 * job.params.learning_rate


def test_the_budget_of_minutes_ends_the_training(tmp_path: Path, store: Path, plan_file: Path) -> None:
    job = make_job(tmp_path, store, plan_file, "minutes", max_epochs=100_000, max_minutes=0.05)
    run_job(job)
    rows = list(csv.DictReader((job.output / "history.csv").open()))
    assert 1 <= len(rows) < 1000
    assert float(rows[-1]["validation_dice"]) >= 0
    assert float(rows[-1]["minutes"]) >= 0.05
    assert all(float(row["minutes"]) < 0.05 for row in rows[:-1])


@pytest.mark.slow
def test_two_processes_train_together(tmp_path: Path, store: Path, plan_file: Path) -> None:
    job = make_job(tmp_path, store, plan_file, "ddp", devices="cpu:2", max_epochs=2)
    output = finish(start(job))
    assert output.count("epoch 1:") == 1
    assert load_bundle(job.output).metadata.validation_dice is not None
    assert json.loads((job.output / "result.json").read_text())["devices"] == "2 x cpu"


def test_other_choices_run(tmp_path: Path, store: Path, plan_file: Path) -> None:
    job = make_job(
        tmp_path,
        store,
        plan_file,
        "choices",
        schedule="cosine",
        optimizer="adamw",
        precision="bf16-mixed",
        class_weights="balanced",
        dice_weight=0.0,
        deep_supervision=False,
        max_epochs=1,
    )
    run_job(job)
    assert load_bundle(job.output).metadata.params["optimizer"] == "adamw"


def test_early_stop_by_patience(tmp_path: Path, store: Path, plan_file: Path) -> None:
    job = make_job(
        tmp_path,
        store,
        plan_file,
        "patience",
        max_epochs=50,
        validate_every_epochs=1,
        patience=2,
        learning_rate=1e-6,
    )
    run_job(job)
    rows = list(csv.DictReader((job.output / "history.csv").open()))
    dice = [float(row["validation_dice"]) for row in rows]
    assert len(rows) < 50
    assert max(dice[-2:]) <= max(dice[:-2])


def test_balanced_class_weights_by_hand(tmp_path: Path, store: Path, plan_file: Path) -> None:
    job = make_job(tmp_path, store, plan_file, "weights", class_weights="balanced")
    weights = class_weights(job)
    assert weights is not None
    # 7^3 of 20 * 18 * 16 voxels are foreground; the inverse root of the shares, scaled to mean 1.
    ratio = ((20 * 18 * 16 - 343) / 343) ** 0.5
    assert weights[1] / weights[0] == pytest.approx(ratio)
    assert sum(weights) / 2 == pytest.approx(1.0)


def test_wrong_number_of_class_weights(tmp_path: Path, store: Path, plan_file: Path) -> None:
    with pytest.raises(SegtrailError, match="3 class weights for 2 classes"):
        class_weights(make_job(tmp_path, store, plan_file, "weights", class_weights=[1.0, 1.0, 1.0]))


def test_the_worker_ends_with_its_parent(tmp_path: Path, store: Path, plan_file: Path) -> None:
    job = make_job(tmp_path, store, plan_file, "orphan", max_epochs=100_000)
    job.scratch.mkdir()
    job_file = job.scratch / "job.json"
    job_file.write_text(job.model_dump_json(), encoding="utf-8")
    starter = (
        "import subprocess, sys; "
        "p = subprocess.Popen([sys.executable, '-m', 'pipeline.train_worker', sys.argv[1]]); "
        "print(p.pid, flush=True); p.wait()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", starter, str(job_file)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    while not (job.scratch / "lock").exists():
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_second_training_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    stream = hold_lock(tmp_path / "scratch")
    with pytest.raises(SegtrailError, match="another process"):
        hold_lock(tmp_path / "scratch", patience_s=0)
    stream.close()
    hold_lock(tmp_path / "scratch").close()


def test_a_side_without_labelled_cases_is_refused(tmp_path: Path, store: Path, plan_file: Path) -> None:
    job = make_job(tmp_path, store, plan_file, "empty").model_copy(update={"validation_cases": ()})
    with pytest.raises(SegtrailError, match="no labelled case on the side validation"):
        run_job(job)


def test_patches_that_cannot_be_shared_are_refused(tmp_path: Path, store: Path, plan_file: Path) -> None:
    with pytest.raises(SegtrailError, match="2 patches a step cannot be shared evenly by 3"):
        run_job(make_job(tmp_path, store, plan_file, "three", devices="cpu:3"))


def test_validation_cases_without_foreground_keep_the_last_weights(
    tmp_path: Path, store: Path, plan_file: Path
) -> None:
    for name in ("case_6", "case_7"):
        empty = np.zeros((20, 18, 16), np.uint8)
        image = np.full((1, 20, 18, 16), -1, np.float16)
        save_case(store, name, StoredCase(image, empty, np.zeros((0, 4), np.int16)))
    job = make_job(tmp_path, store, plan_file, "nothing", max_epochs=40, dice_weight=0.0)
    run_job(job)
    result = json.loads((job.output / "result.json").read_text())
    assert result["best_validation_dice"] in (None, 0.0)
    if result["best_validation_dice"] is None:
        assert result["best_epoch"] == 40
