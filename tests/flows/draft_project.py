"""A project with two small CT cases and a bundle: cases are drafted there, corrected and accepted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from small_bundle import write_ct_bundle

from flows import acceptance
from flows.drafts import draft_cases

RAW, DRAFTS = Path("data/raw/small"), Path("drafts")
SHAPE = (12, 10, 8)
AFFINE = np.diag([-2.0, 2.0, 2.5, 1.0])
FACTS = {
    "name": "Small", "modality": {"0": "CT"}, "labels": {"0": "background", "2": "liver", "5": "tumour"},
}  # fmt: skip


def make_draft_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cases a and b in layout msd, and a bundle; data sets that DVC is given from now on, which is not started."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:5, 2:5, 2:5] = 2
    for number, name in enumerate("ab"):
        save(RAW / f"imagesTr/{name}.nii.gz", scan(number))
        save(RAW / f"labelsTr/{name}.nii.gz", labels)
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"]
    (RAW / "dataset.json").write_text(json.dumps(FACTS | {"training": training, "numTraining": 2}))
    RAW.with_name("small.dvc").write_text("outs: []\n")
    choose("msd")
    write_ct_bundle(project / "bundle")
    calls: list[str] = []
    monkeypatch.setattr(acceptance, "dvc_add", lambda target, _: calls.append(target.name))
    return calls


def save(path: Path, array: NDArray[Any], affine: NDArray[Any] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(nibabel.load(path).dataobj).astype(np.uint8)


def scan(seed: int) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-100, 300, SHAPE).astype(np.int16)


def choose(layout: str) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["inspect"] |= {"dataset": "small", "layout": layout}
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def draft(*inputs: str) -> int:
    return draft_cases(inputs, DRAFTS, "bundle", "cpu")


def correct(case_id: str, value: int = 2) -> NDArray[np.uint8]:
    """Draws a block into a draft."""
    path = DRAFTS / f"{case_id}_labels.nii.gz"
    label = read(path)
    label[1:7, 1:7, 1:7] = value
    save(path, label, nibabel.load(path).affine)
    return label


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def state() -> dict[str, bytes]:
    """Everything that a failure must leave as it is."""
    paths = [Path("params.yaml"), *(path for path in Path("data").rglob("*") if path.is_file())]
    return {path.as_posix(): path.read_bytes() for path in paths}
