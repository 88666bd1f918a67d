"""A lock that says who holds it: between processes, after a kill, and inherited by a child."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import locks
from flows.locks import Holder, LockBusyError, find_holder, hold, is_alive

HOLD = """
import sys, time
from pathlib import Path
from flows.locks import hold
with hold(Path(sys.argv[1]), "the other one"):
    print("held", flush=True)
    time.sleep(60)
"""
# Holds the lock and gives it to a child that outlives it.
INHERIT = """
import subprocess, sys, time
from pathlib import Path
from flows.locks import hold
with hold(Path(sys.argv[1]), "parent") as descriptor:
    child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "x.lock"


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_holder_writes_down_who_it_is(path: Path) -> None:
    with hold(path, "segtrail repro"):
        record = json.loads(path.read_text())
        assert record["pid"] == os.getpid()
        assert record["host"] == socket.gethostname()
        assert record["command"] == "segtrail repro"
        assert record["started"][:2] == "20"
    assert path.read_text() == ""


def test_a_free_lock_has_no_holder(path: Path) -> None:
    assert find_holder(path) is None
    with hold(path, "x"):
        pass
    assert find_holder(path) is None


def test_without_waiting_the_error_names_the_holder(path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(LockBusyError) as caught, hold(path, "me", wait=False):
        pass
    assert f"process {other.pid} (the other one) since 20" in caught.value.what
    assert caught.value.where == str(path)
    assert f"kill {other.pid}" in caught.value.fix
    assert caught.value.holder is not None
    assert caught.value.holder.pid == other.pid


def test_kill_9_frees_the_lock(path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    assert find_holder(path) is None
    with hold(path, "me", wait=False):
        assert json.loads(path.read_text())["command"] == "me"


def test_waiting_says_so_at_once_and_again(
    path: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "REPORT_EVERY_S", 0.4)
    monkeypatch.setattr(locks, "POLL_S", 0.1)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            other.kill()

    started = time.monotonic()
    with hold(path, "me", say=say):
        waited = time.monotonic() - started
    assert len(said) == 3
    assert all(line.startswith(f"waiting for process {other.pid} (the other one)") for line in said)
    assert waited >= 0.8


def test_a_child_keeps_the_lock_of_a_killed_parent(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", INHERIT, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    try:
        with pytest.raises(LockBusyError, match="has ended: what it started still runs") as caught:
            with hold(path, "me", wait=False):
                pass
        assert "kill" not in caught.value.fix
    finally:
        os.kill(child, signal.SIGKILL)
    with hold(path, "me"):
        pass


def test_a_holder_that_has_not_said_its_name_yet(path: Path, other: subprocess.Popen[str]) -> None:
    path.write_text('{"pid": 1')
    with pytest.raises(LockBusyError, match="held by another process"), hold(path, "me", wait=False):
        pass


def test_text_of_a_holder_elsewhere() -> None:
    text = Holder(7, "elsewhere", "2026-01-02T03:04:05+00:00", "segtrail repro").describe()
    assert text.startswith("process 7 on elsewhere (segtrail repro) since 2026-01-02 03:04:05 (")
    assert "has ended" not in text


def test_a_process_that_nobody_has_collected_is_not_alive() -> None:
    process = subprocess.Popen(["true"])
    end = time.monotonic() + 10
    while is_alive(process.pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_alive(process.pid)
    process.wait()
    assert is_alive(os.getpid())
    assert is_alive(1)
