"""Real raw data of every detection layout, from `segtrail data add` to the report, with small networks.

Three scans are too few to learn from: what is shown is that each step takes what the one before it leaves.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from project_copy import change_params, copy_project, load_json, run

from pipeline.config import SplitParams
from pipeline.objects import load_objects
from pipeline.splits import choose_side

MODELS = ("unet", "maskrcnn")
SMALL = {
    ("plan", "max_patch_voxels"): 16384,
    ("plan", "base_features"): 4,
    ("plan", "detection_zoom"): 1.0,
    ("plan", "detection_window"): [64, 64],
    ("train", "maskrcnn", "backbone"): "resnet18",
    ("train", "maskrcnn", "backbone_weights"): "none",  # no download here
    ("train", "maskrcnn", "pyramid_channels"): 16,
    ("train", "maskrcnn", "head_channels"): 16,
    ("train", "maskrcnn", "proposals"): 20,
    ("train", "maskrcnn", "batch_size"): 2,
    ("predict", "overlap"): 0.0,
    ("predict", "min_score"): 0.3,
    ("register", "min_cases"): 2,
} | {
    ("train", model, key): value
    for model in MODELS
    for key, value in {"max_epochs": 1, "steps_per_epoch": 2, "validate_every_epochs": 1}.items()
}


def add_and_run(project: Path, raw: Path, preset: str, changes: dict[tuple[str, ...], Any]) -> str:
    copy_project(project)
    added = run(project, "flows.cli", "data", "add", str(raw), "--preset", preset)
    assert added.returncode == 0, added.stdout + added.stderr
    change_params(project, SMALL | changes)
    done = run(project, "flows.cli", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def one_patient_a_side(patients: list[str]) -> dict[tuple[str, ...], Any]:
    """Params that put one of three patients on each side."""
    for number in range(1000):
        shares = SplitParams(salt=f"salt{number}", test_fraction=0.34, validation_fraction=0.33)
        if len({choose_side(patient, shares) for patient in patients}) == 3:
            return {("split", key): value for key, value in shares.model_dump().items()}
    raise AssertionError("no salt splits three patients")


def check_outputs(project: Path, suffix: str) -> None:
    """Every model has a label map, an instance map, curves, pictures and both kinds of metrics."""
    for model in MODELS:
        predicted = project / "data/predictions" / model
        labels = sorted(predicted.glob(f"*_labels{suffix}"))
        assert labels
        assert len(list(predicted.glob(f"*_instances{suffix}"))) == len(labels)
        assert len(list(predicted.glob("*_overlay.png"))) == len(labels)
        scored = project / "data/metrics" / model
        metrics = load_json(scored / "metrics.json")["metrics"]
        assert {"test/dice", "test/mask_map_50", "test/box_map_50", "test/panoptic_quality"} <= set(metrics)
        assert list((scored / "overlays").glob("*.png"))
        assert list((scored / "plots").glob("*.png"))
    report = (project / "data/report/index.html").read_text(encoding="utf-8")
    assert all(model in report for model in MODELS)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["luna16", "lidc"])
def test_lung_ct(shared_data: Path, tmp_path: Path, preset: str) -> None:
    raw = shared_data / {"luna16": "luna16", "lidc": "lidc_idri/LIDC-IDRI"}[preset]
    if preset == "luna16":
        patients = [path.stem for path in (raw / "subset0").glob("*.mhd")]
    else:
        patients = [path.name for path in raw.iterdir()]
    assert len(patients) == 3
    project = tmp_path / "project"
    add_and_run(project, raw, preset, one_patient_a_side(patients))
    check_outputs(project, ".nii.gz")
    rows = load_objects(project / "data/inspected/objects.csv")
    assert any(not row.ignored for row in rows)
    assert load_json(project / "data/plan/plan.json")["spacing_mm"] == [1.0, 1.0, 1.0]
    # The prediction lies on the grid of the scan, although the network saw 1 mm voxels.
    (labels,) = (project / "data/predictions/maskrcnn").glob("*_labels.nii.gz")
    reference = project / "data/inspected/references" / labels.name
    predicted, drawn = nibabel.load(labels), nibabel.load(reference)
    assert predicted.shape == drawn.shape
    assert np.allclose(predicted.affine, drawn.affine, atol=1e-4)


@pytest.mark.slow
def test_nuclei(shared_data: Path, tmp_path: Path) -> None:
    """Twenty pictures of different sizes."""
    raw = tmp_path / "raw"
    for folder in sorted((shared_data / "dsb2018/stage1_train").iterdir())[::12][:20]:
        shutil.copytree(folder, raw / "stage1_train" / folder.name)
    project = tmp_path / "project"
    add_and_run(project, raw, "dsb2018", {("split", "salt"): "nuclei"})
    check_outputs(project, ".png")
    labels = next((project / "data/predictions/maskrcnn").glob("*_labels.png"))
    case_id = labels.name.removesuffix("_labels.png")
    (source,) = (raw / "stage1_train" / case_id / "images").glob("*.png")
    instances = labels.with_name(f"{case_id}_instances.png")
    with Image.open(source) as picture, Image.open(labels) as one, Image.open(instances) as other:
        assert one.size == other.size == picture.size
        assert (one.mode, other.mode) == ("L", "I;16")
