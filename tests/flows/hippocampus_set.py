"""Six hippocampus cases as a user hands them over in MSD layout, and what lies in a project that they are added to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np

CHECKOUT = Path(__file__).resolve().parents[2]
TARGET = Path("data/raw/hippocampus")
RECORD = Path("data/raw/hippocampus.dvc")
State = dict[str, bytes]


def write_hippocampi(folder: Path) -> None:
    """Writes read-only files: real ones when they are there, else small written ones."""
    real = CHECKOUT.parent / "shared/data/Task04_Hippocampus"
    names = [f"hippocampus_{number:03d}" for number in (1, 3, 4, 6, 7, 8)]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for number, name in enumerate(names):
            if real.is_dir():
                shutil.copyfile(real / part / f"{name}.nii.gz", folder / part / f"{name}.nii.gz")
            else:
                voxels = np.full((8, 9, 10), number % 3, np.uint8)
                nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / part / f"{name}.nii.gz")
    save_facts(folder, names)
    for path in folder.rglob("*.nii.gz"):
        path.chmod(0o444)


def save_facts(folder: Path, names: list[str]) -> None:
    files = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    facts = {"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": labels, "training": files}
    (folder / "dataset.json").write_text(json.dumps(facts))


def copy_first(raw: Path, folder: Path, count: int) -> Path:
    """A copy of the raw set with the first `count` cases."""
    names = sorted(path.name.removesuffix(".nii.gz") for path in (raw / "imagesTr").iterdir())[:count]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for name in names:
            shutil.copyfile(raw / part / f"{name}.nii.gz", folder / part / f"{name}.nii.gz")
    save_facts(folder, names)
    return folder


def read_state(project: Path) -> State:
    """Everything a failure must not change."""
    found = [project / "params.yaml", *(path for path in (project / "data").rglob("*") if path.is_file())]
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in found}
