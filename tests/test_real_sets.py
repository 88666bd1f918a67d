"""Real raw data of every detection layout, from `segtrail data add` to the report, with small networks.

Three scans are too few to learn from: what is shown is that each step takes what the one before it leaves.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.metrics import compute_dice
from PIL import Image
from project_copy import change_params, copy_project, load_json, run

from pipeline.config import SplitParams
from pipeline.objects import load_objects
from pipeline.splits import choose_side

MODELS = ("unet", "maskrcnn")
PATIENTS = (
    ("Quillfeather^Ottoline", "MRN-7712301", "19610417"),
    ("Snodgrass^Barnaby", "MRN-8899902", "19530102"),
    ("Tillotson^Wilhelmina", "MRN-9911203", "19470623"),
)
PHYSICIAN = "Grimblethorpe"
# Of BraTS 2015: 1 necrosis, 2 oedema, 3 non-enhancing, 4 enhancing tumour.
REGIONS = {"whole_tumor": (1, 2, 3, 4), "tumor_core": (1, 3, 4), "enhancing_tumor": (4,)}
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
    add(project, raw, preset)
    return run_all(project, changes)


def add(project: Path, raw: Path, preset: str) -> None:
    copy_project(project)
    added = run(project, "flows.cli", "data", "add", str(raw), "--preset", preset)
    assert added.returncode == 0, added.stdout + added.stderr


def run_all(project: Path, changes: dict[tuple[str, ...], Any]) -> str:
    change_params(project, SMALL | changes)
    done = run(project, "flows.cli", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def one_patient_a_side(patients: list[str]) -> dict[tuple[str, ...], Any]:
    """Params that put one patient on each side, all others on that of training."""
    for number in range(1000):
        shares = SplitParams(salt=f"salt{number}", test_fraction=0.34, validation_fraction=0.33)
        sides = Counter(choose_side(patient, shares) for patient in patients)
        if (sides["test"], sides["validation"]) == (1, 1) and sides["train"] > 0:
            return {("split", key): value for key, value in shares.model_dump().items()}
    raise AssertionError("no salt splits the patients")


def write_brats(source: Path, raw: Path) -> list[str]:
    """Four patients in nnU-Net's raw format, regions included; returns their ids."""
    patients = sorted(folder.name for folder in source.iterdir() if folder.is_dir())
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    for patient in patients:
        for channel, modality in enumerate(("flair", "t1ce")):
            shutil.copy(
                source / patient / f"{patient}_{modality}.nii.gz",
                raw / "imagesTr" / f"{patient}_{channel:04d}.nii.gz",
            )
        shutil.copy(source / patient / f"{patient}_seg.nii.gz", raw / "labelsTr" / f"{patient}.nii.gz")
    facts = {
        "channel_names": {"0": "Flair", "1": "T1ce"}, "file_ending": ".nii.gz", "numTraining": 4,
        "labels": {"background": 0, **{name: list(values) for name, values in REGIONS.items()}},
        "regions_class_order": [2, 1, 4],
    }  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return patients


def check_outputs(project: Path, suffix: str, models: tuple[str, ...] = MODELS) -> None:
    """Every model has a label map, an instance map, curves, pictures and both kinds of metrics."""
    for model in models:
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
    assert all(model in report for model in models)


def name_patients(source: Path, raw: Path) -> None:
    """The scans of LIDC-IDRI as a hospital has them: patients named in headers and folders."""
    for (name, patient_id, born), patient in zip(PATIENTS, sorted(source.iterdir()), strict=True):
        shutil.copytree(patient, raw / patient_id)
        for path in (raw / patient_id).rglob("*.dcm"):
            header = pydicom.dcmread(path)
            header.PatientName, header.PatientID, header.PatientBirthDate = name, patient_id, born
            header.ReferringPhysicianName = PHYSICIAN
            for tag in (
                "PatientIdentityRemoved",
                "DeidentificationMethod",
                "DeidentificationMethodCodeSequence",
            ):
                header.pop(tag, None)
            header.save_as(path)


def find_names(folder: Path) -> list[str]:
    """Files whose path or bytes hold a name, an id or a birth date of a patient."""
    parts = [part.lower() for name, *rest in PATIENTS for part in (*name.split("^"), *rest)] + [
        PHYSICIAN.lower()
    ]
    found = []
    for path in folder.rglob("*"):
        text = path.as_posix().lower().encode() + (path.read_bytes().lower() if path.is_file() else b"")
        found += [f"{path}: {part}" for part in parts if part.encode() in text]
    return found


