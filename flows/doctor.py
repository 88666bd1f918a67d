"""`segtrail doctor`: what is wrong here, and how to mend it."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from flows.archive import list_names
from flows.audit import AUDIT, check_chain
from flows.decision import is_audited, load_decision
from flows.locks import find_holder
from flows.repro import LOCK
from pipeline.config import load_params
from pipeline.errors import SegtrailError

OK, WARN, FAIL = "ok", "warn", "fail"
LOCK_FILE = Path("requirements.lock")
LITTLE_DISK_GB, NO_DISK_GB = 10.0, 1.0
LITTLE_MEMORY_GB = 4.0
SHOWN = 5


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        status: "ok", "warn" or "fail"; only "fail" makes the exit code 1.
        name: What was looked at.
        found: What was seen.
        fix: A command or an action; "" when nothing is to be done.
    """

    status: str
    name: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f"\n{' ' * 20}fix: {self.fix}" if self.fix else ""
        return f"{self.status:<5} {self.name:<13} {self.found}{fix}"


def run_doctor(fix: bool = False) -> int:
    """Prints one line a check.

    Args:
        fix: End orphaned processes, and close runs that nobody works on any more.

    Returns:
        Exit code: 1 when a check failed, else 0.
    """
    from flows import doctor_prefect, doctor_state
    from flows.doctor_schedule import check_nights

    checks: list[Callable[[], Iterator[Check]]] = [
        *(check_python, check_packages, check_operators, check_machine, check_params, check_repository),
        lambda: doctor_state.check_locks(fix),
        *(doctor_prefect.check_prefect, doctor_state.check_mlflow, check_audit, check_nights),
        lambda: doctor_state.check_orphans(fix),
        lambda: doctor_prefect.check_stale_flow_runs(fix),
        lambda: doctor_state.check_stale_training_runs(fix),
    ]
    counts = {OK: 0, WARN: 0, FAIL: 0}
    for check in checks:
        for line in check():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            counts[line.status] += 1
    sys.stdout.write(f"\n{counts[OK]} ok, {counts[WARN]} warnings, {counts[FAIL]} failures\n")
    return 1 if counts[FAIL] else 0


def check_python() -> Iterator[Check]:
    """The interpreter, and whether it is the project's."""
    text = f"{platform.python_version()}, {sys.executable}"
    if not Path(sys.prefix).resolve().is_relative_to(Path.cwd().resolve()):
        yield Check(
            WARN, "python", f"{text}: not the project's .venv", "make setup; .venv/bin/segtrail doctor"
        )
    else:
        yield Check(OK, "python", text)


def check_packages(lock: Path = LOCK_FILE) -> Iterator[Check]:
    """Installed versions against the lock file: Prefect breaks silently with others."""
    from packaging.requirements import Requirement

    if not lock.is_file():
        yield Check(FAIL, "packages", f"{lock} is missing", f"git checkout {lock}")
        return
    wrong, right = [], 0
    for line in lock.read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing (locked{wanted.specifier})")
            continue
        if wanted.specifier.contains(found, prereleases=True):
            right += 1
        else:
            wrong.append(f"{wanted.name} {found} (locked{wanted.specifier})")
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        yield Check(FAIL, "packages", f"{', '.join(wrong[:SHOWN])}{more}", "rm -f .venv/.ready && make setup")
    else:
        yield Check(OK, "packages", f"{right} as locked")


def check_operators() -> Iterator[Check]:
    """torchvision's compiled operators: a wrong pair of wheels imports well and fails in the first nms."""
    import torch
    import torchvision

    text = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    if torchvision.extension._has_ops():
        yield Check(OK, "operators", text)
    else:
        yield Check(FAIL, "operators", f"{text}: no compiled operators", "rm -f .venv/.ready && make setup")


