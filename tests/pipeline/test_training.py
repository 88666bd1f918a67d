"""Training as a process: it learns, it obeys its budget, and a killed one ends where an undisturbed one does."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file
from training_jobs import cube_plan, finish, make_job, start

from pipeline.bundle import load_bundle
from pipeline.errors import SegtrailError
from pipeline.store import StoredCase, load_case, save_case
from pipeline.train_worker import TrainingJob, hold_lock, run_job

LOSSES = [f"train_loss_{name}" for name in ("objectness", "rpn_box", "class", "box", "mask")]


def history_of(job: TrainingJob) -> list[dict[str, str]]:
    return list(csv.DictReader((job.output / "history.csv").open()))


@pytest.mark.parametrize(
    ("model", "ema_decay"),
    [
        ("unet", 0.9),
        pytest.param("unet", 0.0, marks=pytest.mark.slow),
        pytest.param("maskrcnn", 0.0, marks=pytest.mark.slow),
    ],
)
def test_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, model: str, ema_decay: float
) -> None:
    undisturbed = make_job(tmp_path, "undisturbed", model, ema_decay=ema_decay)
    finish(start(undisturbed))

    killed = make_job(tmp_path, "killed", model, ema_decay=ema_decay)
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
    params, rows = killed.params, history_of(killed)
    epochs = range(1, params.max_epochs + 1)
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in epochs]
    assert [row["step"] for row in rows] == [str(epoch * params.steps_per_epoch) for epoch in epochs]
    # What was measured in the epoch that was cut is as if it had not been.
    for ours, theirs in zip(rows, history_of(undisturbed), strict=True):
        assert [ours[name] for name in ours if name.startswith("validation")] == [
            theirs[name] for name in theirs if name.startswith("validation")
        ]


def test_a_cube_is_learned_and_the_schedule_ends_near_zero(tmp_path: Path) -> None:
    job = make_job(tmp_path, "cube", max_epochs=12, patience=0)
    run_job(job)
    metadata = load_bundle(job.output).metadata
    assert metadata.validation_metric == "validation_dice"
    assert metadata.validation_score is not None
    assert metadata.validation_score > 0.9
    result = json.loads((job.output / "result.json").read_text())
    assert result["validation_metric"] == "validation_dice"
    assert 0.9 < result["best_validation_score"] < metadata.validation_score  # more windows, mirrored views
    assert result["validation_score"] == metadata.validation_score == metadata.validation_scores["dice"]
    rates = [float(row["learning_rate"]) for row in history_of(job)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.02 * job.params.learning_rate


def test_mask_rcnn_trains_from_store_to_bundle(tmp_path: Path) -> None:
    job = make_job(tmp_path, "rectangles", "maskrcnn", max_epochs=3)
    run_job(job)
    first, second, third = history_of(job)
    for row in (first, second, third):
        losses = [float(row[name]) for name in LOSSES]
        assert min(losses) > 0
        assert float(row["train_loss"]) == pytest.approx(sum(losses), rel=1e-4)
    assert float(third["train_loss"]) < 0.7 * float(first["train_loss"])
    assert float(third["train_loss_objectness"]) < float(first["train_loss_objectness"])
    # Validated every second epoch, and at the end.
    assert [row["validation_mask_map_10_50"] for row in (first,)] == [""]
    assert all(0 <= float(row["validation_mask_map_10_50"]) <= 1 for row in (second, third))
    assert all(0 <= float(row["validation_mask_map_50"]) <= 1 for row in (second, third))
    metadata = load_bundle(job.output).metadata
    assert (metadata.model, metadata.network) == ("maskrcnn", "maskrcnn")
    assert metadata.validation_metric == "validation_mask_map_10_50"
    best = max(float(row["validation_mask_map_10_50"]) for row in (second, third))
    assert metadata.validation_score == pytest.approx(best, abs=1e-6)


@pytest.mark.slow
def test_mask_rcnn_finds_the_rectangles(tmp_path: Path) -> None:
    job = make_job(
        tmp_path, "rectangles", "maskrcnn", max_epochs=3, steps_per_epoch=20, validate_every_epochs=3
    )
    run_job(job)
    score = load_bundle(job.output).metadata.validation_score
    assert score is not None
    assert score > 0.8


def test_the_budget_of_minutes_ends_the_training(tmp_path: Path) -> None:
    job = make_job(tmp_path, "minutes", max_epochs=100_000, max_minutes=0.05)
    run_job(job)
    rows = history_of(job)
    assert 1 <= len(rows) < 1000
    assert float(rows[-1]["validation_dice"]) >= 0
    assert float(rows[-1]["minutes"]) >= 0.05
    # A validation may take an epoch across the limit; the next step then is the last.
    assert all(float(row["minutes"]) < 0.05 for row in rows[:-2])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["unet", "maskrcnn"])
def test_two_processes_train_together(tmp_path: Path, model: str) -> None:
    job = make_job(tmp_path, "ddp", model, devices="cpu:2", max_epochs=2)
    output = finish(start(job))
    assert output.count("epoch 1:") == 1
    assert load_bundle(job.output).metadata.validation_score is not None
    assert json.loads((job.output / "result.json").read_text())["devices"].startswith("2 x cpu, ")


def test_averaged_weights_are_those_of_the_formula(tmp_path: Path) -> None:
    """After two steps: decay * first + (1 - decay) * second."""
    weights = []
    for epochs, decay in ((1, 0.0), (2, 0.0), (2, 0.75)):
        settings = {"max_epochs": epochs, "steps_per_epoch": 1, "validate_every_epochs": 2}
        job = make_job(tmp_path, f"{epochs}-{decay}", ema_decay=decay, precision="32-true", **settings)
        run_job(job)
        weights.append(load_file(job.output / "model.safetensors"))
    first, second, averaged = weights
    assert sum(not np.array_equal(first[name], second[name]) for name in first) > 20
    for name in first:
        wanted = 0.75 * first[name] + 0.25 * second[name]
        np.testing.assert_allclose(averaged[name], wanted, rtol=1e-5, atol=1e-7, err_msg=name)


def test_other_choices_run(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        "choices",
        schedule="poly",
        optimizer="sgd",
        precision="bf16-mixed",
        class_weights="balanced",
        dice_weight=0.0,
        deep_supervision=False,
        max_epochs=1,
    )
    run_job(job)
    assert load_bundle(job.output).metadata.params["optimizer"] == "sgd"


def test_early_stop_by_patience(tmp_path: Path) -> None:
    job = make_job(
        tmp_path, "patience", max_epochs=50, validate_every_epochs=1, patience=2, learning_rate=1e-6
    )
    run_job(job)
    rows = history_of(job)
    dice = [float(row["validation_dice"]) for row in rows]
    assert len(rows) < 50
    assert max(dice[-2:]) <= max(dice[:-2])


@pytest.mark.parametrize("model", ["unet", "maskrcnn"])
def test_a_loss_that_is_no_number_is_one_clear_error(tmp_path: Path, model: str) -> None:
    job = make_job(tmp_path, "diverged", model)
    for case_id in job.training_cases:
        case = load_case(job.store, case_id)
        arrays = (
            np.array(one) for one in (case.label, case.foreground, case.instances, case.instance_labels)
        )
        save_case(job.store, case_id, StoredCase(np.full_like(case.image, np.nan), *arrays))
    with pytest.raises(SegtrailError, match=r"the loss of step 0 is nan[\s\S]*lower learning_rate"):
        run_job(job)
    assert not job.output.exists()


LIMITED = """
import resource, sys
import psutil, torch
import monai.losses, torchvision
from pathlib import Path
from pipeline import bundle, errors, train_worker, training, training_setup

