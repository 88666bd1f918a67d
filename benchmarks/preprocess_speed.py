"""Preprocessing against nnU-Net v2: seconds and peak memory on 220 hippocampi and on large CT.

    .venv/bin/python benchmarks/preprocess_speed.py [--hippocampus FOLDER] [--ct 10] [--keep FOLDER]

Both use two processes and the same target spacing. Timed are Segtrail's stage `preprocess` and nnU-Net's
`preprocess` of 3d_fullres, from the start of the command to its end; beside them `inspect` and nnU-Net's
extraction of fingerprints. Peak memory is the largest sum of RSS over the process tree, sampled 20 times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import psutil
from nnunet_peer import peer_environment, peer_python
from numpy.typing import NDArray
from preset_quality import change_params, copy_project, describe_machine

from pipeline.cases import load_cases
from pipeline.splits import SplitRow, save_splits

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data"
WORKERS = 2
CT_SHAPE, CT_SPACING = (512, 512, 300), (0.8, 0.8, 1.5)


@dataclass(frozen=True)
class Measured:
    """What a command took: wall seconds, and the largest sum of RSS over its processes in bytes."""

    seconds: float
    peak: int


def measure(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Measured:
    """Runs a command to its end and watches its process tree."""
    began = time.monotonic()
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _tree_rss(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed, see {folder / 'log.txt'}")
    return Measured(time.monotonic() - began, peak)


def _tree_rss(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:  # one that has just ended
        pass
    return total


def make_ct_set(folder: Path, cases: int) -> None:
    """Writes CT of a body with an organ and tumours, in noise as a scanner's; spacings vary by 10 %."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    facts = {
        "name": "CT", "modality": {"0": "CT"}, "numTraining": cases, "tensorImageSize": "3D",
        "labels": {"0": "background", "1": "organ", "2": "tumour"},
    }  # fmt: skip
    names = [f"ct_{index:02d}" for index in range(cases)]
    pairs = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    (folder / "dataset.json").write_text(json.dumps({**facts, "training": pairs, "test": []}))
    for index, name in enumerate(names):
        generator = np.random.default_rng(index)
        label = _ct_label(generator)
        spacing = np.array(CT_SPACING) * generator.uniform(0.9, 1.1, 3)
        affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1])
        for array, where in ((_ct_image(label, generator), "imagesTr"), (label, "labelsTr")):
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / where / f"{name}.nii.gz")  # type: ignore[no-untyped-call, attr-defined]


def _ct_label(generator: np.random.Generator) -> NDArray[np.uint8]:
    x, y, z = np.ogrid[tuple(slice(n) for n in CT_SHAPE)]
    label = np.zeros(CT_SHAPE, np.uint8, order="F")
    organ = ((x - 180) / 110) ** 2 + ((y - 256) / 90) ** 2 + ((z - 150) / 70) ** 2 < 1
    label[organ] = 1
    for _ in range(4):
        a, b, c = generator.uniform(-1, 1, 3) * [60, 50, 35] + [180, 256, 150]
        radius = generator.uniform(5, 14)
        label[((x - a) ** 2 + (y - b) ** 2 + 4 * (z - c) ** 2 < radius**2) & organ] = 2
    return label


def _ct_image(label: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.int16]:
    x, y = np.ogrid[: CT_SHAPE[0], : CT_SHAPE[1]]
    body = np.where(((x - 256) / 220) ** 2 + ((y - 256) / 160) ** 2 < 1, 40.0, -1000.0)
    image = np.empty(CT_SHAPE, np.int16, order="F")
    for k in range(CT_SHAPE[2]):
        contrast = np.array([0, 60, 80])[label[:, :, k]]
        image[:, :, k] = (body + contrast + generator.normal(0, 20, CT_SHAPE[:2])).clip(-1024, 3071)
    return image


