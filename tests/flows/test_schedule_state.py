"""What the schedule's commands know from files alone, nights that were missed, and what the doctor says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prefect_home import make_home
from project_copy import change_params

from flows import cli
from flows.doctor import OK, WARN
from flows.doctor_schedule import check_nights
from flows.locks import hold
from flows.missed import Missed, settle_missed
from flows.prefect_api import ask, list_runs
from flows.schedule_state import LOCK, PAUSE, Served, find_runs_at_work, note_pause, save_served, wanted_pause
from flows.schedule_status import collect_status, tell_status
from flows.servers import start_server

SHA = "ab" * 32


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def write_night(night_id: str, **more: Any) -> None:
    folder = Path(".segtrail/nights", night_id)
    folder.mkdir(parents=True)
    night = {
        "night_id": night_id, "trigger": "schedule", "due": "2026-11-27T01:00:00+00:00", "state": "skipped",
        "seconds": 90.0, "reason": "nothing changed", "fix": "", "decision": None, "version_numbers": {},
        "pid": 1, "process_started": 0.0, "prefect_run_id": None,
    }  # fmt: skip
    (folder / "night.json").write_text(json.dumps(night | more))


def run(*arguments: str) -> int:
    return cli.main(["schedule", *arguments])


def test_the_deployment_names_the_flow() -> None:
    from flows.nightly import nightly_flow
    from flows.schedule_runner import ENTRYPOINT
    from flows.schedule_state import FLOW

    assert (ENTRYPOINT, nightly_flow.name) == (f"{nightly_flow.__module__}.{nightly_flow.__name__}", FLOW)


def test_status_without_any_server(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_params(project, {("nightly", "timezone"): "Europe/Vienna"})
    numbers = {"champion_after": SHA}
    write_night(
        "20261126T010000Z",
        state="promoted",
        reason="better by 0.02",
        decision=numbers,
        version_numbers={SHA: "3"},
    )
    write_night("20261127T010003Z", seconds=None, state="running", reason="")
    decision = Path("data/registry/versions/phantom/decision.json")
    decision.parent.mkdir(parents=True)
    decision.write_text(json.dumps({"champion_after": SHA, "decided": "2026-11-26T01:20:00+00:00"}))
    assert run("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "schedule  not served: segtrail schedule"
    assert lines[1] == 'cron      "0 2 * * *" (Europe/Vienna)'
    assert lines[2].endswith(", if it were served")
    assert "02:00 +0" in lines[4]
    assert lines[5:7] == ["paused    no", f"champion  phantom {SHA[:12]} since 2026-11-26T01:20:00+00:00"]
    assert lines[8].split() == ["night", "due", "state", "minutes", "model", "reason"]
    assert lines[9].split("  ")[0:3] == ["20261127T010003Z", "11-27 02:00", "running (its process is gone)"]
    assert lines[10].split() == [
        "20261126T010000Z",
        "11-27",
        "02:00",
        "promoted",
        "1.5",
        "3",
        "better",
        "by",
        "0.02",
    ]


def test_status_as_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["served"], record["paused"], record["nights"], record["champion"]) == (
        False,
        False,
        [],
        None,
    )
    due = [datetime.fromisoformat(text) for text in record["next"]]
    assert [(b - a) for a, b in pairwise(due)] == [timedelta(days=1)] * 2
    assert (due[0].hour, due[0].minute) == (2, 0)


def test_a_pause_without_a_server_is_kept(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pause") == 0
    assert collect_status()["paused"]
    assert wanted_pause({"paused": False})  # the server is told when it is met again
    note_pause(True, told=True)
    assert not wanted_pause({"paused": False})  # a person has resumed it on the pages since
    assert wanted_pause(None)
    assert run("resume") == 0
    assert not collect_status()["paused"]
    assert not wanted_pause({"paused": True})
    assert capsys.readouterr().out.splitlines()[1].startswith("not paused any more; nothing is served")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cron", "61 2 * * *"), "nightly.cron"),
        (("--timezone", "Mars/Olympus"), "nightly.timezone"),
        (("run-now",), "segtrail night runs a night here"),
        (("--work-pool", "lab"), "PREFECT_API_URL=(not set)"),
    ],
)
def test_what_cannot_be_done_is_one_error(
    words: tuple[str, ...], said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("params.yaml").read_text()
    assert run(*words) == 1
    error = capsys.readouterr().err
    assert error.count("segtrail: error:") == 1
    assert said in error
    assert Path("params.yaml").read_text() == before
    assert not Path(".segtrail/prefect").exists()  # no server was started for it


def test_an_address_without_a_server_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert run("--cron", "30 1 * * *", "--timezone", "Europe/Vienna") == 1
    captured = capsys.readouterr()
    assert "where: PREFECT_API_URL=http://127.0.0.1:9/api" in captured.err
    assert captured.out.splitlines() == [
        "params.yaml: nightly.cron: 0 2 * * * -> 30 1 * * *",
        "params.yaml: nightly.timezone: UTC -> Europe/Vienna",
    ]
    assert 'cron: "30 1 * * *" ' in Path("params.yaml").read_text()


def test_who_serves_is_told_by_the_lock_and_what_by_the_note(project: Path) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    save_served(Served("http://127.0.0.1:9/api", "0 3 * * *", "UTC", now, os.getpid()))
    assert not collect_status()["served"]  # nobody holds the lock: it was served once
    with hold(LOCK, "segtrail schedule"):
        record = collect_status()
        assert (record["served"], record["pid"], record["cron"]) == (True, os.getpid(), "0 3 * * *")
        assert record["params"] == ["0 2 * * *", "UTC"]
        assert 'params.yaml says "0 2 * * *" (UTC) by now' in tell_status()
        save_served(Served("http://127.0.0.1:9/api", "0 3 * * *", "UTC", now, 1))  # of the process before
        assert "is about to serve it" in tell_status()


def test_a_process_that_works_on_a_run_is_found(project: Path) -> None:
    code = "import time; time.sleep(60)"
    at_work = {**os.environ, "PREFECT__FLOW_RUN_ID": "run-1"}
    with (
        subprocess.Popen([sys.executable, "-c", code, "prefect.engine"], env=at_work) as engine,
        subprocess.Popen(
            [sys.executable, "-c", code, "dvc"], env={**at_work, "PREFECT__FLOW_RUN_ID": "run-2"}
        ) as left,
    ):
        assert {"run-1", "run-2"} & find_runs_at_work() == {
            "run-1"
        }  # what a dead run has started does not count
        engine.kill()
        left.kill()


def test_doctor_tells_the_schedule_and_the_last_night(project: Path) -> None:
    assert [(line.status, line.found) for line in check_nights()] == [(OK, "not served")]
    write_night("20261127T010000Z")
    served, last = check_nights()
    assert (served.status, served.fix) == (WARN, "segtrail schedule")
    assert (last.status, last.found) == (OK, "the last one, 20261127T010000Z, skipped: nothing changed")
    write_night("20261128T010000Z", state="failed", reason="push: no route to host", fix="dvc push")
    assert [(line.status, line.fix) for line in check_nights()][1] == (WARN, "dvc push")
    due, since = (datetime.now(UTC) - timedelta(hours=hours) for hours in (2, 72))
    cron = f"{due.minute} {due.hour} * * *"
    save_served(
        Served("http://127.0.0.1:9/api", cron, "UTC", since.isoformat(timespec="seconds"), os.getpid())
    )
    change_params(project, {("nightly", "late_minutes"): 1})
    with hold(LOCK, "segtrail schedule"):
        served, _, overdue = check_nights()
    assert served.found == f"served by process {os.getpid()}, but its server does not answer"
    assert overdue.found.startswith("none is recorded for ")


@pytest.fixture
def deployment(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """URL of a server without scheduler, and a deployment on it."""
    monkeypatch.setenv("PREFECT_HOME", str(make_home(project / ".segtrail" / "prefect")))
    server = start_server(os.getpid())
    assert server.wait()
    flow = ask(server.url, "flows/", {"name": "nightly"})
    made = ask(server.url, "deployments/", {"name": "nightly", "flow_id": flow["id"]})
    yield server.url, made["id"]
    server.stop()


def due_run(url: str, deployment_id: str, due: datetime) -> str:
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}}
    return str(ask(url, f"deployments/{deployment_id}/create_flow_run", {"state": state})["id"])


@pytest.mark.slow
def test_of_the_nights_that_were_missed_at_most_the_last_one_is_made_up(deployment: tuple[str, str]) -> None:
    url, deployment_id = deployment
    due = datetime(2026, 11, 27, 2, tzinfo=UTC)
    now = due + timedelta(minutes=45)
    ids = [due_run(url, deployment_id, due - timedelta(days=days)) for days in (2, 1, 0)]
    tomorrow = due_run(url, deployment_id, due + timedelta(days=1))

    missed = settle_missed(url, deployment_id, None, 60, False, now)
    assert missed == Missed((due - timedelta(days=2), due - timedelta(days=1)), due)
    assert missed.describe(60) == [
        "2 nights were missed and not made up for (Wed 2026-11-25 02:00 +00:00 to Thu 2026-11-26 02:00 +00:00; "
        "late_minutes is 60)",
        "the night of Fri 2026-11-27 02:00 +00:00 was missed: it runs now",
    ]
    waiting = [run["id"] for run in list_runs(url, deployment_id, ["SCHEDULED"])]
    assert waiting == [ids[2], tomorrow]
    closed = ask(url, f"flow_runs/{ids[0]}")["state"]
    assert (closed["type"], closed["name"]) == ("CANCELLED", "Missed")
    assert closed["message"] == "nobody served the schedule when it was due; late_minutes is 60"

    assert settle_missed(url, deployment_id, None, 44, False, now) == Missed(
        (due,), None
    )  # a minute too late
    assert [run["id"] for run in list_runs(url, deployment_id, ["SCHEDULED"])] == [tomorrow]

    # The server was down as well, so it made no run of that night.
    later = due + timedelta(days=5)
    served = Served(url, "0 2 * * *", "UTC", (due - timedelta(days=9)).isoformat())
    at = later + timedelta(minutes=10)
    assert settle_missed(url, deployment_id, served, 60, True, at).made_up is None  # paused
    assert settle_missed(url, deployment_id, None, 60, False, at).made_up is None  # never served before
    fresh = Served(url, "0 2 * * *", "UTC", (later + timedelta(minutes=5)).isoformat())
    assert (
        settle_missed(url, deployment_id, fresh, 60, False, at).made_up is None
    )  # served since after its time
    assert settle_missed(url, deployment_id, served, 60, False, at) == Missed((), later)
    (made,) = list_runs(url, deployment_id, ["SCHEDULED"])
    assert (made["tags"], datetime.fromisoformat(made["expected_start_time"])) == (["made up for"], later)
    assert settle_missed(url, deployment_id, served, 60, False, at) == Missed(
        (), later
    )  # kept, not made twice
    assert len(list_runs(url, deployment_id, ["SCHEDULED"])) == 1
    ask(url, f"flow_runs/{made['id']}/set_state", {"state": {"type": "COMPLETED"}, "force": True})
    assert settle_missed(url, deployment_id, served, 60, False, at) == Missed()  # it has run
    assert PAUSE.exists() is False
