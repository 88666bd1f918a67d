"""The audit log: every kind of tampering is found and its line named; crashes and two processes do not break it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import audit
from flows.audit import append_audit, check_chain, load_audit
from pipeline.errors import SegtrailError

FORK = multiprocessing.get_context("fork")
Lines = list[bytes]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with five entries."""
    path = tmp_path / "audit.jsonl"
    for i in range(5):
        append_audit({"why": [f"reason {i + 1}"]}, path)
    return path


def edit(path: Path, change: Callable[[Lines], Lines]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))


def test_the_chain_by_hand(log: Path) -> None:
    """Recomputed with hashlib alone, as an auditor would."""
    lines = log.read_bytes().splitlines()
    records = [json.loads(line) for line in lines]
    assert records[0]["chain_starts_after"] == 0
    assert [record["entry"] for record in records] == [1, 2, 3, 4, 5]
    for before, record in zip(lines, records[1:], strict=False):
        assert record["previous"] == hashlib.sha256(before).hexdigest()
    report = check_chain(log)
    assert (report.entries, report.unchained, report.problems, report.remarks) == (5, 0, [], [])
    assert report.head == hashlib.sha256(lines[-1]).hexdigest()
    assert [record["why"] for record in load_audit(log)] == [[f"reason {i}"] for i in range(1, 6)]


def change(number: int) -> Callable[[Lines], Lines]:
    """One letter of a line."""
    return lambda lines: [
        line.replace(b"reason", b"Reason") if i == number - 1 else line for i, line in enumerate(lines)
    ]


def cut(number: int) -> Callable[[Lines], Lines]:
    return lambda lines: [line[:-9] if i == number - 1 else line for i, line in enumerate(lines)]


def remove(number: int) -> Callable[[Lines], Lines]:
    return lambda lines: [line for i, line in enumerate(lines) if i != number - 1]


def swap(number: int) -> Callable[[Lines], Lines]:
    def change(lines: Lines) -> Lines:
        lines[number - 1], lines[number] = lines[number], lines[number - 1]
        return lines

    return change


TAMPERING = [
    (change(1), "line 1 was changed"), (change(3), "line 3 was changed"), (change(5), "line 5 was cut or changed"),
    (cut(1), "line 1 was removed, cut or changed"),
    (cut(3), "line 3 was cut or changed"), (cut(5), "line 5 was cut or changed"),
    (remove(1), "line 1 was removed, cut or changed: entry 2"), (remove(3), "line 3: entry 4 stands where entry 3"),
    (remove(5), "lines 5 to 5, the last ones, are missing"),
    (swap(2), "line 2: entry 3 stands where entry 2"), (swap(4), "line 4: entry 5 stands where entry 4"),
    (lambda lines: lines[:2], "lines 3 to 5, the last ones, are missing"),
    (lambda lines: [], "lines 1 to 5, the last ones, are missing"),
    (lambda lines: [*lines[:2], b'{"why": ["forged"]}', *lines[2:]], "line 3 has no hash of the line before"),
    (lambda lines: [*lines, b'{"why": ["forged"]}'], "line 6 has no hash of the line before"),
    (lambda lines: [*lines[:2], lines[1], *lines[2:]], "line 3: entry 2 stands where entry 3"),
]  # fmt: skip


@pytest.mark.parametrize(("tamper", "message"), TAMPERING)
def test_tampering_is_found_now_and_after_further_entries(
    log: Path, tamper: Callable[[Lines], Lines], message: str
) -> None:
    edit(log, tamper)
    assert message in check_chain(log).problems[0]
    append_audit({"why": ["later"]}, log)  # an honest entry does not paper over it
    append_audit({"why": ["later still"]}, log)
    assert check_chain(log).problems


def test_a_log_from_before_the_chain_is_taken_up(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "audit.jsonl"
    old = b'{"why": ["a"]}\n{"why": ["b"]}\n'
    path.write_bytes(old)
    assert check_chain(path).problems == []
    append_audit({"why": ["c"]}, path)
    assert messages == ["audit log: its 2 lines are taken up; the chain starts after them"]
    append_audit({"why": ["d"]}, path)
    assert path.read_bytes().startswith(old)
    report = check_chain(path)
    assert (report.entries, report.unchained, report.problems) == (4, 2, [])
    assert [record["why"] for record in load_audit(path)] == [["a"], ["b"], ["c"], ["d"]]
    good = path.read_bytes()
    path.write_bytes(good.replace(b'["a"]', b'["z"]'))
    assert check_chain(path).problems == ["lines 1 to 2, older than the chain: one of them was changed"]
    path.write_bytes(good.partition(b"\n")[2])
    assert check_chain(path).problems[0] == "line 2: 2 lines stood before the chain's first, now 1"


def test_a_line_torn_by_a_crash_is_said_and_is_no_tampering(log: Path) -> None:
    with log.open("ab") as stream:
        stream.write(b'{"why": ["power c')
    report = check_chain(log)
    assert (report.problems, report.remarks) == ([], ["line 6 was cut short by a crash"])
    append_audit({"why": ["after"]}, log)
    report = check_chain(log)
    assert (report.problems, report.remarks) == ([], ["line 6 was cut short by a crash"])
    assert [record["why"] for record in load_audit(log)][-1] == ["after"]
    edit(log, lambda lines: [*lines[:5], b'{"why": ["other"', lines[6]])
    assert check_chain(log).problems == ["line 6 was cut or changed after it had been written"]


def test_killed_between_line_and_head(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(audit, "_write_head", lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
        child = FORK.Process(target=append_audit, args=({"why": ["killed"]}, log))
        child.start()
        child.join(20)
    assert child.exitcode == -signal.SIGKILL
    assert check_chain(log).problems == []
    append_audit({"why": ["after"]}, log)  # the lock was freed
    assert check_chain(log).problems == []
    assert [record["why"] for record in load_audit(log)][-2:] == [["killed"], ["after"]]


def write_many(path: Path, name: str) -> None:
    for i in range(25):
        append_audit({"why": [name, i]}, path)


def test_processes_at_once_keep_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    children = [FORK.Process(target=write_many, args=(path, name)) for name in "abcd"]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    report = check_chain(path)
    assert (report.entries, report.problems, report.remarks) == (100, [], [])
    written = [tuple(record["why"]) for record in load_audit(path)]
    assert sorted(written) == [(name, i) for name in "abcd" for i in range(25)]


def test_a_full_disk_leaves_the_log_as_it_was(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, write = log.read_bytes(), os.write

    def fill(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill)
        with pytest.raises(SegtrailError, match="full|space"):
            append_audit({"why": ["lost"]}, log)
    assert log.read_bytes() == before
    append_audit({"why": ["kept"]}, log)
    assert check_chain(log).problems == []


def test_a_lost_head_is_said(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    log.with_suffix(".head").unlink()
    assert "audit.head is missing" in check_chain(log).problems[0]
    with caplog.at_level(logging.WARNING, "segtrail"):
        append_audit({"why": ["after"]}, log)
    assert check_chain(log).problems == []
