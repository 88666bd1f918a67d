"""A cascade is trained in two parts, goes on in the one in which it was killed, and knows what a patch cannot show."""

from __future__ import annotations

import csv
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cascade_jobs import TRAINING, VALIDATION, make_case, make_plate_job, plate_plan
from safetensors.numpy import load_file
from small_bundle import PREDICT
from training_jobs import finish, read_params, start

from pipeline.bundle import load_bundle
from pipeline.cascade_datasets import load_previous
from pipeline.errors import SegtrailError
from pipeline.models.cascade import Cascade
from pipeline.prediction import Predictor
from pipeline.train_params import SemanticTrainParams
from pipeline.train_worker import run_job
from pipeline.training_job import TrainingJob
from pipeline.training_parts import choose_loaders, share_budget
from pipeline.volume import Volume

CPU = torch.device("cpu")
SHORT = {"max_epochs": 4, "steps_per_epoch": 8, "validate_every_epochs": 2, "checkpoint_every_steps": 3}


def semantic(**changes: object) -> SemanticTrainParams:
    params = read_params("unet", **changes)
    assert isinstance(params, SemanticTrainParams)
    return params


def test_epochs_and_minutes_are_shared() -> None:
    first, second = share_budget(semantic(max_epochs=10, max_minutes=5.0, lowres_share=0.4))
    assert (first.max_epochs, second.max_epochs) == (4, 6)
    assert (first.max_minutes, second.max_minutes) == (2.0, 3.0)
    shortest = share_budget(semantic(max_epochs=1, lowres_share=0.05))
    assert [part.max_epochs for part in shortest] == [1, 1]


@pytest.mark.slow
def test_folds_of_a_cascade_are_averaged_part_by_part(tmp_path: Path) -> None:
    job = make_plate_job(tmp_path, "model", "cascade", folds=2, **{**SHORT, "max_epochs": 2})
    sides = TRAINING[:4], TRAINING[4:8]
    folds = [
        job.model_copy(
            update={
                "training_cases": sides[1 - number], "validation_cases": sides[number], "fold": number, "folds": 2,
                "scratch": job.scratch / f"fold_{number}", "output": job.scratch / f"fold_{number}/finished",
            }
        )
        for number in (0, 1)
    ]  # fmt: skip
    for fold in folds:
        run_job(fold)
    members = tuple(fold.output for fold in folds)
    run_job(job.model_copy(update={"folds": 2, "members": members, "validation_cases": TRAINING[:8]}))

    bundle = load_bundle(job.output)
    assert bundle.metadata.low_plan == load_bundle(members[0]).metadata.low_plan
    whole, first, second = (load_bundle(folder).build(CPU) for folder in (job.output, *members))
    assert isinstance(whole, Cascade)
    low, full = torch.randn(1, 1, 16, 16, 16), torch.randn(1, 2, 16, 16, 16).round()
    with torch.inference_mode():
        for part, image in (("low", low), ("full", full)):
            one, other = (network.get_submodule(part)(image) for network in (first, second))
            torch.testing.assert_close(whole.get_submodule(part)(image), (one + other) / 2)
    means = [float(row["train_loss"]) for row in csv.DictReader((job.output / "low_history.csv").open())]
    own = [csv.DictReader((folder / "low_history.csv").open()) for folder in members]
    assert means == pytest.approx(
        [np.mean([float(r["train_loss"]) for r in rows]) for rows in zip(*own, strict=True)]
    )
    image, _ = make_case(3)
    found = Predictor(bundle, PREDICT, CPU, {}).predict(Volume(image[None], np.eye(4)), "case")
    assert found.label_map.array.shape == image.shape


