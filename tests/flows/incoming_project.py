"""A project with three real hippocampus cases under DVC, and an incoming folder beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from project_copy import make_bare_project

from flows.data import add_data
from flows.incoming import take_in
from flows.intake import Intake, Left

CHECKOUT = Path(__file__).resolve().parents[2]
TARGET = Path("data/raw/hippocampus")
RECORD = Path("data/raw/hippocampus.dvc")
OLD = ("001", "003", "004")
LABELS = {"0": "background", "1": "Anterior", "2": "Posterior"}
KILLED = """
import os, signal, sys
from pathlib import Path
import flows.{module} as module
from flows.incoming import take_in

original, left = module.{name}, {calls}
def die(*arguments, **named):
    global left
    left -= 1
    if not left and {before}:
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **named)
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
module.{name} = die
take_in("hippocampus", Path(sys.argv[1]), 0.0)
"""


def make_project(folder: Path, shared_data: Path) -> None:
    """Git, DVC, shipped params and three cases in the layout msd, by a list in `dataset.json`."""
    folder.mkdir()
    make_bare_project(folder)
    raw = folder.parent / "raw"
    put_cases(shared_data, raw, OLD)
    add_data(raw, "hippocampus", folder)


def put_cases(shared_data: Path, folder: Path, numbers: Sequence[str], facts: bool = True) -> None:
    """Writes real cases as a lot, or a data set."""
    for number in numbers:
        for part in ("imagesTr", "labelsTr"):
            copy_file(shared_data, folder, part, number)
    if facts:
        name = "hippocampus_{}.nii.gz"
        training = [
            {"image": f"./imagesTr/{name.format(n)}", "label": f"./labelsTr/{name.format(n)}"}
            for n in numbers
        ]
        told = {"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": LABELS, "training": training}
        (folder / "dataset.json").write_text(json.dumps(told), encoding="utf-8")


def copy_file(shared_data: Path, folder: Path, part: str, number: str, name: str = "") -> Path:
    """Copies one real file; its path."""
    path = folder / part / (name or f"hippocampus_{number}.nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(shared_data / "Task04_Hippocampus" / part / f"hippocampus_{number}.nii.gz", path)
    return path


def list_tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def numbers_in(target: Path = TARGET) -> tuple[list[str], list[str]]:
    """Cases by the files of a data set, and by its list; each with an image and a label."""
    images, labels = (
        sorted(p.name[12:-7] for p in (target / part).iterdir()) for part in ("imagesTr", "labelsTr")
    )
    assert images == labels
    training = json.loads((target / "dataset.json").read_text(encoding="utf-8"))["training"]
    return images, sorted(Path(entry["image"]).name[12:-7] for entry in training)


def take(incoming: Path, settle_s: float = 0.0) -> Intake:
    """Takes in what lies in the folder."""
    return take_in("hippocampus", incoming, settle_s)


def names(left: list[Left]) -> list[str]:
    """Names of lots that were not taken."""
    return [one.name for one in left]


def in_step() -> bool:
    """Whether files and record of the data set agree, as DVC says."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json", str(RECORD)],
        capture_output=True,
        text=True,
        check=True,
    )
    return bool(json.loads(done.stdout) == {})


def take_in_killed(incoming: Path, module: str, name: str, calls: int = 1, before: bool = True) -> None:
    """Runs an intake in a process of its own that is killed in a certain call of a function."""
    code = KILLED.format(module=module, name=name, calls=calls, before=before)
    done = subprocess.run(
        [sys.executable, "-c", code, str(incoming)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
