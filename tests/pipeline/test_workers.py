"""Worker processes that are really killed: the call is named, made once more alone, and nothing else is lost."""

from __future__ import annotations

import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from conftest import PROJECT

from pipeline.errors import SegtrailError
from pipeline.workers import Worker, WorkerPool

# A function that waits while a file is there, and notes how many of it run at the same time.
WORK = """
import os, time
from pathlib import Path
from pipeline.errors import ImageFileError

def work(name):
    if name == "bad":
        raise ImageFileError("corrupt", "a bad file", Path("bad.nii.gz"), "copy it again")
    if name == "bug":
        raise ZeroDivisionError("a bug")
    mark = Path(f"{name}.{os.getpid()}")
    mark.touch()
    beside = len([path for path in Path().glob("*.*") if path.suffix[1:].isdigit()])
    while Path(f"hold_{name}").exists():
        time.sleep(0.02)
    time.sleep(0.1)
    mark.unlink()
    return name, os.getpid(), beside
"""


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "held_work.py").write_text(WORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{PROJECT}{os.pathsep}{tmp_path}")
    return "held_work:work"


def pid_of(name: str) -> int:
    """Waits until a worker handles the call; its process."""
    end = time.monotonic() + 20
    while not (marks := list(Path().glob(f"{name}.*"))):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return int(marks[0].suffix[1:])


def kill(name: str) -> None:
    pid = pid_of(name)
    Path(f"{name}.{pid}").unlink()
    os.kill(pid, signal.SIGKILL)


def test_a_killed_worker_costs_one_more_try_alone(
    function: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    names = ["a", "b", "c", "d", "e"]
    for name in "ab":
        Path(f"hold_{name}").touch()
    with WorkerPool(function, 2) as pool, ThreadPoolExecutor(2) as threads:
        calls = {name: threads.submit(pool.run, f"case {name}", "less", name) for name in names}
        pid_of("b")
        kill("a")
        for name in "ab":
            Path(f"hold_{name}").unlink()
        results = {name: call.result(20) for name, call in calls.items()}
        assert pool.limit == 1
    assert [results[name][0] for name in names] == names
    assert results["a"][2] == 1  # alone
    assert all(results[name][2] == 1 for name in "cde")
    assert (
        "case a: the worker process died of signal SIGKILL (kill -9, or the kernel when memory ran out)"
        in caplog.text
    )
    assert not any(psutil.pid_exists(pid) for _, pid, _ in results.values())


def test_the_second_death_is_one_clear_error_and_other_calls_are_done(function: str) -> None:
    Path("hold_a").touch()
    with WorkerPool(function, 2) as pool, ThreadPoolExecutor(2) as threads:
        first, other = (threads.submit(pool.run, f"case {n}", "a larger voxel", n) for n in "ab")
        for _ in range(2):
            kill("a")
        with pytest.raises(SegtrailError) as caught:
            first.result(20)
        assert other.result(20)[0] == "b"
    assert caught.value.what == (
        "the worker process died twice, the second time alone: "
        "signal SIGKILL (kill -9, or the kernel when memory ran out)"
    )
    assert caught.value.where == "case a"
    assert "SEGTRAIL_WORKERS=1" in caught.value.fix
    assert caught.value.fix.endswith("or a larger voxel")


def test_an_error_of_the_user_passes_as_it_is_and_a_bug_is_not_hidden(
    function: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with WorkerPool(function, 1) as pool:
        with pytest.raises(SegtrailError, match=r"a bad file[\s\S]*bad.nii.gz[\s\S]*copy it again"):
            pool.run("case", "less", "bad")
        first, again = (pool.run("case", "less", name) for name in "ab")
        assert first[1] == again[1]  # the worker lives on
        with pytest.raises(SegtrailError, match=r"exit code 1 \(its message stands above\)"):
            pool.run("case", "less", "bug")
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err


def test_a_worker_ends_with_its_caller(function: str) -> None:
    worker = Worker(function, 1)
    worker.call(("a",))
    worker.connection.close()
    assert worker.process.wait(10) == 0
