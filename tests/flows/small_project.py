"""A project of two quick stages, to try the commands on: DVC is real, the work is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
WAIT_S = 240.0

DVC_CONFIG = """\
[core]
    analytics = false
    check_update = false
    site_cache_dir = .segtrail/dvc
"""
DVC_YAML = """\
stages:
  first:
    cmd: python work.py first
    deps: [input]
    outs: [out/first]
  second:
    cmd: python work.py second
    deps: [out/first]
    outs: [out/second]
"""
# A stage that says where it runs, waits for permission, and fails when it is told to.
WORK = """\
import os, sys, time
from pathlib import Path

from flows.stage import LOGGER, run_stage
from pipeline.errors import SegtrailError


class Flow:
    name = "work"

    @staticmethod
    def fn(stage):
        Path("pid").write_text(str(os.getpid()))
        LOGGER.info("devices %s, python %s", os.environ["SEGTRAIL_DEVICES"], sys.executable)
        while Path("hold").exists():
            time.sleep(0.05)
        text = Path("input").read_text()
        if text == f"bad {stage}":
            raise SegtrailError("the input is bad", "input", "write another")
        Path("out", stage).parent.mkdir(exist_ok=True)
        Path("out", stage).write_text(text)


run_stage(Flow, *sys.argv[1:])
"""

# The same work as a Prefect flow, for tests that look at the record of it.
RECORDED_WORK = """\
import sys
from pathlib import Path

from prefect import flow

from flows.stage import run_stage


@flow(name="work")
def work(stage: str) -> None:
    Path("out").mkdir(exist_ok=True)
    Path("out", stage).write_text(Path("input").read_text())


run_stage(work, *sys.argv[1:])
"""


def _take_interrupts() -> None:
    """A shell that starts the tests in the background makes them, and all they start, deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class SmallProject:
    """A project folder and the processes a test has started in it."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def create(self, with_git: bool = True, work: str = WORK) -> None:
        (self.folder / ".dvc").mkdir()
        (self.folder / ".dvc" / "config").write_text(DVC_CONFIG)
        (self.folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
        (self.folder / "dvc.yaml").write_text(DVC_YAML)
        (self.folder / "work.py").write_text(work)
        (self.folder / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
        self.write_input("one")
        if with_git:
            subprocess.run(["git", "init", "--quiet"], cwd=self.folder, check=True)

    def write_input(self, text: str) -> None:
        (self.folder / "input").write_text(text)

    def environment(self) -> dict[str, str]:
        """Variables of a user who has set nothing, without Prefect (its server takes 5 s to start)."""
        kept = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
        return kept | {"PYTHONPATH": str(PROJECT), "SEGTRAIL_NO_PREFECT": "1", "GIT_CEILING_DIRECTORIES": "/"}

    def start(self, arguments: Sequence[str], **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=self.folder, env=self.environment() | more, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=_take_interrupts,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        process = self.start(arguments, **more)
        out, error = process.communicate(timeout=WAIT_S)
        return subprocess.CompletedProcess(arguments, process.returncode, out, error)

    def hold(self) -> None:
        """Makes stages wait."""
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink(missing_ok=True)

    def stage_pid(self) -> int:
        """Waits until a stage runs; its process."""
        wait_until(lambda: bool(self.read("pid")))
        return int(self.read("pid"))

    def read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.is_file() else ""

    def close(self) -> None:
        self.release()
        end_all(self.started)


def end_all(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Asks each that still runs to end, and waits for it."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)


def wait_until(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
