"""Whether a night has anything to do: what DVC would execute, and whether MLflow agrees with the files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flows.locks import LockBusyError, find_holder, hold
from flows.repro import LOCK
from pipeline.errors import SegtrailError

ALWAYS = "always changed"  # what DVC says of `register` each time
DATA = "data/"
COMMAND = "changed command"
BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")
SHOWN = 4
NEXT = "segtrail night, once it has ended"


class OtherRunError(SegtrailError):
    """Somebody else's `segtrail repro` or DVC command is at work: the night leaves the project to it."""


@contextmanager
def hold_project(command: str) -> Iterator[None]:
    """Keeps every `segtrail repro` and `segtrail data` of somebody else out while the block changes the raw data.

    Raises:
        OtherRunError: One of them is at work.
    """
    try:
        with hold(LOCK, command, wait=False):
            yield
    except LockBusyError as error:
        raise OtherRunError(f"another run is at work: {error.what}", error.where, NEXT) from error


@dataclass(frozen=True)
class Changes:
    """What DVC calls changed.

    Attributes:
        stages: Names of the stages and data sets, those that only always run left out.
        data: Files below `data/`, which the night before did not know.
        rest: Code, params and commands; "lost output PATH" where nothing but an output is missing.
    """

    stages: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stages)

    def __str__(self) -> str:
        if not self:
            return "data, code and params are those of the last run"
        return f"changed: {shorten([*self.rest, *self.data])}; to be run: {shorten(self.stages)}"


def find_changes() -> Changes:
    """Asks DVC, which compares hashes of data, code and params with `dvc.lock`; costs about a second.

    A data set that was changed without `dvc add` counts: `dvc repro` takes it up as it is.

    Raises:
        OtherRunError: DVC is at work for somebody else.
        SegtrailError: DVC cannot say.
    """
    if holder := find_holder(LOCK):
        raise OtherRunError(f"another run is at work: {holder.describe()}", str(LOCK), NEXT)
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    said = done.stderr.strip() or done.stdout.strip()
    if done.returncode and BUSY.search(said):
        raise OtherRunError(f"another DVC command is at work: {said}", ".dvc", NEXT)
    try:
        status = json.loads(done.stdout)
    except ValueError as error:
        raise SegtrailError(f"dvc status failed: {said[-600:]}", "dvc.yaml", "mend what DVC says") from error
    return read_status(status)


def read_status(status: Mapping[str, list[Any]]) -> Changes:
    """What `dvc status --json` says.

    Args:
        status: Stage or `.dvc` file to what changed in it.
    """
    kept = {name: found for name, entries in status.items() if (found := [e for e in entries if e != ALWAYS])}
    data: dict[str, None] = {}
    rest: dict[str, None] = {}
    for name, entries in kept.items():
        pairs = list(_dependencies(entries))
        for path, what in pairs:
            (data if path.startswith(DATA) else rest)[_describe(path, what)] = None
        if COMMAND in entries:
            rest[f"command of {name}"] = None
        if not pairs and COMMAND not in entries and not name.endswith(".dvc"):
            rest |= dict.fromkeys(f"lost output {path}" for path, _ in _dependencies(entries, "changed outs"))
    return Changes(tuple(kept), tuple(data), tuple(rest))


def _dependencies(entries: list[Any], key: str = "changed deps") -> Iterator[tuple[str, Any]]:
    for entry in entries:
        if isinstance(entry, dict):
            yield from entry.get(key, {}).items()


def _describe(path: str, what: Any) -> str:
    """Such as "train.unet.max_epochs" or "flows/train.py"."""
    return ", ".join(sorted(what)) if isinstance(what, dict) else path


def shorten(names: tuple[str, ...] | list[str]) -> str:
    """A list for a sentence."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