def test_a_cascade_on_a_gpu_gets_loader_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_plate_job(tmp_path, "loaders", "cascade", **SHORT).model_copy(update={"devices": "auto"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [choose_loaders(job, second) for second in (False, True)] == [0, 0]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [choose_loaders(job, second) for second in (False, True)] == [0, 2]
    for number in (0, 5):
        told = job.model_copy(update={"workers": number})
        assert [choose_loaders(told, second) for second in (False, True)] == [number, number]


def test_a_plan_without_low_resolution_is_one_clear_error(tmp_path: Path) -> None:
    job = make_plate_job(tmp_path, "none", "cascade", **SHORT)
    reasons = {"lowres": "none: the patch covers 40% of the median image"}
    plate_plan().model_copy(update={"alternatives": {}, "reasons": reasons}).save(job.plan)
    with pytest.raises(
        SegtrailError, match=r"no configuration cascade[\s\S]*covers 40%[\s\S]*train\.unet\.configuration"
    ):
        run_job(job)


def in_first_part(job: TrainingJob) -> bool:
    return (job.scratch / "low" / "resume.safetensors").exists()


def between_the_parts(job: TrainingJob) -> bool:
    return len(list((job.scratch / "previous").glob("*.safetensors"))) > 3


def in_second_part(job: TrainingJob) -> bool:
    return (job.scratch / "resume.safetensors").exists()


@pytest.mark.parametrize(
    "reached",
    [
        pytest.param(in_first_part, marks=pytest.mark.long),
        pytest.param(between_the_parts, marks=pytest.mark.slow),
        pytest.param(in_second_part, marks=pytest.mark.long),
    ],
)
def test_a_killed_cascade_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, reached: Callable[[TrainingJob], bool]
) -> None:
    undisturbed = make_plate_job(tmp_path, "undisturbed", "cascade", **SHORT)
    finish(start(undisturbed))
    killed = make_plate_job(tmp_path, "killed", "cascade", **SHORT)
    process = start(killed)
    while not reached(killed):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not killed.output.exists()
    low = killed.scratch / "low" / "finished"
    assert low.exists() == (reached is not in_first_part)
    finish(start(killed))

    first, second = (load_file(job.output / "model.safetensors") for job in (undisturbed, killed))
    assert {name.split(".")[0] for name in first} == {"low", "full"}
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    resumed = json.loads((killed.output / "result.json").read_text())["resumed"]
    assert resumed == (0 if reached is between_the_parts else 1)
    rows = list(csv.DictReader((killed.output / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]  # of 4, 40 % go to the first network


@pytest.mark.slow
def test_two_processes_train_a_cascade_together(tmp_path: Path) -> None:
    job = make_plate_job(tmp_path, "ddp", "cascade", **SHORT).model_copy(update={"devices": "cpu:2"})
    output = finish(start(job))
    assert output.count("epoch 1:") == 2  # once a network
    assert len(list((job.scratch / "previous").glob("*.safetensors"))) == len(TRAINING + VALIDATION)
    assert load_bundle(job.output).metadata.low_plan is not None


def test_the_low_resolution_alone_is_a_model_that_predicts(tmp_path: Path) -> None:
    job = make_plate_job(tmp_path, "low", "lowres", **{**SHORT, "max_epochs": 1})
    run_job(job)
    bundle = load_bundle(job.output)
    assert (bundle.metadata.network, bundle.metadata.low_plan) == ("unet", None)
    assert bundle.metadata.plan.spacing_mm == (3.0, 3.0, 3.0)
    image, _ = make_case(99)
    found = Predictor(bundle, PREDICT, torch.device("cpu"), {}).predict(
        Volume(image[None], np.eye(4)), "case"
    )
    assert found.label_map.array.shape == image.shape
    # The closing validation is on the fine grid.
    assert (
        load_file(job.output / "predictions" / f"{VALIDATION[0]}.safetensors")["label_map"].shape == (48,) * 3
    )


@pytest.mark.long
def test_a_cascade_tells_what_no_patch_shows(tmp_path: Path) -> None:
    """By patches of 16 voxels both cubes are the same: at best each is called by the more frequent name."""
    budget = {
        **SHORT,
        "max_epochs": 40,
        "steps_per_epoch": 20,
        "validate_every_epochs": 5,
        "lowres_share": 0.3,
    }
    scores = {}
    for configuration in ("cascade", "full"):
        job = make_plate_job(tmp_path, configuration, configuration, **budget)
        run_job(job)
        scores[configuration] = load_bundle(job.output).metadata.validation_score or 0
    assert scores["cascade"] > 0.8
    assert scores["full"] < 0.6

    bundle = load_bundle(tmp_path / "cascade" / "finished")
    image, label = make_case(99)
    predictor = Predictor(bundle, PREDICT, torch.device("cpu"), {})
    found = predictor.predict(Volume(image[None], np.eye(4)), "case").label_map.array
    assert 2 * ((found == label) & (label > 0)).sum() / ((found > 0).sum() + (label > 0).sum()) > 0.8
    previous = load_previous(tmp_path / "cascade" / "previous", VALIDATION[0])
    assert previous.shape == label.shape
