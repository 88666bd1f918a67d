"""DVC's file of who reads and writes what, when somebody who stands in it was killed."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import psutil

from flows.locks import is_alive

RWLOCK = Path(".dvc/tmp/rwlock")
CUT = f"{RWLOCK} was cut short when DVC was killed"
DEAD = f"{RWLOCK} names a DVC command that was killed as one at work"


def find_trouble(path: Path = RWLOCK) -> str:
    """Why DVC commands would stop at the file although nobody is at work; "" when they would not.

    A kill in the middle of a write leaves no JSON. A killed command stays in the file; DVC passes over it when its
    PID does not exist, not when it is a zombie or, after a restart of the machine, another process.
    """
    try:
        text = path.read_bytes()
        written = path.stat().st_mtime
    except FileNotFoundError:
        return ""
    try:
        found = json.loads(text)
    except ValueError:
        return CUT
    return DEAD if any(not _is_owner(entry, written) for entry in _entries(found)) else ""


def mend(path: Path = RWLOCK) -> str:
    """Takes the dead out of the file, or the damaged file away: DVC makes a new one.

    Nothing is lost: who stands in a damaged file as the owner of something has been killed, or writes itself in anew.
    A DVC command that is writing it at this moment holds DVC's own lock of the file and is waited for.

    Returns:
        What the trouble was; "" when there was none.
    """
    if not find_trouble(path):
        return ""
    with path.with_name(f"{path.name}.lock").open("a+b") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        trouble = find_trouble(path)
        if trouble == CUT:
            path.unlink()
        elif trouble:
            _drop_dead(path)
        return trouble


def _drop_dead(path: Path) -> None:
    written = path.stat().st_mtime
    found = json.loads(path.read_bytes())
    readers = {
        name: kept
        for name, entries in found.get("read", {}).items()
        if (kept := [entry for entry in entries if _is_owner(entry, written)])
    }
    writers = {name: entry for name, entry in found.get("write", {}).items() if _is_owner(entry, written)}
    path.write_text(json.dumps({"write": writers, "read": readers}), encoding="utf-8")


def _entries(found: dict[str, Any]) -> list[dict[str, Any]]:
    readers = [entry for entries in found.get("read", {}).values() for entry in entries]
    return [*readers, *(entry for entry in found.get("write", {}).values() if entry)]


def _is_owner(entry: dict[str, Any], written: float) -> bool:
    """Whether the process that entered itself lives; one that began after the last write is another."""
    pid = int(entry["pid"])
    if not is_alive(pid):
        return False
    try:
        return psutil.Process(pid).create_time() <= written + 1  # clock ticks
    except psutil.NoSuchProcess:
        return False
