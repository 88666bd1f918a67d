"""How a stage runs: what it prints, what Prefect keeps, and that a lost server never loses work."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect_home import make_home

from flows import servers, stage
from flows.servers import PrefectServer, start_server
from flows.stage import map_cases, run_stage
from pipeline.errors import SegtrailError

PROJECT = Path(__file__).resolve().parents[2]
# Settings come with `flows`, so it is imported first, as in `python -m flows.<stage>`.
SCRIPT = """
import os
import signal
import sys
import flows
from prefect import flow
from flows.stage import LOGGER, map_cases, run_stage
from pipeline.errors import SegtrailError

@flow(name="inspect")
def inspect_flow(dataset):
    results = map_cases(lambda case: case * 2, list(range(30)), "inspect", lambda case: f"case_{case:02d}")
    LOGGER.info("sum %d", sum(results))
    if dataset.isdigit():
        os.kill(int(dataset), signal.SIGKILL)
    if dataset == "bad":
        raise SegtrailError("no such data set", "params.yaml: inspect.dataset", "segtrail data add")

run_stage(inspect_flow, sys.argv[1])
"""


class StubFlow:
    """Looks like a flow; Prefect's part is played by `engine`."""

    name = "stub"

    def __init__(self, fn: Callable[..., Any], engine: Callable[[Callable[[], Any]], Any]) -> None:
        self.fn = fn
        self.engine = engine

    def with_options(self, **options: str) -> StubFlow:
        assert options == {"flow_run_name": "stub"}
        return StubFlow(self.fn, self.engine)

    def __call__(self) -> Any:
        return self.engine(self.fn)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test process that is no stage: signals and logging as before; a server that is said to be there."""
    monkeypatch.setattr(stage.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(stage, "find_owners", list)
    monkeypatch.delenv("SEGTRAIL_NO_PREFECT", raising=False)
    monkeypatch.setattr(PrefectServer, "wait", lambda self: True)
    monkeypatch.setattr(stage, "find_server", lambda: PrefectServer("http://127.0.0.1:9/api"))
    handlers, level, propagate = stage.LOGGER.handlers[:], stage.LOGGER.level, stage.LOGGER.propagate
    yield
    stage.LOGGER.handlers[:], stage.LOGGER.level, stage.LOGGER.propagate = handlers, level, propagate


def test_results_keep_the_order_of_the_cases() -> None:
    def work(case: int) -> int:
        time.sleep(0.001 * (case % 3))
        return case * case

    assert map_cases(work, list(range(40)), "x", str, workers=4) == [n * n for n in range(40)]
    assert map_cases(work, [], "x", str) == []


def test_one_line_a_case(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "segtrail"):
        map_cases(str, [1, 2, 3], "inspect", lambda case: f"case_{case}", workers=1)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("inspect 1/3 case_1 (ETA ")
    assert lines[2] == "inspect 3/3 case_3 (done)"


def test_an_error_of_one_case_ends_the_stage() -> None:
    def work(case: int) -> int:
        if case == 3:
            raise SegtrailError("bad voxel", "case_3", "drop it")
        return case

    with pytest.raises(SegtrailError, match="bad voxel"):
        map_cases(work, list(range(40)), "x", str, workers=2)


def test_cases_run_at_the_same_time_within_a_batch() -> None:
    barrier = threading.Barrier(2, timeout=10)
    assert len(map_cases(lambda case: barrier.wait(), list(range(24)), "x", str, workers=2)) == 24


@pytest.mark.usefixtures("quiet")
def test_work_is_done_once_when_the_server_is_lost_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []

    def engine(fn: Callable[[], Any]) -> None:
        fn()
        raise httpx.ConnectError("Connection refused")

    run_stage(StubFlow(lambda: done.append("x"), engine))
    assert done == ["x"]
    out = capsys.readouterr().out
    assert (
        out
        == "  the Prefect server was lost; the stage is complete, unrecorded (ConnectError('Connection refused'))\n"
    )


@pytest.mark.usefixtures("quiet")
def test_work_is_done_when_the_server_is_lost_before_it() -> None:
    done: list[str] = []

    def engine(fn: Callable[[], Any]) -> None:
        raise httpx.ConnectError("Connection refused")

    run_stage(StubFlow(lambda: done.append("x"), engine))
    assert done == ["x"]


@pytest.mark.usefixtures("quiet")
def test_the_error_of_the_stage_is_shown_not_that_of_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise SegtrailError("bad voxel", "case_3", "drop it")

    def engine(fn: Callable[[], Any]) -> None:
        try:
            fn()
        except SegtrailError as error:
            raise httpx.ConnectError("Connection refused") from error

    with pytest.raises(SystemExit) as caught:
        run_stage(StubFlow(fail, engine))
    assert caught.value.code == 1
    assert capsys.readouterr().err == "\nsegtrail: error: bad voxel\n  where: case_3\n  fix:   drop it\n"


@pytest.mark.usefixtures("quiet")
def test_other_errors_pass_as_they_are() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_stage(StubFlow(fail, lambda fn: fn()))


@pytest.mark.usefixtures("quiet")
def test_without_any_server_the_stage_runs_unrecorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PrefectServer, "wait", lambda self: False)
    done: list[str] = []
    run_stage(StubFlow(lambda: done.append("x"), lambda fn: pytest.fail("Prefect was asked")))
    assert done == ["x"]
    assert "no Prefect server: the stage runs unrecorded" in capsys.readouterr().out


@pytest.mark.usefixtures("quiet")
def test_prefect_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGTRAIL_NO_PREFECT", "1")
    done: list[str] = []
    run_stage(StubFlow(lambda: done.append("x"), lambda fn: pytest.fail("Prefect was asked")))
    assert done == ["x"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A real server on a database of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(make_home(tmp_path_factory.mktemp("server") / "prefect")))
        found = start_server(os.getpid())
        assert found.wait()
        yield found
        found.stop()


def run_script(folder: Path, dataset: str, url: str, home: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(SCRIPT)
    bare = {k: os.environ[k] for k in ("PATH", "HOME") if k in os.environ}
    bare |= {"PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(home), "PREFECT_API_URL": url}
    return subprocess.run(
        [sys.executable, "script.py", dataset],
        cwd=folder,
        env=bare,
        capture_output=True,
        text=True,
        timeout=120,
    )


def ask(url: str, route: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}/{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    for _ in range(20):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 503:  # SQLite is busy
                raise
            time.sleep(0.5)
    pytest.fail(f"{url} stays unavailable")


@pytest.mark.slow
def test_a_stage_prints_its_own_lines_only_and_is_recorded(server: PrefectServer, tmp_path: Path) -> None:
    run = run_script(tmp_path, "good", server.url, tmp_path / "unused")
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert len(lines) == 31
    assert lines[0].startswith("  inspect 1/30 case_00 (ETA")
    assert lines[29] == "  inspect 30/30 case_29 (done)"
    assert lines[30] == "  sum 870"  # 2 x (0 + ... + 29)
    flow_run = ask(server.url, "flow_runs/filter", {"flow_runs": {"name": {"any_": ["inspect good"]}}})[0]
    assert flow_run["state_type"] == "COMPLETED"
    only = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}}
    for _ in range(60):  # the server writes task runs down after the flow has ended, later when it is busy
        tasks = ask(server.url, "task_runs/filter", {**only, "sort": "EXPECTED_START_TIME_ASC"})
        if len(tasks) >= 10:
            break
        time.sleep(0.5)
    assert [task["name"] for task in tasks][:2] == ["inspect 1 to 3 of 30", "inspect 4 to 6 of 30"]
    assert len(tasks) == 10
    logs = ask(server.url, "logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run["id"]]}}, "limit": 200})
    assert "inspect 7/30 case_06" in " ".join(log["message"] for log in logs)


def test_a_failing_stage_prints_one_clear_error(server: PrefectServer, tmp_path: Path) -> None:
    run = run_script(tmp_path, "bad", server.url, tmp_path / "unused")
    assert run.returncode == 1
    assert run.stderr == (
        "\nsegtrail: error: no such data set\n"
        "  where: params.yaml: inspect.dataset\n"
        "  fix:   segtrail data add\n"
    )
    flow_run = ask(server.url, "flow_runs/filter", {"flow_runs": {"name": {"any_": ["inspect bad"]}}})[0]
    assert flow_run["state_type"] == "FAILED"


@pytest.mark.slow
def test_what_a_killed_server_did_not_get_is_told_once_and_the_stage_is_complete(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(make_home(tmp_path / "prefect")))
        doomed = start_server(os.getpid())
    assert doomed.wait()
    assert doomed.process is not None
    run = run_script(tmp_path, str(doomed.process.pid), doomed.url, tmp_path / "unused")
    doomed.process.wait()
    assert run.returncode == 0
    assert "the Prefect server was lost; the stage is complete, unrecorded" in run.stdout
    assert run.stderr.count("segtrail: warning: Prefect's page of this stage may lack task runs") == 1


@pytest.mark.slow
def test_without_a_server_the_run_is_seen_later(tmp_path: Path) -> None:
    home = make_home(tmp_path / "prefect")
    run = run_script(tmp_path, "good", "http://127.0.0.1:9/api", home)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(run.stdout.splitlines()) == 31
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        later = start_server(os.getpid())
        try:
            assert later.wait()
            found = ask(later.url, "flow_runs/filter", {})
        finally:
            later.stop()
    assert [(run["name"], run["state_type"]) for run in found] == [("inspect good", "COMPLETED")]


def test_no_stage_is_started_by_a_test() -> None:
    assert not servers.is_stage()
