"""Dice after so many minutes from raw data, Segtrail against nnU-Net v2, on the same cases of MSD hippocampus.

    .venv/bin/python benchmarks/time_to_dice.py RAW [--minutes 2 5 10 20 45] [--only segtrail|nnunet]

RAW is `Task04_Hippocampus`. Minutes count from the raw files to the saved model: for Segtrail the stages inspect,
split, plan, preprocess and train, their orchestration included; for nnU-Net fingerprint, planning, preprocessing
and training, its own recipe with a schedule that fits the same minutes. Installing is excluded; so is predicting
the test cases, which both do with their defaults. Both see the same training cases (Segtrail sets some of
them aside for validation) and both are scored by the same function on the same test cases.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from nnunet_peer import VERSION, peer_environment, peer_python
from preset_quality import change_params, copy_project, describe_machine, segtrail

from pipeline.io.images import load_label_map
from pipeline.metrics import count_voxels, dice
from pipeline.splits import load_splits

DATASET = "Dataset904_Hippocampus"
CLASSES = (1, 2)
# With this salt the split by hash has 170 training, 10 validation and 40 test cases.
SPLIT = ("split.salt=time-to-dice-18", "split.test_fraction=0.1818", "split.validation_fraction=0.05")
# Seconds that the stage `train` needs around its training: DVC, imports, closing validation, the bundle.
AROUND_TRAINING_S = 40


def prepare_segtrail(raw: Path, project: Path, changes: Sequence[str]) -> None:
    """A project whose raw data and params are set."""
    copy_project(project)
    segtrail(project, "data", "add", str(raw), "--preset", "hippocampus")
    change_params(project, [*SPLIT, *changes])


def run_segtrail(minutes: float, project: Path) -> float:
    """Trains within the minutes and predicts the test cases; returns the minutes until the model was saved."""
    started = time.monotonic()
    segtrail(project, "repro", "preprocess")
    left = minutes - (time.monotonic() - started + AROUND_TRAINING_S) / 60
    if left < 0.05:
        raise SystemExit(f"{minutes} minutes are over before the training begins")
    change_params(project, [f"train.unet.max_minutes={left:.4f}"])
    segtrail(project, "repro", "train@unet")
    taken = (time.monotonic() - started) / 60
    segtrail(project, "repro", "predict@unet")
    return taken


def run_nnunet(raw: Path, minutes: float, sides: Mapping[str, str], folder: Path) -> Path:
    """Trains nnU-Net within the minutes; returns the folder of its predictions."""
    peer_python()  # not part of the minutes
    environment = peer_environment(folder)
    dataset = folder / "raw" / DATASET
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (dataset / part).mkdir(parents=True)
    for case_id, side in sides.items():
        source = raw / "imagesTr" / f"{case_id}.nii.gz"
        images = dataset / ("imagesTs" if side == "test" else "imagesTr")
        shutil.copy(source, images / f"{case_id}_0000.nii.gz")
        if side != "test":
            shutil.copy(raw / "labelsTr" / source.name, dataset / "labelsTr")
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len(list((dataset / "labelsTr").iterdir())),
        "file_ending": ".nii.gz",
    }
    (dataset / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    script = Path(__file__).with_name("nnunet_training.py").resolve()
    output = (folder / "predictions").absolute()
    number = DATASET[7:10]
    command = [str(peer_python()), str(script), number, str(time.time()), str(minutes)]
    command += [str((dataset / "imagesTs").absolute()), str(output)]
    subprocess.run(command, env=environment, check=True)
    return output


def score(raw: Path, predicted: Mapping[str, Path]) -> tuple[float, list[float]]:
    """Mean Dice over cases of each class, and their mean."""
    rows = []
    for case_id, path in predicted.items():
        reference = load_label_map(raw / "labelsTr" / f"{case_id}.nii.gz").array
        found = load_label_map(path).array
        rows.append([dice(count_voxels(reference == c, found == c)) for c in CLASSES])
    classes = np.nanmean(rows, axis=0)
    return float(classes.mean()), classes.tolist()


def compare(raw: Path, minutes: float, only: str, changes: Sequence[str], scratch: Path) -> list[str]:
    """Cells of one row of the table."""
    project = scratch / f"segtrail-{minutes:g}"
    prepare_segtrail(raw, project, changes)
    ours, theirs = ["", "", ""], ["", ""]
    if only == "nnunet":
        segtrail(project, "repro", "split")
    else:
        taken = run_segtrail(minutes, project)
        found = {c: project / "data/predictions/unet" / f"{c}_labels.nii.gz" for c in _test_cases(project)}
        ours = [f"{taken:.1f}", *_shown(*score(raw, found))]
        print(f"segtrail, {minutes:g} min: saved after, Dice, classes: {' | '.join(ours)}", flush=True)
    if only != "segtrail":
        sides = load_splits(project / "data/splits/splits.csv")
        folder = run_nnunet(raw, minutes, sides, scratch / f"nnunet-{minutes:g}")
        theirs = [*_shown(*score(raw, {c: folder / f"{c}.nii.gz" for c in _test_cases(project)}))]
        print(f"nnU-Net, {minutes:g} min: Dice, classes: {' | '.join(theirs)}", flush=True)
    return [f"{minutes:g}", *ours, *theirs]


def _test_cases(project: Path) -> list[str]:
    return [c for c, side in load_splits(project / "data/splits/splits.csv").items() if side == "test"]


def _shown(mean: float, classes: Sequence[float]) -> tuple[str, str]:
    return f"{mean:.4f}", ", ".join(f"{value:.3f}" for value in classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 5, 10, 20, 45])
    parser.add_argument("--only", choices=["both", "segtrail", "nnunet"], default="both")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a line of params.yaml"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="time-to-dice-") as scratch:
        rows = [
            compare(options.raw.resolve(), minutes, options.only, options.set, Path(scratch))
            for minutes in options.minutes
        ]
    titles = [
        "minutes",
        "model saved",
        "segtrail",
        "anterior, posterior",
        f"nnU-Net {VERSION}",
        "anterior, posterior",
    ]
    print("\nMean Dice of 40 test cases after so many minutes from raw data on")
    print("| " + " | ".join(titles) + " |")
    print("|---" * len(titles) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(describe_machine())


if __name__ == "__main__":
    main()
