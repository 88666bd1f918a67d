"""Training on overlapping regions, from the store to the label map."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from small_bundle import PREDICT
from training_jobs import cube_plan, make_job

from pipeline.bundle import load_bundle
from pipeline.plan import Plan, RegionPlan
from pipeline.prediction import Predictor
from pipeline.store import StoredCase, save_case
from pipeline.train_worker import TrainingJob, run_job

REGIONS = (
    RegionPlan(name="whole", labels=(1, 2), paint=1),
    RegionPlan(name="core", labels=(2,), paint=2),
)


def nested_cube(index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A grey cube with a bright core on noise, and its label map: 1 around, 2 inside."""
    generator = np.random.default_rng(index)
    label = np.zeros((20, 18, 16), np.uint8)
    x, y, z = generator.integers(2, 7, 3)
    label[x : x + 8, y : y + 8, z : z + 8] = 1
    label[x + 2 : x + 6, y + 2 : y + 6, z + 2 : z + 6] = 2
    return generator.normal(0, 0.3, label.shape) + 2.0 * label, label


def region_plan() -> Plan:
    return cube_plan().model_copy(
        update={
            "regions": REGIONS,
            "label_names": ("background", "edema", "core_class"),
            "label_values": (0, 2, 4),
        }
    )


def make_region_job(folder: Path, **changes: Any) -> TrainingJob:
    store = folder / "unet"
    store.mkdir()
    for index in range(8):
        image, label = nested_cube(index)
        places = np.argwhere(label)
        foreground = np.insert(places, 0, label[tuple(places.T)], axis=1).astype(np.int16)
        objects = (label > 0).astype(np.uint16), np.array([0, 1], np.uint8)
        save_case(
            store, f"case_{index}", StoredCase(image[None].astype(np.float16), label, foreground, *objects)
        )
    region_plan().save(folder / "unet.json")
    return make_job(folder, "regions", **changes)


def dice_in_history(job: TrainingJob) -> dict[str, float]:
    """Dice of the last validation: of the mean "", of "_whole" and of "_core"."""
    row = list(csv.DictReader((job.output / "history.csv").open()))[-1]
    return {name: float(row[f"validation_dice{name}"]) for name in ("", "_whole", "_core")}


def test_one_output_a_region_from_the_training_to_the_files_of_a_prediction(tmp_path: Path) -> None:
    job = make_region_job(tmp_path, max_epochs=1, class_weights="balanced")
    run_job(job)
    bundle = load_bundle(job.output)
    assert bundle.metadata.network_arguments["classes"] == 2  # whole and core; no background
    assert bundle.metadata.plan.regions == REGIONS
    last = dice_in_history(job)
    assert last[""] == pytest.approx((last["_whole"] + last["_core"]) / 2, abs=1e-6)
    closing = bundle.metadata.validation_scores
    assert set(closing) == {"dice", "whole/dice", "whole/dice_n", "core/dice", "core/dice_n"}
    table = list(csv.DictReader((job.output / "validation.csv").open()))
    assert [(row["case_id"], row["class"]) for row in table] == [
        (case_id, name) for case_id in ("case_6", "case_7") for name in ("whole", "core")
    ]  # fmt: skip
    assert bundle.metadata.validation_score == pytest.approx(
        (
            float(np.mean([float(r["dice"]) for r in table[::2]]))
            + float(np.mean([float(r["dice"]) for r in table[1::2]]))
        )
        / 2
    )

    image, label = nested_cube(99)
    nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), np.eye(4)), tmp_path / "new.nii.gz")
    predictor = Predictor(bundle, PREDICT, torch.device("cpu"), {})
    record = predictor.predict_files([tmp_path / "new.nii.gz"], tmp_path, "new", timed=False)
    found = np.asarray(nibabel.load(tmp_path / "new_labels.nii.gz").dataobj)
    assert set(np.unique(found)) <= {0, 2, 4}
    assert record["regions"]["whole"]["voxels"] == int((found > 0).sum())
    assert record["regions"]["core"] == record["labels"]["core_class"]
    assert record["labels"]["edema"]["voxels"] == int((found == 2).sum())
    assert label.shape == found.shape


@pytest.mark.slow
def test_nested_regions_are_learned(tmp_path: Path) -> None:
    job = make_region_job(tmp_path, max_epochs=12, learning_rate=0.01)
    run_job(job)
    assert min(dice_in_history(job).values()) > 0.85
