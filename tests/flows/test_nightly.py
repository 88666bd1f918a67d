"""Whole nights: what they do, why they do nothing, and what a kill leaves to the next one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow_store import delete_store, forget_stores, link_code
from night_project import BETTER, GOOD, PROJECT, WORSE, NightProject
from registered import aliases
from small_project import WAIT_S, wait_until

from flows import nightly
from flows.audit import check_chain, load_audit
from flows.decision import load_decision
from flows.hand import tell_history
from flows.locks import find_holder, hold
from flows.night_folder import NIGHT, NIGHTS
from flows.nightly import LOCK, run_night
from flows.nights import load_night, load_nights, start_night

STEPS = ("sweep", "pull", "take_in", "changes", "inspect", "drift", "repro", "decision", "commit", "push")
CLOSING = ("audit", "report", "notify")
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


def settle(project: Path, patch: pytest.MonkeyPatch) -> NightProject:
    """Makes a folder the project of this process and of all it starts; without Prefect."""
    forget_stores()
    patch.chdir(project)
    patch.setenv("SEGTRAIL_NO_PREFECT", "1")
    patch.setenv(
        "PYTHONPATH", os.pathsep.join(map(str, (PROJECT, PROJECT / "tests", PROJECT / "tests/flows")))
    )
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/.segtrail/mlflow.db")
    patch.setenv("PREFECT_HOME", f"{project}/.segtrail/prefect")
    patch.setenv("GIT_CEILING_DIRECTORIES", "/")
    patch.delenv("PREFECT_API_URL", raising=False)
    return NightProject(project)


@pytest.fixture(scope="session")
def first_night(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after its first night, to copy."""
    folder = tmp_path_factory.mktemp("nights")
    with pytest.MonkeyPatch.context() as patch:
        nights = settle(folder, patch)
        nights.create()
        link_code(folder)
        (folder / ".segtrail").mkdir()
        shutil.copy(store_template, ".segtrail/mlflow.db")
        nights.write_lot("one", GOOD, 1)
        nights.add()
        record = run_night("schedule", datetime.now(UTC))
        assert record["state"] == "promoted", record["reason"]
        forget_stores()
    return folder


@pytest.fixture
def project(first_night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NightProject]:
    """A project of one night, which ended well."""
    shutil.copytree(first_night, tmp_path / "project", symlinks=True)
    nights = settle(tmp_path / "project", monkeypatch)
    yield nights
    nights.close()


def names(record: dict[str, Any]) -> list[str]:
    return [step["name"] for step in record["steps"]]


def champion() -> str:
    """Of the files, after a look that MLflow has the same."""
    sha256 = load_decision("phantom")["champion_after"]
    forget_stores()
    assert aliases()["champion"] == sha256
    return str(sha256)


def check_trail() -> None:
    """Each night has its entry in the audit log and its report, nobody holds the lock, and nothing runs any more."""
    assert check_chain().problems == []
    entries = [line for line in load_audit() if line["by"] == "night"]
    found = load_nights()
    assert sorted(line["what"]["night"] for line in entries) == [record["night_id"] for record in found]
    for record in found:
        (entry,) = [line for line in entries if line["what"]["night"] == record["night_id"]]
        assert entry["what"] == {"night": record["night_id"], "state": record["state"], "name": "phantom"}
        assert entry["why"] == [record["reason"]]
        assert (NIGHTS / record["night_id"] / record["report"]).is_file()
        assert record["state"] != "running"
    assert find_holder(LOCK) is None
    assert processes() == []


def processes() -> list[psutil.Process]:
    """Those of the project beside this one."""
    here = str(Path.cwd())
    return [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == here and p.pid != os.getpid()]


@pytest.mark.slow
def test_the_first_night_trains_and_promotes_and_its_record_tells_all(project: NightProject) -> None:
    assert project.executed() == ["inspect", "train"]
    (record,) = load_nights()
    assert names(record) == [*STEPS, *CLOSING]
    assert {step["state"] for step in record["steps"]} == {"done", "nothing to do"}
    assert (record["state"], record["trigger"], record["fix"]) == ("promoted", "schedule", "")
    sha256 = champion()
    assert record["decision"]["champion_after"] == sha256
    assert record["decision"]["champion_before"] is record["champion"] is None
    assert record["version_numbers"] == {sha256: "1"}
    assert record["reason"] == "version 1 is champion: there was no champion"
    assert record["cases"]["total"] == record["cases"]["usable"] == 12
    assert len(record["cases"]["new"]) == 12
    pointer = Path("data/raw/phantom.dvc").read_text()
    assert record["data_digest_before"] in pointer
    assert record["data_digest_after"] == record["data_digest_before"]
    assert record["git_commit"] == subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip
    assert "epoch 3" in (NIGHTS / record["night_id"] / "repro.log").read_text()
    assert record["night_id"] in (NIGHTS / "latest.html").read_text()
    assert len(tell_history("phantom")) == 2  # nights are no decisions
    check_trail()