@pytest.mark.parametrize(
    ("preset", "models"),
    [
        pytest.param("luna16", MODELS, marks=pytest.mark.long),
        pytest.param("lidc", ("unet",), marks=pytest.mark.slow),
    ],
)
def test_lung_ct(shared_data: Path, tmp_path: Path, preset: str, models: tuple[str, ...]) -> None:
    project, raw = tmp_path / "project", shared_data / "luna16"
    if preset == "lidc":
        raw = tmp_path / "raw"
        name_patients(shared_data / "lidc_idri/LIDC-IDRI", raw)
        assert len(find_names(raw)) > 100  # the search can fail
    add(project, raw, preset)
    there = project / "data/raw" / preset
    found = (there / "subset0").glob("*.mhd") if preset == "luna16" else there.iterdir()
    patients = [path.stem for path in found if not path.name.startswith(".")]
    assert len(patients) == 3
    run_all(project, {("models",): list(models), **one_patient_a_side(patients)})
    # Data, models, report, MLflow's and Prefect's stores, DVC's cache.
    assert find_names(project) == []
    check_outputs(project, ".nii.gz", models)
    rows = load_objects(project / "data/inspected/objects.csv")
    assert any(not row.ignored for row in rows)
    assert load_json(project / "data/plan/plan.json")["spacing_mm"] == [1.0, 1.0, 1.0]
    # The prediction lies on the grid of the scan, although the networks saw 1 mm voxels.
    (labels,) = (project / "data/predictions" / models[-1]).glob("*_labels.nii.gz")
    reference = project / "data/inspected/references" / labels.name
    predicted, drawn = nibabel.load(labels), nibabel.load(reference)
    assert predicted.shape == drawn.shape
    assert np.allclose(predicted.affine, drawn.affine, atol=1e-4)


@pytest.mark.long
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


@pytest.mark.slow
def test_brain_tumours_by_region(shared_data: Path, tmp_path: Path) -> None:
    """nnU-Net's raw format with overlapping regions, to scores that MONAI finds too."""
    raw, project = tmp_path / "raw", tmp_path / "project"
    patients = write_brats(shared_data / "brats2015_2mm", raw)
    assert len(patients) == 4
    learn = {
        ("plan", "max_patch_voxels"): 65536,
        ("plan", "base_features"): 8,
        ("train", "unet", "steps_per_epoch"): 80,
        ("train", "unet", "learning_rate"): 0.01,
    }
    printed = add_and_run(project, raw, "brats_nnunet", one_patient_a_side(patients) | learn)
    assert "mean of regions" in printed
    plan = load_json(project / "data/plan/plan.json")
    assert [(r["name"], r["labels"], r["paint"]) for r in plan["regions"]] == [
        ("whole_tumor", [1, 2, 3, 4], 2), ("tumor_core", [1, 3, 4], 1), ("enhancing_tumor", [4], 4),
    ]  # fmt: skip
    assert load_json(project / "data/models/unet/bundle.json")["network_arguments"]["classes"] == 3
    numbers = load_json(project / "data/metrics/unet/metrics.json")["metrics"]
    with (project / "data/metrics/unet/cases.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["kind"] == "region"]
    cases = sorted({row["case_id"] for row in rows})
    expected = {}
    for case_id in cases:
        found = nibabel.load(project / f"data/predictions/unet/{case_id}_labels.nii.gz")
        drawn = nibabel.load(raw / f"labelsTr/{case_id}.nii.gz")
        assert np.allclose(found.affine, drawn.affine)
        one, other = (
            torch.from_numpy(
                np.stack([np.isin(np.asarray(image.dataobj), v) for v in REGIONS.values()])[None]
            )
            for image in (found, drawn)
        )
        expected[case_id] = compute_dice(one.float(), other.float())[0].tolist()
        record = load_json(project / f"data/predictions/unet/{case_id}.json")
        assert [size["voxels"] for size in record["regions"].values()] == one[0].flatten(1).sum(1).tolist()
    for row in rows:
        place = list(REGIONS).index(row["label"])
        assert float(row["dice"]) == pytest.approx(expected[row["case_id"]][place], abs=1e-5)
    means = np.mean(list(expected.values()), axis=0)
    for name, mean in zip(REGIONS, means, strict=True):
        assert numbers[f"test/{name}/dice"] == pytest.approx(mean, abs=1e-5)
    assert numbers["test/dice"] == pytest.approx(means.mean(), abs=1e-5)
    assert means[0] > 0.3  # a few steps find the bright oedema of FLAIR
    report = (project / "data/report/index.html").read_text(encoding="utf-8")
    assert "Mean over regions" in report
    assert "Region tumor_core" in report
