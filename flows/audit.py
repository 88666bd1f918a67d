"""The audit log: append-only, each line with the sha256 of the line before, so that no line changes unseen.

A line is one JSON object. `entry` is its number, `previous` the sha256 of the bytes of the line before. The first
chained line of a log that is older than the chain has `chain_starts_after`, and in `previous` the sha256 of everything
before it. `audit.head` beside the log holds number and sha256 of its last line, so that a line missing at the end is
found.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.environment import STATE
from pipeline.disk import explain_full_disk
from pipeline.errors import SegtrailError

LOGGER = logging.getLogger("segtrail")
AUDIT = STATE / "audit.jsonl"
Record = dict[str, Any]


@dataclass(frozen=True)
class ChainReport:
    """What a look at the log found.

    Attributes:
        entries: Number of lines.
        unchained: How many of them are older than the chain.
        head: sha256 of the last line, "" of an empty log.
        problems: What was cut, changed, removed or moved; each names its line.
        remarks: What is no sign of tampering, such as a line that a crash has cut short.
    """

    entries: int
    unchained: int = 0
    head: str = ""
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def load_audit(path: Path = AUDIT) -> list[Record]:
    """All entries of the log, oldest first; a line cut short by a crash is left out."""
    return [record for text in _read_lines(path) if (record := _parse(text)) is not None]


def load_decisions(name: str) -> list[Record]:
    """Entries about the champion of a registered model, oldest first; those that tell of nights are left out."""
    return [
        record
        for record in load_audit()
        if record["what"].get("name") == name and "night" not in record["what"]
    ]


def append_audit(record: Record, path: Path = AUDIT) -> None:
    """Adds an entry to the end of the log; it is on the disk when this returns.

    Processes that do so at once wait for each other. Where the log is not what it was after the last entry, the
    new one is chained to what was: the break stays visible.

    Args:
        record: Its content, without the keys of the chain.
        path: The log.

    Raises:
        SegtrailError: The disk is full (the log is left as it was), or the file cannot be locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path), explain_full_disk(path.parent, "free space, then dvc repro register"):
        lines = _read_lines(path)
        torn = bool(lines) and not path.read_bytes().endswith(b"\n")
        entry = {**record, **_links(lines, path, torn)}
        line = json.dumps(entry, ensure_ascii=False).encode()
        _write(path, b"\n" * torn + line + b"\n")
        _write_head(path, len(lines) + 1, line)


def check_chain(path: Path = AUDIT) -> ChainReport:
    """Looks for lines that were cut, changed, removed, added or moved."""
    lines = _read_lines(path)
    start = next((i for i, text in enumerate(lines) if "previous" in (_parse(text) or {})), len(lines))
    report = ChainReport(len(lines), start, _sha256(lines[-1]) if lines else "")
    if start < len(lines):
        report.problems.extend(_check_start(lines, start))
        report.problems.extend(_check_links(lines, start, report.remarks))
    if not report.problems:
        report.problems.extend(_check_head(lines, start, path))
    return report


def _check_start(lines: list[bytes], start: int) -> Iterator[str]:
    first = _parse(lines[start]) or {}
    counted = first.get("chain_starts_after")
    if counted is None:
        entry = first.get("entry")
        yield f"line {max(start, 1)} was removed, cut or changed: entry {entry} stands where the chain starts"
    elif counted != start:
        yield f"line {start + 1}: {counted} lines stood before the chain's first, now {start}"
    elif first["previous"] != _sha256_older(lines[:start]):
        yield f"lines 1 to {start}, older than the chain: one of them was changed"


def _check_links(lines: list[bytes], start: int, remarks: list[str]) -> Iterator[str]:
    """Compares each line after the first of the chain with the one before it."""
    expected = (_parse(lines[start]) or {}).get("entry", start + 1) + 1
    for i in range(start + 1, len(lines)):
        number, record, before = i + 1, _parse(lines[i]), lines[i - 1]
        follower = _parse(lines[i + 1]) if i + 1 < len(lines) else None
        if record is None:
            taken_up = follower is not None and follower.get("after_torn_line") == number
            if taken_up or i + 1 == len(lines):
                remarks.append(f"line {number} was cut short by a crash")
            else:
                yield f"line {number} was cut or changed: it is no entry"
        elif "previous" not in record:
            yield f"line {number} has no hash of the line before: it was changed or added"
        elif record.get("entry") != expected:
            yield (
                f"line {number}: entry {record.get('entry')} stands where entry {expected} belongs: "
                "a line was removed, added or moved"
            )
            expected = record.get("entry", expected)
        elif record["previous"] != _sha256(before) and _parse(before) is not None:
            yield f"line {i} was changed: line {number} holds another hash of it"
        elif record["previous"] != _sha256(before) and record.get("after_torn_line") == i:
            yield f"line {i} was cut or changed after it had been written"
        expected += 1


def _check_head(lines: list[bytes], start: int, path: Path) -> Iterator[str]:
    chained = len(lines) - start
    head = _load_head(path)
    if head is None:
        if chained > 1:  # of a single one the process may have been killed before it wrote the head
            yield f"{_head_path(path)} is missing: whether the last line is still the last cannot be said"
        return
    if len(lines) < head["entry"]:
        yield f"lines {len(lines) + 1} to {head['entry']}, the last ones, are missing"
    elif _sha256(lines[head["entry"] - 1]) != head["sha256"]:
        yield f"line {head['entry']} was cut or changed"


def _links(lines: list[bytes], path: Path, torn: bool) -> Record:
    """The keys that chain a new line to those before it."""
    head = _load_head(path)
    chained = head is not None or any("previous" in (_parse(text) or {}) for text in lines)
    if not chained:
        if lines:
            LOGGER.info("audit log: its %d lines are taken up; the chain starts after them", len(lines))
        return {
            "chain_starts_after": len(lines), "entry": len(lines) + 1, "previous": _sha256_older(lines)
        }  # fmt: skip
    links: Record = {"entry": len(lines) + 1, "previous": _sha256(lines[-1]) if lines else ""}
    if torn:
        links["after_torn_line"] = len(lines)
    if head is not None and (broken := list(_check_head(lines, 0, path))):
        LOGGER.warning("audit log: %s; see segtrail doctor", "; ".join(broken))
        links |= {"entry": head["entry"] + 1, "previous": head["sha256"]}
    return links


def _read_lines(path: Path) -> list[bytes]:
    """Lines without their ends; the last one may lack its end."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _parse(text: bytes) -> Record | None:
    """An entry, None when the line is none."""
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _sha256_older(lines: list[bytes]) -> str:
    return _sha256(b"\n".join(lines))


def _head_path(path: Path) -> Path:
    return path.with_suffix(".head")


def _load_head(path: Path) -> Record | None:
    try:
        head = json.loads(_head_path(path).read_text(encoding="utf-8"))
        return {"entry": int(head["entry"]), "sha256": str(head["sha256"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write_head(path: Path, entry: int, line: bytes) -> None:
    target = _head_path(path)
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps({"entry": entry, "sha256": _sha256(line)}) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(target)


def _write(path: Path, data: bytes) -> None:
    """Appends bytes; all or, on a full disk, none of them."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock of the log; an entry takes milliseconds, so this waits without a word."""
    with path.with_suffix(".lock").open("a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise SegtrailError(
                f"the file system cannot lock files: {error}", str(path), "keep the project on a local disk"
            ) from error
        yield
