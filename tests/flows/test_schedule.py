"""Serving the schedule on a real Prefect server: nights by the clock, one at a time, whatever is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from scheduled_project import ScheduledProject, end, read_run
from small_project import WAIT_S, wait_until

from flows.locks import is_alive
from flows.prefect_api import find_deployment, list_runs
from flows.servers import answers, start_server

EVERY_4_S = "* * * * * */4"
pytestmark = pytest.mark.quiet


@pytest.fixture
def scheduled(tmp_path: Path) -> Iterator[ScheduledProject]:
    project = ScheduledProject(tmp_path)
    project.create(EVERY_4_S)
    yield project
    project.close()


def runs_in(url: str, *states: str) -> list[dict[str, object]]:
    deployment = find_deployment(url, "nightly", "nightly")
    assert deployment is not None
    return list_runs(url, deployment["id"], states)


def test_nights_run_by_the_clock_one_at_a_time_and_are_paused_and_asked_for(
    scheduled: ScheduledProject,
) -> None:
    scheduled.hold()
    serving, text = scheduled.serve()
    status = scheduled.status()
    url = status["url"]
    assert f"Prefect  {url.removesuffix('/api')}\n" in text
    assert (status["served"], status["pid"], status["paused"]) == (True, serving.pid, False)

    wait_until(lambda: scheduled.ran())  # SQLAlchemy 2.1: no run is ever made
    (first,) = scheduled.ran()
    assert read_run(url, first["id"])["auto_scheduled"]
    assert "auto-scheduled" in first["tags"]  # by this tag the night knows that it was due
    busy = scheduled.folder / "busy"
    # The next one is due meanwhile: it starts, and says itself that it is one too many.
    wait_until(lambda: busy.is_file() and busy.read_text())
    wait_until(lambda: read_run(url, busy.read_text())["state_type"] == "COMPLETED")
    assert runs_in(url, "CANCELLED") == []
    code, text = scheduled.run()
    assert code == 1
    assert f"served already by process {serving.pid}" in text
    code, text = scheduled.run("run-now")
    assert code == 1
    assert "a night is at work" in text

    assert scheduled.run("pause") == (0, "paused: no night starts until `segtrail schedule resume`\n")
    assert scheduled.status()["paused"]
    wait_until(lambda: len(runs_in(url, "SCHEDULED", "PENDING", "RUNNING")) == 1)
    assert read_run(url, first["id"])["state_type"] == "RUNNING"  # a pause ends no night
    scheduled.release()
    wait_until(lambda: read_run(url, first["id"])["state_type"] == "COMPLETED")
    assert runs_in(url, "SCHEDULED") == []
    code, text = scheduled.run("run-now")
    assert code == 0, text
    wait_until(lambda: len(scheduled.ran()) == 2)
    assert scheduled.ran()[1]["tags"] == ["run-now"]

    assert "no longer served" in end(serving, signal.SIGINT)
    assert serving.returncode == 0
    assert not answers(url)
    status = scheduled.status()
    assert (status["served"], status["pid"], status["paused"]) == (False, None, True)
    code, text = scheduled.run("run-now")
    assert code == 1
    assert "segtrail night runs a night here" in text

    serving, text = scheduled.serve()  # the pause of a person outlives the process
    assert "paused: no night starts" in text
    assert scheduled.status()["paused"]
    assert scheduled.run("resume")[0] == 0
    wait_until(lambda: len(scheduled.ran()) > 2)
    end(serving)
    assert not scheduled.status()["paused"]


def test_a_night_outlives_a_killed_server_and_a_killed_night_blocks_none_after_it(
    scheduled: ScheduledProject,
) -> None:
    scheduled.hold()
    serving, _ = scheduled.serve()
    url = scheduled.status()["url"]
    wait_until(scheduled.ran)
    (killed,) = scheduled.ran()
    wait_until(lambda: read_run(url, killed["id"])["state_type"] == "RUNNING")
    serving.kill()
    serving.communicate()
    serving, text = scheduled.serve()  # the night lives: it is left alone, and finds its server again
    assert "its process is gone" not in text
    assert scheduled.status()["url"] == url
    assert read_run(url, killed["id"])["state_type"] == "RUNNING"

    serving.kill()
    os.kill(killed["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(killed["pid"]) and not answers(url))
    serving.communicate()
    scheduled.release()

    serving, text = scheduled.serve()
    url = scheduled.status()["url"]
    run = read_run(url, killed["id"])
    assert f"run {run['name']}: its process is gone" in text
    assert (run["state_type"], run["state"]["message"].split(" (")[0]) == ("CRASHED", "its process is gone")
    wait_until(lambda: len(scheduled.ran()) > 1)
    end(serving)


def test_serving_goes_on_when_its_server_is_killed_and_ends_with_its_night(
    scheduled: ScheduledProject,
) -> None:
    serving, _ = scheduled.serve()
    url = scheduled.status()["url"]
    wait_until(scheduled.ran)
    (server,) = (
        child for child in psutil.Process(serving.pid).children() if "flows.prefect_server" in child.cmdline()
    )
    server.kill()
    before = len(scheduled.ran())
    wait_until(lambda: len(scheduled.ran()) > before + 1)
    assert answers(url)

    scheduled.hold()
    wait_until(lambda: is_alive(scheduled.ran()[-1]["pid"]))
    night = scheduled.ran()[-1]["pid"]
    assert "the Prefect server has ended; it is started again" in end(serving)
    assert not is_alive(night)  # it ends with what serves it, and its run does not say Running for ever
    with closing(sqlite3.connect(scheduled.folder / ".segtrail/prefect/prefect.db")) as database:
        states = {row[0] for row in database.execute("SELECT DISTINCT state_type FROM flow_run")}
    assert states <= {"COMPLETED", "SCHEDULED", "CANCELLED", "CRASHED"}


def test_a_work_pool_and_its_worker(scheduled: ScheduledProject, monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = scheduled.run("--work-pool", "lab")
    assert code == 1
    assert "PREFECT_API_URL=(not set)" in text
    monkeypatch.setenv("PREFECT_HOME", str(scheduled.folder / ".segtrail" / "prefect"))
    server = start_server(os.getpid(), with_ui=True)
    try:
        assert server.wait()
        code, text = scheduled.run("--work-pool", "lab", "--cron", "0 2 * * *", PREFECT_API_URL=server.url)
        assert code == 0, text
        worker = f"PREFECT_API_URL={server.url} .venv/bin/prefect worker start --pool lab"
        assert worker in text
        status = scheduled.status()
        assert (status["served"], status["work_pool"], status["pid"]) == (True, "lab", None)
        assert (status["cron"], status["url"]) == ("0 2 * * *", server.url)
        assert scheduled.run("run-now")[0] == 0
        words = ("worker", "start", "--pool", "lab", "--run-once")
        process = scheduled.start(*words, module="prefect", PREFECT_API_URL=server.url)
        text, _ = process.communicate(timeout=WAIT_S)
        assert [run["tags"] for run in scheduled.ran()] == [["run-now"]], text
        assert read_run(server.url, scheduled.ran()[0]["id"])["state_type"] == "COMPLETED"
    finally:
        server.stop()