@pytest.mark.slow
def test_a_night_without_changes_is_skipped_and_no_stage_runs(project: NightProject) -> None:
    project.executed()
    before = {path: path.stat().st_mtime_ns for path in Path("data").rglob("*") if path.is_file()}
    record = run_night("schedule", datetime.now(UTC) - timedelta(minutes=1))
    assert record["state"] == "skipped"
    assert record["reason"] == "nothing changed: data, code and params are those of the last run"
    assert project.executed() == []
    assert before == {path: path.stat().st_mtime_ns for path in Path("data").rglob("*") if path.is_file()}
    assert names(record) == [*STEPS[:4], "compare", "commit", "push", *CLOSING]
    assert load_night(record["night_id"]) == record
    check_trail()


@pytest.mark.slow
def test_a_deleted_mlflow_store_is_rebuilt_by_a_night_without_changes(
    project: NightProject, store_template: Path
) -> None:
    project.executed()
    sha256 = champion()
    delete_store(project.folder, store_template)
    record = run_night("command")
    assert (record["state"], project.executed()) == ("kept", [])
    assert record["reason"].startswith(
        "nothing changed, but MLflow lacks 1 of the versions of phantom: rebuilt"
    )
    assert champion() == sha256
    assert run_night("command")["state"] == "skipped"
    check_trail()


@pytest.mark.slow
def test_a_better_model_is_promoted_and_a_worse_one_refused(project: NightProject) -> None:
    first = champion()
    project.write_lot("two", BETTER, 2)  # changed without `dvc add`
    better = run_night("command")
    second = champion()
    assert (better["state"], better["champion"], better["cases"]["new"]) == ("promoted", first, [])
    assert second != first
    assert better["data_digest_after"] != better["data_digest_before"]
    project.write_lot("three", WORSE, 3, cases=["case_77"])
    worse = run_night("command")
    assert worse["state"] == "refused"
    assert worse["cases"]["new"] == ["case_77"]
    assert "stays champion" in worse["reason"]
    assert worse["decision"]["challenger"] not in (first, second)
    assert champion() == second
    assert len(worse["version_numbers"]) == 3
    check_trail()


@pytest.mark.slow
def test_a_failing_stage_ends_the_night_with_its_reason_and_the_next_one_works(project: NightProject) -> None:
    sha256 = champion()
    project.write_lot("two", BETTER, 2, corrupt=True)
    record = run_night("command")
    assert record["state"] == "failed"
    assert record["reason"] == (
        "inspect: stage inspect failed: case_9 holds other voxels than its header says (case_9.nii.gz)"
    )
    assert record["fix"] == "copy it again"
    assert names(record)[-4:] == ["inspect", *CLOSING]
    assert champion() == sha256
    project.write_lot("two", BETTER, 2)
    assert run_night("command")["state"] == "promoted"
    check_trail()


@pytest.mark.slow
def test_a_night_killed_in_training_is_said_by_the_next_one_which_continues(project: NightProject) -> None:
    project.write_lot("two", BETTER, 2)
    project.hold()
    process = project.start()
    checkpoint = Path(".segtrail/checkpoints/unet/epoch")
    wait_until(checkpoint.is_file)
    worker = int(Path("pid").read_text())
    process.kill()
    process.wait()
    wait_until(lambda: not psutil.pid_exists(worker))  # nobody trains on for a night that is gone
    project.release()
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
def test_a_night_killed_while_registering_leaves_one_champion(project: NightProject) -> None:
    first = champion()
    project.write_lot("two", BETTER, 2)
    process = project.start()
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
def test_a_night_killed_in_its_push_is_reported_and_told_by_the_next_one(project: NightProject) -> None:
    """It had decided: that stands, with the report, the audit entry and the message that it could not make."""
    project.write_lot("two", BETTER, 2)
    project.start(KILLED_IN_PUSH).wait()
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
    project: NightProject, monkeypatch: pytest.MonkeyPatch
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
def test_an_interrupted_night_ends_what_it_started_and_says_so(project: NightProject) -> None:
    project.write_lot("two", BETTER, 2)
    project.hold()
    process = project.start()
    wait_until(Path(".segtrail/checkpoints/unet/epoch").is_file)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) != 0
    record = load_nights()[-1]
    assert (record["state"], record["reason"]) == ("failed", "repro: it was interrupted")
    check_trail()


@pytest.mark.slow
def test_a_push_that_failed_is_made_up_for_by_a_night_without_changes(project: NightProject) -> None:
    project.executed()
    remote = project.folder.parent / "remote"
    remote.mkdir()
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "remote", "add", "-q", "-d", "backup", str(remote)], check=True)
    path = Path("params.yaml")
    text = (
        path.read_text().replace("  push: false ", "  push: true ").replace('branch: "" ', "branch: nightly ")
    )
    path.write_text(text.replace('  remote: "" ', "  remote: elsewhere "))
    project.write_lot("two", BETTER, 2)
    project.add()
    failed = run_night("command")
    assert failed["state"] == "failed"
    assert failed["reason"].startswith("push: ")
    assert "; before that, promoted: version 2 is champion" in failed["reason"]
    assert not list(remote.iterdir())
    project.write_lot("three", WORSE, 3)
    project.add()
    assert run_night("command")["state"] == "failed"
    path.write_text(text)
    lost = NIGHTS / load_nights()[-1]["night_id"] / "night.json"
    record = json.loads(lost.read_text())
    record["commit"]["commit"] = "0" * 40  # somebody has thrown it away
    lost.write_text(json.dumps(record))
    project.executed()
    pushed = run_night("command")
    assert (pushed["state"], project.executed()) == ("skipped", [])
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


