"""A project that is left to itself for a month: real hippocampi, real servers, real kills; only the clock is faster."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from incoming_project import copy_file, put_cases
from prefect_home import make_home
from project_copy import change_params, copy_project, load_json, run
from webhook_server import WebhookServer

from pipeline.config import load_params
from pipeline.splits import TRAIN, choose_side

Record = dict[str, Any]
DATASET = NAME = "hippocampus"
BRANCH = "nightly"
WAIT_S = 1800.0  # of a machine that many tests share
UNCHANGED = ("flip", "rotation", "scale", "noise", "brightness", "contrast", "gamma", "inverted_gamma")
SMALL: dict[tuple[str, ...], Any] = {
    ("split", "test_fraction"): 0.3,
    ("plan", "patch_size"): [32, 32, 32],
    ("plan", "batch_size"): 2,
    ("plan", "memory"): "estimate",
    ("plan", "base_features"): 8,
    ("plan", "first_features"): 4,
    ("train", "unet", "start"): "champion",
    ("train", "unet", "max_epochs"): 20,
    ("train", "unet", "max_minutes"): 60.0,
    ("train", "unet", "steps_per_epoch"): 10,
    ("train", "unet", "learning_rate"): 0.005,
    ("train", "unet", "validate_every_epochs"): 20,
    ("train", "unet", "checkpoint_every_steps"): 10,
    **{
        ("train", "unet", "augmentation", name): 0.0 for name in UNCHANGED
    },  # what is seen as it is, is learned soon
    ("predict", "overlap"): 0.0,
    ("predict", "mirror"): "none",
    ("register", "min_cases"): 5,
    ("nightly", "cron"): "0 2 29 2 *",  # never meanwhile: the nights are given to Prefect one by one
    ("nightly", "settle_seconds"): 0.0,
    ("nightly", "push"): True,
    ("nightly", "branch"): BRANCH,
}
GO_ON: dict[tuple[str, ...], Any] = {
    ("train", "unet", "max_epochs"): 4,
    ("train", "unet", "validate_every_epochs"): 4,
    ("train", "unet", "learning_rate"): 0.003,
}


@dataclass
class MonthProject:
    """The project and what lies around it.

    Attributes:
        folder: The project.
        shared: Folder of the sample data.
        hook: Receives the messages.
        waiting: Numbers of the cases that have not arrived yet.
    """

    folder: Path
    shared: Path
    hook: WebhookServer
    waiting: list[str]

    @property
    def incoming(self) -> Path:
        return self.folder.parent / "incoming"

    @property
    def remote(self) -> Path:
        return self.folder.parent / "remote"

    @property
    def raw(self) -> Path:
        return self.folder / "data" / "raw" / DATASET

    def create(self, first: int) -> None:
        """A fresh clone with the first cases, a remote and an incoming folder."""
        copy_project(self.folder)
        make_home(self.folder / ".segtrail" / "prefect")
        self.incoming.mkdir()
        self.remote.mkdir()
        raw = self.folder.parent / "raw"
        put_cases(self.shared, raw, self.take(first))
        self.segtrail("data", "add", str(raw), "--preset", "hippocampus")
        change_params(self.folder, SMALL | {("nightly", "incoming"): str(self.incoming)})
        self.command("dvc", "remote", "add", "-d", "backup", str(self.remote))
        self.git("add", "-A")
        self.git("-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "-qm", "Hippocampus")

    def set_params(self, changes: dict[tuple[str, ...], Any]) -> None:
        """Changes params and commits them, if they are not so already."""
        change_params(self.folder, changes)
        if not self.git("status", "--porcelain", "params.yaml"):
            return
        self.git(
            "-c",
            "user.name=Test",
            "-c",
            "user.email=test@example.org",
            "commit",
            "-qm",
            "Params",
            "params.yaml",
        )

    def take(self, count: int) -> list[str]:
        """Numbers of the next cases that arrive."""
        taken, self.waiting[:count] = self.waiting[:count], []
        assert len(taken) == count, "there are no cases left"
        return taken

    def put_training_cases_first(self) -> None:
        """Lets those arrive next that are trained on."""
        shares = load_params(self.folder / "params.yaml").split
        self.waiting.sort(key=lambda number: choose_side(f"{DATASET}_{number}", shares) != TRAIN)

    def deliver(self, name: str, count: int) -> list[str]:
        """A lot of real cases in the incoming folder."""
        numbers = self.take(count)
        put_cases(self.shared, self.incoming / name, numbers, facts=False)
        return numbers

    def copy_part(self, folder: Path, part: str, number: str) -> Path:
        return copy_file(self.shared, folder, part, number)

    def list_cases(self) -> list[str]:
        """Ids of all cases of the data set."""
        return sorted(path.name.removesuffix(".nii.gz") for path in (self.raw / "labelsTr").iterdir())

    def champion(self) -> str:
        """sha256 of the champion, by the files."""
        decision = load_json(self.folder / f"data/registry/versions/{NAME}/decision.json")
        return str(decision["champion_after"])

    def require_pushed(self) -> None:
        """Asks DVC whether the remote has all that the last state needs."""
        said = self.command("dvc", "status", "-c")
        assert "in sync" in said, said

    # The disk, where one of its own could be mounted

    @property
    def has_disk(self) -> bool:
        return self.folder.parent.is_mount()

    def resize(self, size: str = "3g") -> None:
        """Gives the disk so much room."""
        where = str(self.folder.parent)
        subprocess.run(["mount", "-o", f"remount,size={size}", where], check=True)

    def resize_to_full(self) -> None:
        """Leaves no room."""
        used = shutil.disk_usage(self.folder.parent).used
        self.resize(f"{used // 1024 + 64}k")

    def command(self, module: str, *arguments: str) -> str:
        done = run(self.folder, module, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def segtrail(self, *arguments: str) -> str:
        return self.command("flows.cli", *arguments)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        """All that work in the project's folder."""
        here = str(self.folder)
        return [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == here and p.pid != os.getpid()]


def choose_cases(shared: Path) -> list[str]:
    """Numbers of all labelled cases, in an order that is by chance and always the same."""
    folder = shared / "Task04_Hippocampus" / "labelsTr"
    names = sorted(path.name.removesuffix(".nii.gz").partition("_")[2] for path in folder.glob("*.nii.gz"))
    random.Random(7).shuffle(names)
    return names


def wait_until(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.05)


def clear(folder: Path, names: Sequence[str]) -> None:
    """`rm -rf`."""
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def load_hook(hook: WebhookServer) -> list[Record]:
    """The nights that were told of, one entry a message."""
    return [body["night"] for _, _, body in hook.requests]
