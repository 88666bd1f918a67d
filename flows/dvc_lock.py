"""DVC's file of who reads and writes what, when somebody who stands in it was killed."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

Record = dict[str, Any]
RWLOCK = Path(".dvc/tmp/rwlock")
CUT = f"{RWLOCK} was cut short when DVC was killed"
DEAD = f"{RWLOCK} names a DVC command that was killed as one at work"


def find_trouble(path: Path = RWLOCK) -> str:
    """Why DVC commands would stop at the file although nobody is at work; "" when they would not.

    A kill in the middle of a write leaves a file that DVC cannot read. A killed command stays in the file; DVC passes
    over it when its PID does not exist, not when it is a zombie or, after a restart of the machine, another process.
    """
    try:
        found = _parse(path.read_bytes())
        written = path.stat().st_mtime
    except FileNotFoundError:
        return ""
    if found is None:
        return CUT
    return DEAD if any(_is_dead(entry, written) for entry in _entries(found)) else ""


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
    found = _parse(path.read_bytes()) or {}
    readers = {
        name: kept
        for name, entries in found.get("read", {}).items()
        if (kept := [entry for entry in entries if not _is_dead(entry, written)])
    }
    writers = {name: entry for name, entry in found.get("write", {}).items() if not _is_dead(entry, written)}
    path.write_text(json.dumps({"write": writers, "read": readers}), encoding="utf-8")


def _parse(text: bytes) -> Record | None:
    """The content; None where DVC would call the format wrong."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    fits: dict[str, Callable[[Any], bool]] = {
        "read": lambda value: isinstance(value, list) and all(map(_is_entry, value)),
        "write": _is_entry,
    }
    if not isinstance(found, dict) or not found.keys() <= fits.keys():
        return None
    whole = all(
        isinstance(part, dict) and all(map(fits[mode], part.values())) for mode, part in found.items()
    )
    return found if whole else None


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("pid"), int) and isinstance(value.get("cmd"), str)


def _entries(found: Record) -> Iterator[Record]:
    for entries in found.get("read", {}).values():
        yield from entries
    yield from found.get("write", {}).values()


def _is_dead(entry: Record, written: float) -> bool:
    """Whether DVC would wait for a command that is no more.

    Another process has its PID when it began after the file was written and does not look like DVC: either alone could
    be a command at work, by a clock that was set, or from a program of its own.
    """
    try:
        process = psutil.Process(entry["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return process.create_time() > written + 1 and "dvc" not in " ".join(process.cmdline())
    except (psutil.Error, ValueError):  # DVC passes over a PID that does not exist
        return False