def check_machine() -> Iterator[Check]:
    """GPU, cores, memory and disk."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Check(OK, "devices", f"{len(names)} GPU ({', '.join(sorted(set(names)))}), {cores} CPU cores")
    elif shutil.which("nvidia-smi"):
        found = f"an NVIDIA driver is here, but torch {torch.__version__} sees no GPU; {cores} CPU cores"
        yield Check(WARN, "devices", found, "nvidia-smi; the driver must support the CUDA of this torch")
    else:
        yield Check(OK, "devices", f"no GPU, {cores} CPU cores")
    memory = psutil.virtual_memory()
    text = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available"
    little = memory.available / 1e9 < LITTLE_MEMORY_GB
    yield Check(WARN if little else OK, "memory", text, "end other programs" if little else "")
    free = shutil.disk_usage(".").free / 1e9
    status = FAIL if free < NO_DISK_GB else WARN if free < LITTLE_DISK_GB else OK
    yield Check(status, "disk", f"{free:.1f} GB free", "" if status == OK else "dvc gc --workspace")


def check_params() -> Iterator[Check]:
    """`params.yaml`."""
    try:
        params = load_params()
    except SegtrailError as error:
        yield Check(FAIL, "params", error.what, error.fix)
        return
    yield Check(OK, "params", f"data set {params.inspect.dataset}, models {', '.join(params.models)}")


def check_repository() -> Iterator[Check]:
    """Git and DVC."""
    commit, changes = _output("git", "rev-parse", "--short", "HEAD"), _output("git", "status", "--porcelain")
    if commit:
        changed = len((changes or "").splitlines())
        yield Check(OK, "git", f"at {commit}" + (f", {changed} files changed or new" if changed else ""))
    else:
        yield Check(
            WARN, "git", "no repository or no commit: runs carry no commit, `dvc exp` is not available",
            "git init && git add . && git commit -m start",
        )  # fmt: skip
    if not Path(".dvc/config").is_file():
        yield Check(FAIL, "dvc", ".dvc/config is missing", "git checkout .dvc; or dvc init")
        return
    if holder := find_holder(LOCK):  # DVC is busy then: its status would fail
        doing = "has ended, but what it started is still" if holder.has_ended() else "is"
        yield Check(OK, "dvc", f"not looked at: {holder.command} {doing} running (pid {holder.pid})")
        return
    status = _output(sys.executable, "-m", "dvc", "status", "--json")
    try:
        stages = sorted(json.loads(status or ""))
    except ValueError:
        yield Check(WARN, "dvc", "dvc status failed", "dvc status")
        return
    yield Check(OK, "dvc", f"dvc repro would execute: {', '.join(stages) or 'nothing'}")


def check_audit() -> Iterator[Check]:
    """The audit log: each line against the hash in the next, and the champions against its last lines."""
    report = check_chain()
    for problem in report.problems:
        fix = f"keep {AUDIT} for whoever asks; a new log starts once it and {AUDIT.stem}.head are moved away"
        yield Check(FAIL, "audit", problem, fix)
    for remark in report.remarks:
        yield Check(OK, "audit", remark)
    unaudited = []
    try:
        unaudited = [
            name for name in list_names() if (found := load_decision(name)) and not is_audited(found)
        ]
    except SegtrailError as error:
        yield Check(FAIL, "audit", f"{error.where}: {error.what}", error.fix)
    if unaudited:
        text = f"the last decision about {', '.join(unaudited)} is not in the log"
        yield Check(WARN, "audit", text, "dvc repro register adds it")
    if not report.problems:
        older = f", {report.unchained} of them older than the chain" if report.unchained else ""
        last = f"; the last one is {report.head[:12]}" if report.entries else ""
        yield Check(
            OK, "audit", f"{report.entries} entries{older}, none cut, changed, removed or moved{last}"
        )


def _output(*command: str) -> str | None:
    """What a command prints, None when it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        return None
    return re.sub(r"\x1b\[[0-9;]*m", "", result.stdout).rstrip()
