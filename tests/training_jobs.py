"""Small stores, plans and jobs to train on, and the training as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detection_plan import make_plan

from pipeline.plan import ChannelNormalization, Plan
from pipeline.store import StoredCase, save_case
from pipeline.topology import pooling
from pipeline.train_params import InstanceTrainParams, SemanticTrainParams
from pipeline.train_worker import TrainingJob

SMALL: dict[str, dict[str, Any]] = {
    "unet": {
        "max_epochs": 6, "steps_per_epoch": 10, "checkpoint_every_steps": 3, "validate_every_epochs": 2,
    },
    "maskrcnn": {
        "max_epochs": 2, "steps_per_epoch": 6, "checkpoint_every_steps": 4, "validate_every_epochs": 2,
        "batch_size": 2, "pyramid_channels": 16, "head_channels": 32, "proposals": 20, "warmup_steps": 4,
        "optimizer": "adamw", "learning_rate": 0.002,
    },
}  # fmt: skip


def write_cubes(folder: Path) -> None:
    """Eight volumes with one bright cube on noise each."""
    folder.mkdir()
    for index in range(8):
        generator = np.random.default_rng(index)
        label = np.zeros((20, 18, 16), np.uint8)
        x, y, z = generator.integers(2, 8, 3)
        label[x : x + 7, y : y + 7, z : z + 7] = 1
        image = (generator.normal(0, 0.3, label.shape) + 2 * label)[None].astype(np.float16)
        foreground = np.insert(np.argwhere(label == 1), 0, 1, axis=1).astype(np.int16)
        objects = label.astype(np.uint16), np.array([0, 1], np.uint8)
        save_case(folder, f"case_{index}", StoredCase(image, label, foreground, *objects))


def write_rectangles(folder: Path) -> None:
    """Eight pictures of 64 x 96 with two bright rectangles on noise each."""
    folder.mkdir()
    for index in range(8):
        generator = np.random.default_rng(index)
        ids = np.zeros((64, 96, 1), np.uint16)
        for number, corner in enumerate(((4, 4), (4, 52)), 1):
            x, y = corner + generator.integers(0, 16, 2)
            ids[x : x + 24, y : y + 16] = number
        image = (generator.normal(0, 0.1, ids.shape) + (ids > 0))[None].astype(np.float16)
        label = (ids > 0).astype(np.uint8)
        nowhere, classes = np.zeros((0, 4), np.int16), np.array([0, 1, 1], np.uint8)
        save_case(folder, f"case_{index}", StoredCase(image, label, nowhere, ids, classes))


def cube_plan() -> Plan:
    """A tiny plan: 16 voxels cube, 4 feature maps; nothing for detection."""
    patch = (16, 16, 16)
    strides, kernels = pooling(patch, (1.0, 1.0, 1.0))
    return Plan(
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


def read_params(model: str, **changes: Any) -> SemanticTrainParams | InstanceTrainParams:
    """The shipped `train.<model>`, made small."""
    shipped = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["train"][model]
    kind, small = (InstanceTrainParams, "maskrcnn") if model == "maskrcnn" else (SemanticTrainParams, "unet")
    return kind(**{**shipped, "max_minutes": 60.0, **SMALL[small], **changes})


def make_job(
    folder: Path, name: str, model: str = "unet", devices: str = "cpu", **changes: Any
) -> TrainingJob:
    """A training on the store and the plan of a folder; writes them when they are missing."""
    store, plan = folder / model, folder / f"{model}.json"
    if not store.exists():
        (write_rectangles if model == "maskrcnn" else write_cubes)(store)
        (make_plan((64, 96)) if model == "maskrcnn" else cube_plan()).save(plan)
    return TrainingJob(
        model=model,
        params=read_params(model, **changes),
        plan=plan,
        store=store,
        training_cases=tuple(f"case_{i}" for i in range(6)),
        validation_cases=("case_6", "case_7"),
        scratch=folder / name,
        output=folder / name / "finished",
        provenance={"git_commit": "abc"},
        devices=devices,
    )


def start(job: TrainingJob) -> subprocess.Popen[str]:
    """Starts the training as a process."""
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
    """Waits for a process that must succeed; returns its output."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output
