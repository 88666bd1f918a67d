"""A project of small real cases that grows: its stages up to `preprocess`, by plain call or as real processes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import flows.inspect
import flows.preprocess
from benchmarks.small_cases import SmallCases
from flows.plan import plan_flow
from flows.split import split_flow

PROJECT = Path(__file__).resolve().parents[2]
OUTPUTS = ("data/inspected", "data/splits", "data/plan", "data/preprocessed", ".segtrail")
LINES = {
    "inspect": re.compile(r"inspected (\d+), unchanged (\d+)"),
    "preprocess": re.compile(r"preprocessed (\d+) on \d grid\(s\), unchanged (\d+), removed (\d+)"),
}
# A stage as a process of its own, whose code never changes; what comes before it may patch it.
STAGE = """
import flows.{stage}
from flows.stage import show_progress

{patch}
show_progress()
flows.{stage}.code_digest = lambda stage: "code"
flows.{stage}.{stage}_flow.fn()
"""


class GrowingProject:
    """Small cases below `data/raw/small` of the working directory.

    Args:
        shared_data: Where the real ones are.
        count: Cases to begin with.
    """

    def __init__(self, shared_data: Path, count: int) -> None:
        text = Path("params.yaml").read_text(encoding="utf-8")
        text = text.replace("dataset: phantom ", "dataset: small ").replace(
            "memory: measure", "memory: estimate"
        )
        Path("params.yaml").write_text(text, encoding="utf-8")
        self.cases = SmallCases(shared_data / "Task04_Hippocampus", Path("data/raw/small"))
        for number in range(count):
            self.cases.write(number)

    def run(self, messages: list[str]) -> tuple[int, int, int]:
        """Runs the stages; cases computed by inspect and by preprocess, and cases removed from the store."""
        messages.clear()
        flows.inspect.inspect_flow.fn()
        split_flow.fn()
        plan_flow.fn()
        flows.preprocess.preprocess_flow.fn()
        return counted(messages, "inspect")[0], *counted(messages, "preprocess")[::2]

    def run_from_nothing(self, messages: list[str]) -> tuple[int, int, int]:
        for name in OUTPUTS:
            shutil.rmtree(name, ignore_errors=True)
        return self.run(messages)


def counted(messages: list[str], stage: str) -> tuple[int, ...]:
    """The numbers of the line in which a stage says what it did."""
    (found,) = [match for line in messages if (match := LINES[stage].search(line))]
    return tuple(map(int, found.groups()))


def folder_hash(*folders: str) -> str:
    """sha256 of names and bytes of all files."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(str(path).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def start_stage(stage: str, patch: str = "", **variables: str) -> subprocess.Popen[str]:
    """Starts a stage in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", STAGE.format(stage=stage, patch=patch)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **variables},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def end_stage(process: subprocess.Popen[str], timeout_s: float = 120) -> tuple[int, list[str]]:
    """Waits for a stage; its exit code and its lines."""
    text, _ = process.communicate(timeout=timeout_s)
    return process.returncode, text.splitlines()