torch.set_num_threads(1)
job = train_worker.TrainingJob.model_validate_json(Path(sys.argv[1]).read_text())
limit = psutil.Process().memory_info().vms + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    train_worker.run_job(job)
except errors.SegtrailError as error:
    sys.exit(str(error))
"""


def test_memory_that_does_not_suffice_is_one_clear_error(tmp_path: Path) -> None:
    """A process that may take 400 MB more trains on patches that need several GB."""
    job = make_job(tmp_path, "large")
    wide = cube_plan().model_copy(update={"patch_size": (64, 64, 64), "batch_size": 64})
    wide.save(job.plan)
    (tmp_path / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "memory ran out in step 0" in done.stderr, done.stderr
    assert "lower plan.batch_size" in done.stderr
    assert not job.output.exists()


def test_detection_needs_objects_in_the_plan(tmp_path: Path) -> None:
    job = make_job(tmp_path, "nothing", "maskrcnn")
    cube_plan().save(job.plan)
    with pytest.raises(
        SegtrailError,
        match=r"no training case has an object[\s\S]*leave models of network maskrcnn out of models",
    ):
        run_job(job)


def test_the_worker_ends_with_its_parent(tmp_path: Path) -> None:
    job = make_job(tmp_path, "orphan", max_epochs=100_000)
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


def test_a_side_without_labelled_cases_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, "empty").model_copy(update={"validation_cases": ()})
    with pytest.raises(SegtrailError, match="no labelled case on the side validation"):
        run_job(job)


@pytest.mark.parametrize("model", ["unet", "maskrcnn"])
def test_samples_that_cannot_be_shared_are_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(SegtrailError, match="2 samples a step cannot be shared evenly by 3"):
        run_job(make_job(tmp_path, "three", model, devices="cpu:3"))


def test_validation_cases_without_foreground_keep_the_last_weights(tmp_path: Path) -> None:
    job = make_job(tmp_path, "nothing", max_epochs=40, dice_weight=0.0)
    for name in job.validation_cases:
        empty = np.zeros((20, 18, 16), np.uint8)
        image = np.full((1, 20, 18, 16), -1, np.float16)
        objects = empty.astype(np.uint16), np.zeros(1, np.uint8)
        save_case(job.store, name, StoredCase(image, empty, np.zeros((0, 4), np.int16), *objects))
    run_job(job)
    result = json.loads((job.output / "result.json").read_text())
    assert result["best_validation_score"] in (None, 0.0)
    if result["best_validation_score"] is None:
        assert result["best_epoch"] == 40


def test_mask_rcnn_without_objects_to_validate_on_keeps_the_last_weights(tmp_path: Path) -> None:
    job = make_job(tmp_path, "nothing", "maskrcnn", max_epochs=2, steps_per_epoch=2, validate_every_epochs=1)
    for name in job.validation_cases:
        empty = np.zeros((64, 96, 1), np.uint8)
        image, objects = (
            np.zeros((1, 64, 96, 1), np.float16),
            (empty.astype(np.uint16), np.zeros(1, np.uint8)),
        )
        save_case(job.store, name, StoredCase(image, empty, np.zeros((0, 4), np.int16), *objects))
    run_job(job)
    result = json.loads((job.output / "result.json").read_text())
    assert result["best_validation_score"] is None
    assert result["best_epoch"] == 2
    assert load_bundle(job.output).metadata.validation_score is None
