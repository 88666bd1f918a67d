"""A project whose nights take seconds: DVC, the stage `register`, MLflow and the record are real, the training is not.

Data decide what a training gives: `data/raw/phantom/lot.json` holds its weights and its Dice on each test case.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from small_project import end_all

PROJECT = Path(__file__).resolve().parents[2]
GOOD = (0.80, 0.81, 0.82, 0.83, 0.84, 0.85)
BETTER = (0.90, 0.91, 0.92, 0.93, 0.94, 0.95)
WORSE = (0.70, 0.71, 0.72, 0.73, 0.74, 0.75)
RAW = Path("data/raw/phantom")
DVC_CONFIG = """\
[core]
    analytics = false
    check_update = false
    site_cache_dir = .segtrail/dvc
[cache]
    type = "reflink,hardlink,copy"
"""
DVC_YAML = """\
stages:
  inspect:
    cmd: python work.py inspect
    deps: [data/raw/phantom]
    params: [inspect]
    outs: [data/inspected, data/plan, data/splits]
  train:
    cmd: python work.py train
    deps: [data/inspected]
    params: [train.unet]
    outs: [data/models, data/metrics]
  register:
    cmd: python -m flows.register
    deps: [data/inspected, data/models, data/metrics]
    params: [register]
    always_changed: true
    outs:
      - data/registry:
          persist: true
"""
# The stages before `register`: they write what is made up, wait for permission, and fail when the lot is corrupt.
WORK = """\
import json, os, sys, time
from pathlib import Path

import model_project as made
from flows.model_files import save_json
from flows.stage import LOGGER, run_stage
from pipeline.errors import SegtrailError

CHECKPOINT = Path(".segtrail/checkpoints/unet/epoch")


def inspect(lot):
    if lot.get("corrupt"):
        raise SegtrailError("case_9 holds other voxels than its header says", "case_9.nii.gz", "copy it again")
    made.write_json(made.PLAN, "data/plan/plan.json")
    facts = {"name": "phantom", "channels": ["CT"], "labels": {"background": 0, "nodule": 1, "vessel": 2}}
    made.write_json({**facts, "description": "", "licence": ""}, "data/inspected/dataset.json")
    made.write_cases([*made.TEST_CASES, *lot.get("cases", [])])
    save_json(lot, Path("data/inspected/lot.json"))


def train(lot):
    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    done = int(CHECKPOINT.read_text()) if CHECKPOINT.is_file() else 0
    for epoch in range(done + 1, 4):
        LOGGER.info("epoch %d", epoch)
        CHECKPOINT.write_text(str(epoch))
        while Path("hold").exists():
            time.sleep(0.05)
    CHECKPOINT.unlink()
    made.train("unet", lot["weights"], minute=lot["minute"])
    made.evaluate("unet", lot["dice"])


class Flow:
    name = sys.argv[1]

    @staticmethod
    def fn():
        Path("executed").open("a").write(f"{Flow.name}\\n")
        Path("pid").write_text(str(os.getpid()))
        place = "data/raw/phantom" if Flow.name == "inspect" else "data/inspected"
        globals()[Flow.name](json.loads(Path(place, "lot.json").read_text()))


run_stage(Flow)
"""


@dataclass
class NightProject:
    """The project folder, which is the working directory, and the processes that a test has started in it."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def create(self) -> None:
        (self.folder / ".dvc").mkdir()
        (self.folder / ".dvc" / "config").write_text(DVC_CONFIG)
        (self.folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
        (self.folder / ".gitignore").write_text(
            ".segtrail/\ndata/*\n!data/raw\nexecuted\npid\nhold\n__pycache__/\n"
        )
        (self.folder / "dvc.yaml").write_text(DVC_YAML)
        (self.folder / "work.py").write_text(WORK)
        text = (PROJECT / "params.yaml").read_text(encoding="utf-8")
        (self.folder / "params.yaml").write_text(text.replace("models: [unet, maskrcnn]", "models: [unet]"))
        for command in (
            ["git", "init", "-q", "-b", "main"],
            ["git", "add", "-A"],
            ["git", "commit", "-qm", "Start"],
        ):
            subprocess.run(command, cwd=self.folder, check=True, env=os.environ | IDENTITY)

    def write_lot(self, weights: str, dice: Sequence[float], minute: int, **more: Any) -> None:
        """New data, as a person leaves them: changed, and not under DVC yet."""
        (self.folder / RAW).mkdir(parents=True, exist_ok=True)
        path = self.folder / RAW / "lot.json"
        path.unlink(missing_ok=True)  # DVC may have linked it to its cache
        path.write_text(json.dumps({"weights": weights, "dice": dice, "minute": minute, **more}))

    def add(self) -> None:
        subprocess.run([sys.executable, "-m", "dvc", "add", "-q", str(RAW)], cwd=self.folder, check=True)

    def executed(self) -> list[str]:
        """Stages before `register` that ran since the last call."""
        path = self.folder / "executed"
        names = path.read_text().split() if path.is_file() else []
        path.unlink(missing_ok=True)
        return names

    def start(self, code: str = "") -> subprocess.Popen[str]:
        """A night in a process of its own, or code that runs one."""
        words = ["-c", code] if code else ["-m", "flows.cli", "night"]
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.started.append(process)
        return process

    def hold(self) -> None:
        """Makes trainings wait after an epoch."""
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink(missing_ok=True)

    def close(self) -> None:
        self.release()
        end_all(self.started)


IDENTITY = {
    f"GIT_{who}_{key}": value
    for who in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "Test"), ("EMAIL", "test@example.org"))
}


def copy(template: Path, project: Path) -> None:
    """A project to go on from, as each night takes seconds."""
    shutil.copytree(template, project, symlinks=True, dirs_exist_ok=True)
