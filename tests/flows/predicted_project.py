"""A project with predicted test cases of a block of voxels, whose metrics can be worked out by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pipeline.cases import CaseRecord, save_cases
from pipeline.io.sources import DatasetFacts
from pipeline.splits import SplitRow, save_splits

OUTPUT = Path("data/metrics/unet")
OBJECTS = "case_id,id,label,diameter_mm,x_mm,y_mm,z_mm,voxels,readers,agreement,ignored\n"
# Of a reference of 4 slices of 16 voxels, so many are found: Dice 1, 2/3 and 0; test_e holds nothing.
FOUND = {"test_a": 4, "test_b": 2, "test_c": 0, "test_d": 4, "test_e": 0}


def replace_tracking(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the module that speaks to MLflow; models that it is handed from now on."""
    models: list[str] = []
    tracking = ModuleType("flows.tracking")
    tracking.record_evaluation = models.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flows.tracking", tracking)
    return models


def write_predicted_project() -> None:
    """Writes five predicted test cases (one without a label), one of training and one quarantined."""
    set_params(baseline="none", bootstrap_samples=200)
    cases = write_cases()
    Path("data/inspected").mkdir()
    Path("data/splits").mkdir()
    save_cases(cases, Path("data/inspected/cases.csv"))
    # The block of 4 x 4 x 4 voxels of 1 x 1 x 2 mm: centre (5.5, 5.5, 7) mm, 128 mm3.
    objects = "".join(f"test_{x},1,organ,6.25,5.5,5.5,7.0,64,0,,0\n" for x in "abc")
    Path("data/inspected/objects.csv").write_text(OBJECTS + objects)
    DatasetFacts("Small", ("MRI",), {"background": 0, "organ": 1}, "Drawn by hand", "").save(
        Path("data/inspected/dataset.json")
    )
    sides = [SplitRow(c.case_id, c.patient_id, c.case_id.split("_")[0]) for c in cases if c.usable]
    save_splits(sides, Path("data/splits/splits.csv"))


def write_cases() -> list[CaseRecord]:
    """Writes images, labels and predictions; the table's rows of the cases."""
    random = np.random.default_rng(0)
    cases = []
    for case_id in [*FOUND, "train_a", "bad_a"]:
        image = save_nifti(
            Path(f"data/raw/small/{case_id}.nii.gz"), random.normal(size=(12, 12, 8)).astype("f4")
        )
        label = save_nifti(Path(f"data/raw/small/{case_id}_l.nii.gz"), block(0 if case_id == "test_e" else 4))
        verdict = "quarantined" if case_id == "bad_a" else "ok"
        label = "" if case_id == "test_d" else label
        cases.append(
            CaseRecord(
                case_id, f"patient_{case_id}", "", (image,), label, "", "", (12, 12, 8), verdict=verdict
            )
        )
        if case_id in FOUND:
            save_prediction(case_id, FOUND[case_id])
    return cases


def save_nifti(path: Path, array: NDArray[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return str(path)


def save_prediction(case_id: str, slices: int) -> None:
    """The files of a prediction: one object, or none, with a score of 0.9 (of test_b 0.6)."""
    folder = Path("data/predictions/unet")
    for part in ("labels", "instances"):
        save_nifti(folder / f"{case_id}_{part}.nii.gz", block(slices))
    found = {
        "id": 1, "label": "organ", "score": 0.6 if case_id == "test_b" else 0.9, "voxels": 16 * slices,
        "centroid_mm": [5.5, 5.5, 2 * (1.5 + slices / 2)], "box_voxels": [[4, 4, 2], [8, 8, 2 + slices]],
    }  # fmt: skip
    record = {"settings": {"min_score": 0.05, "label_score": 0.5}, "instances": [found] if slices else []}
    (folder / f"{case_id}.json").write_text(json.dumps(record))


def block(slices: int) -> NDArray[np.uint8]:
    array = np.zeros((12, 12, 8), dtype=np.uint8)
    array[4:8, 4:8, 2 : 2 + slices] = 1
    return array


def set_params(**changes: object) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def load_record() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((OUTPUT / "metrics.json").read_text(encoding="utf-8"))
    return record