@pytest.mark.slow
def test_a_second_night_at_the_same_time_is_skipped_and_says_who_is_at_work(project: NightProject) -> None:
    running = start_night("schedule", None)
    with hold(LOCK, "night"):
        record = run_night("command")
    assert record["state"] == "skipped"
    assert (
        record["reason"] == f"the night of {running.record['started']} (PID {os.getpid()}) is still running"
    )
    assert names(record) == [*CLOSING]
    assert record["model"] == "phantom"
    assert project.executed() != []  # of the first night: nothing has run since


@pytest.mark.slow
def test_a_night_that_starts_too_late_is_skipped(project: NightProject) -> None:
    assert nightly.load_params().nightly.late_minutes == 240
    record = run_night("schedule", datetime.now(UTC) - timedelta(minutes=250))
    assert record["state"] == "skipped"
    assert (
        record["reason"] == "it could start only 4 h 10 min after its time; nightly.late_minutes allows 240"
    )
    assert names(record) == [*CLOSING]
    check_trail()


@pytest.mark.slow
def test_a_run_of_a_person_is_left_alone(project: NightProject) -> None:
    project.write_lot("two", BETTER, 2)
    with hold(Path(".segtrail/repro.lock"), "segtrail repro"):
        record = run_night("command")
    assert record["state"] == "skipped"
    assert f"another run is at work: process {os.getpid()} (segtrail repro)" in record["reason"]
    # Nor do its data change below it: the lot stays where it is.
    params = Path("params.yaml")
    params.write_text(params.read_text().replace('incoming: "" ', "incoming: arrived "))
    Path("arrived/lot").mkdir(parents=True)
    with hold(Path(".segtrail/repro.lock"), "segtrail repro"):
        record = run_night("command")
    assert record["state"] == "skipped"
    assert [step["name"] for step in record["steps"]] == ["sweep", "pull", "take_in", *CLOSING]
    check_trail()


@pytest.mark.slow
def test_wrong_params_end_the_night_before_anything_is_touched(project: NightProject) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("late_minutes: 240 ", "late_minuts: 240 "))
    record = run_night("command")
    assert record["state"] == "failed"
    assert "late_minuts" in record["reason"]
    assert record["steps"][0]["name"] == "audit"
    result = subprocess.run(
        [sys.executable, "-m", "flows.cli", "night"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "failed: start: " in result.stdout
    assert "late_minuts" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("drifted", "wanted"), [(False, []), (True, ["train"])])
def test_with_retrain_drift_new_data_alone_train_nothing(
    project: NightProject, monkeypatch: pytest.MonkeyPatch, drifted: bool, wanted: list[str]
) -> None:
    project.executed()
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("retrain: changed ", "retrain: drift "))
    project.write_lot("two", BETTER, 2)
    found = {
        "champion": champion(), "new_cases": ["case_77"], "reference_cases": 12, "drifted": drifted, "features": [],
        "sentence": "1 new case does what it does.", "picture": "",
    }  # fmt: skip
    asked: list[Any] = []

    def check(folder: Path, arrived: Any) -> dict[str, Any]:  # made-up cases have no fingerprints
        asked.append(arrived)
        return found

    monkeypatch.setattr("flows.drift.check_drift", check)
    record = run_night("command")
    assert asked == [None]  # the lot changes cases that are there: none is new by its name
    assert project.executed() == ["inspect", *wanted]
    assert record["state"] == ("promoted" if drifted else "skipped"), record["reason"]
    assert record["drift"] == found
    if not drifted:
        assert record["reason"] == (
            "not retrained, as nightly.retrain is drift and neither code nor params changed: "
            "1 new case does what it does."
        )
        path.write_text(path.read_text().replace("seed: 1 ", "seed: 2 "))  # params have changed
    check_trail()


@pytest.mark.slow
def test_a_skipped_night_ends_as_such_in_prefect(project: NightProject, prefect_harness: None) -> None:
    state = nightly.nightly_flow(return_state=True)
    record = load_nights()[-1]
    assert (state.name, state.is_completed(), state.message) == ("Skipped", True, record["reason"])
    assert record["trigger"] == "run-now"
    assert record["prefect_run_id"] == str(state.state_details.flow_run_id)
    assert record["prefect_url"].endswith(
        f"/runs/flow-run/{record['prefect_run_id']}"
    )  # as Prefect's pages have it
    project.write_lot("two", BETTER, 2, corrupt=True)
    failed = nightly.nightly_flow(return_state=True)
    assert failed.is_failed()
    assert failed.message == f"{load_nights()[-1]['reason']}\nfix: copy it again"
    assert (
        json.loads((NIGHTS / load_nights()[-1]["night_id"] / "night.json").read_text())["state"] == "failed"
    )