def run_segtrail(raw: Path, folder: Path, spacing: Sequence[float]) -> dict[str, Measured]:
    """Links the data into a copy of the project and measures its stages."""
    copy_project(folder)
    (folder / "data/raw").mkdir(exist_ok=True)
    (folder / "data/raw/measured").symlink_to(raw)
    settings = (
        "inspect.dataset=measured",
        "inspect.layout=msd",
        "plan.normalization=auto",
        "plan.dimensions=3",
    )
    change_params(folder, [*settings, f"plan.spacing_mm=[{', '.join(map(str, spacing))}]"])
    # As for nnU-Net, which keeps no record: without Prefect.
    environment = {**os.environ, "SEGTRAIL_WORKERS": str(WORKERS), "SEGTRAIL_NO_PREFECT": "1"}
    found = {"inspect": measure([sys.executable, "-m", "flows.inspect"], folder, environment)}
    cases = load_cases(folder / "data/inspected/cases.csv")
    (folder / "data/splits").mkdir()
    # nnU-Net too plans from all cases.
    rows = [SplitRow(case.case_id, case.patient_id, "train") for case in cases]
    save_splits(rows, folder / "data/splits/splits.csv")
    for stage in ("plan", "preprocess"):
        found[stage] = measure([sys.executable, "-m", f"flows.{stage}"], folder, environment)
    return found


def run_nnunet(
    raw: Path, folder: Path, spacing: Sequence[float], checks: Sequence[str] = ()
) -> dict[str, Measured]:
    """Fingerprint, plan and preprocessing by nnU-Net's own commands, on links to the same files.

    Args:
        raw: Data set in MSD layout.
        folder: For nnU-Net's folders.
        spacing: Target voxel size along X, Y, Z.
        checks: More options of `nnUNetv2_extract_fingerprint`.
    """
    environment = peer_environment(folder)
    commands, target = peer_python().parent, folder / "raw/Dataset001_Same"
    facts = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    for name in ("imagesTr", "labelsTr"):
        (target / name).mkdir(parents=True)
    for pair in facts["training"]:
        stem = Path(pair["image"]).name.removesuffix(".nii.gz")
        (target / f"imagesTr/{stem}_0000.nii.gz").symlink_to((raw / pair["image"]).resolve())
        (target / f"labelsTr/{stem}.nii.gz").symlink_to((raw / pair["label"]).resolve())
    described = {
        "channel_names": facts["modality"], "labels": {n: int(v) for v, n in facts["labels"].items()},
        "numTraining": len(facts["training"]), "file_ending": ".nii.gz",
    }  # fmt: skip
    (target / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    plans, processes = "nnUNetPlans_same", str(WORKERS)
    same_spacing = ["-overwrite_target_spacing", *map(str, reversed(spacing)), "-overwrite_plans_name", plans]
    steps = {
        "inspect": ["nnUNetv2_extract_fingerprint", "-d", "1", "-np", processes, *checks],
        "plan": ["nnUNetv2_plan_experiment", "-d", "1", *same_spacing],
        "preprocess": ["nnUNetv2_preprocess", "-d", "1", "-plans_name", plans, "-c", "3d_fullres", "-np", processes],
    }  # fmt: skip
    return {
        name: measure([str(commands / tool), *arguments], folder, environment)
        for name, (tool, *arguments) in steps.items()
    }


def compare(name: str, raw: Path, home: Path, spacing: Sequence[float]) -> None:
    """Prints the rows of one data set."""
    ours = run_segtrail(raw, home / f"segtrail_{name}", spacing)
    theirs = run_nnunet(raw, home / f"nnunet_{name}", spacing)
    for step, title in (("preprocess", "preprocess"), ("inspect", "inspect / fingerprint")):
        a, b = ours[step], theirs[step]
        print(
            f"| {name} | {title} | {a.seconds:.1f} | {b.seconds:.1f} | {b.seconds / a.seconds:.1f} | "
            f"{a.peak / 1e9:.2f} | {b.peak / 1e9:.2f} | {a.peak / b.peak:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hippocampus", type=Path, default=DATA / "Task04_Hippocampus")
    parser.add_argument("--ct", type=int, default=10, help="number of CT; 0 leaves them out")
    parser.add_argument("--keep", type=Path, help="folder of the CT and of all results; temporary by default")
    options = parser.parse_args()
    print(f"{describe_machine()}, {WORKERS} processes\n")
    home = options.keep or Path(tempfile.mkdtemp(prefix="segtrail-preprocess-"))
    home.mkdir(parents=True, exist_ok=True)
    print(
        "| set | step | Segtrail s | nnU-Net s | times faster | Segtrail GB | nnU-Net GB | share of memory |"
    )
    print("|---" * 8 + "|", flush=True)
    if options.hippocampus.is_dir():
        compare("hippocampus", options.hippocampus.resolve(), home, (1.0, 1.0, 1.0))
    if options.ct:
        raw = home / "Task99_CT"
        if not raw.exists():
            make_ct_set(raw, options.ct)
        compare("ct", raw.resolve(), home, CT_SPACING)
    if options.keep is None:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
