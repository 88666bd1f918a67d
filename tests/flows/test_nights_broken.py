"""Nights that are killed, interrupted or fail in the middle, and what that leaves to the next one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from night_project import BETTER, WORSE, NightProject
from night_trail import CLOSING, champion, check_trail, names
from small_project import WAIT_S, wait_until

from flows import nightly
from flows.audit import load_audit
from flows.night_folder import NIGHT, NIGHTS
from flows.nightly import run_night
from flows.nights import load_night, load_nights

KILLED_IN_PUSH = """
import os, signal
from flows.night_work import NightWork
from flows.nightly import run_night

def push(self):
    with self._night.step("push"):
        os.kill(os.getpid(), signal.SIGKILL)

NightWork._push = push
run_night("command")
"""


@pytest.mark.slow
def test_a_night_killed_in_training_is_said_by_the_next_one_which_continues(
    nightly_project: NightProject,
) -> None:
    nightly_project.write_lot("two", BETTER, 2)
    nightly_project.hold()
    process = nightly_project.start()
    checkpoint = Path(".segtrail/checkpoints/unet/epoch")
    wait_until(checkpoint.is_file)
    worker = int(Path("pid").read_text())
    process.kill()
    process.wait()
    wait_until(lambda: not psutil.pid_exists(worker))  # nobody trains on for a night that is gone
    nightly_project.release()
    dead = load_nights()[-1]["night_id"]
    left = subprocess.Popen(["sleep", "600"], env=os.environ | {NIGHT: dead})
    last_line_s = datetime.fromisoformat(load_nights()[-1]["started"]).timestamp() + 7200
    os.utime(NIGHTS / dead / "repro.log", (last_line_s, last_line_s))
    record = run_night("command")
    left.wait(10)  # the sweep has ended it
    killed = load_nights()[-2]
    assert killed["state"] == "killed"
    assert killed["reason"] == "killed in step repro, 2 h 00 min after its start"
    assert killed["steps"][6] | {"seconds": 0} == {
        "name": "repro", "state": "failed", "seconds": 0, "message": "killed",
    }  # fmt: skip
    assert f"night {killed['night_id']}: killed in step repro" in record["steps"][0]["message"]
    assert record["state"] == "promoted"
    log = (NIGHTS / record["night_id"] / "repro.log").read_text()
    assert "epoch 1" not in log  # from the checkpoint
    assert "epoch 2" in log
    check_trail()


@pytest.mark.slow
def test_a_night_killed_while_registering_leaves_one_champion(nightly_project: NightProject) -> None:
    first = champion()
    nightly_project.write_lot("two", BETTER, 2)
    process = nightly_project.start()
    decision = Path("data/registry/versions/phantom/decision.json")
    before = decision.read_bytes()
    wait_until(lambda: decision.is_file() and decision.read_bytes() != before)
    # The night first: it would note that its stage has failed.
    for worker in [process, *psutil.Process(process.pid).children(recursive=True)]:
        worker.kill()
    process.wait()
    record = run_night("command")
    assert load_nights()[-2]["state"] == "killed"
    assert "it had made" in load_nights()[-2]["reason"]
    assert record["state"] == "kept"
    assert champion() != first
    assert record["version_numbers"][champion()] == "2"
    check_trail()


@pytest.mark.slow
def test_a_night_killed_in_its_push_is_reported_and_told_by_the_next_one(
    nightly_project: NightProject,
) -> None:
    """It had decided: that stands, with the report, the audit entry and the message that it could not make."""
    nightly_project.write_lot("two", BETTER, 2)
    nightly_project.start(KILLED_IN_PUSH).wait()
    dead = load_nights()[-1]
    assert (dead["state"], dead["report"], dead["steps"][-1]["name"]) == ("promoted", None, "push")
    record = run_night("command")
    assert record["state"] == "skipped"
    told = load_night(dead["night_id"])
    assert told["state"] == "promoted"
    assert told["reason"] == f"{dead['reason']}; then killed in step push"
    assert names(told)[-4:] == ["push", *CLOSING]
    assert f"night {dead['night_id']}: {told['reason']}" in record["steps"][0]["message"]
    assert run_night("command")["steps"][0]["state"] == "nothing to do"  # once
    check_trail()


@pytest.mark.slow
def test_an_error_that_nobody_has_thought_of_costs_neither_audit_nor_message(
    nightly_project: NightProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> Path:
        raise KeyError("colour")

    monkeypatch.setattr("flows.morning.write_morning_report", broken)
    with pytest.raises(KeyError, match="colour"):
        run_night("command")
    record = load_nights()[-1]
    assert (record["state"], names(record)[-3:]) == ("skipped", list(CLOSING))
    assert record["steps"][-2] | {"seconds": 0} == {
        "name": "report", "state": "failed", "seconds": 0, "message": "KeyError: 'colour'",
    }  # fmt: skip
    assert record["steps"][-1]["message"] == nightly.NOBODY
    assert load_audit()[-1]["what"]["night"] == record["night_id"]


@pytest.mark.slow
def test_an_interrupted_night_ends_what_it_started_and_says_so(nightly_project: NightProject) -> None:
    nightly_project.write_lot("two", BETTER, 2)
    nightly_project.hold()
    process = nightly_project.start()
    wait_until(Path(".segtrail/checkpoints/unet/epoch").is_file)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) != 0
    record = load_nights()[-1]
    assert (record["state"], record["reason"]) == ("failed", "repro: it was interrupted")
    check_trail()


@pytest.mark.slow
def test_a_push_that_failed_is_made_up_for_by_a_night_without_changes(nightly_project: NightProject) -> None:
    nightly_project.executed()
    remote = nightly_project.folder.parent / "remote"
    remote.mkdir()
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "remote", "add", "-q", "-d", "backup", str(remote)], check=True)
    path = Path("params.yaml")
    text = (
        path.read_text().replace("  push: false ", "  push: true ").replace('branch: "" ', "branch: nightly ")
    )
    path.write_text(text.replace('  remote: "" ', "  remote: elsewhere "))
    nightly_project.write_lot("two", BETTER, 2)
    nightly_project.add()
    failed = run_night("command")
    assert failed["state"] == "failed"
    assert failed["reason"].startswith("push: ")
    assert "; before that, promoted: version 2 is champion" in failed["reason"]
    assert not list(remote.iterdir())
    nightly_project.write_lot("three", WORSE, 3)
    nightly_project.add()
    assert run_night("command")["state"] == "failed"
    path.write_text(text)
    lost = NIGHTS / load_nights()[-1]["night_id"] / "night.json"
    record = json.loads(lost.read_text())
    record["commit"]["commit"] = "0" * 40  # somebody has thrown it away
    lost.write_text(json.dumps(record))
    nightly_project.executed()
    pushed = run_night("command")
    assert (pushed["state"], nightly_project.executed()) == ("skipped", [])
    (left,) = pushed["push"].pop("left")
    assert pushed["push"] == {"remote": "backup", "attempts": 1, "pushed": True, "error": ""}
    assert left.startswith(f"commit {'0' * 12} is not whole in backup: ")
    told = subprocess.run([*dvc, "status", "-c"], capture_output=True, text=True, check=True)
    assert "in sync" in told.stdout
    # The data of the first of the two nights are in no version of now, and are there all the same.
    digest = failed["data_digest_after"].removesuffix(".dir")
    assert (remote / "files/md5" / digest[:2] / f"{digest[2:]}.dir").is_file()
    idle = run_night("command")
    assert idle["push"] is None
    check_trail()
