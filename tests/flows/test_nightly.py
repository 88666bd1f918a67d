"""Whole nights: what they do, and why they do nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow_store import delete_store
from night_project import BETTER, WORSE, NightProject
from night_trail import CLOSING, STEPS, champion, check_trail, names

from flows import nightly
from flows.hand import tell_history
from flows.locks import hold
from flows.night_folder import NIGHTS
from flows.nightly import LOCK, run_night
from flows.nights import load_night, load_nights, start_night


@pytest.mark.slow
def test_the_first_night_trains_and_promotes_and_its_record_tells_all(nightly_project: NightProject) -> None:
    assert nightly_project.executed() == ["inspect", "train"]
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
def test_a_night_without_changes_is_skipped_and_no_stage_runs(nightly_project: NightProject) -> None:
    nightly_project.executed()
    before = {path: path.stat().st_mtime_ns for path in Path("data").rglob("*") if path.is_file()}
    record = run_night("schedule", datetime.now(UTC) - timedelta(minutes=1))
    assert record["state"] == "skipped"
    assert record["reason"] == "nothing changed: data, code and params are those of the last run"
    assert nightly_project.executed() == []
    assert before == {path: path.stat().st_mtime_ns for path in Path("data").rglob("*") if path.is_file()}
    assert names(record) == [*STEPS[:4], "compare", "commit", "push", *CLOSING]
    assert load_night(record["night_id"]) == record
    check_trail()


@pytest.mark.slow
def test_a_deleted_mlflow_store_is_rebuilt_by_a_night_without_changes(
    nightly_project: NightProject, store_template: Path
) -> None:
    nightly_project.executed()
    sha256 = champion()
    delete_store(nightly_project.folder, store_template)
    record = run_night("command")
    assert (record["state"], nightly_project.executed()) == ("kept", [])
    assert record["reason"].startswith(
        "nothing changed, but MLflow lacks 1 of the versions of phantom: rebuilt"
    )
    assert champion() == sha256
    assert run_night("command")["state"] == "skipped"
    check_trail()


@pytest.mark.slow
def test_a_better_model_is_promoted_and_a_worse_one_refused(nightly_project: NightProject) -> None:
    first = champion()
    nightly_project.write_lot("two", BETTER, 2)  # changed without `dvc add`
    better = run_night("command")
    second = champion()
    assert (better["state"], better["champion"], better["cases"]["new"]) == ("promoted", first, [])
    assert second != first
    assert better["data_digest_after"] != better["data_digest_before"]
    nightly_project.write_lot("three", WORSE, 3, cases=["case_77"])
    worse = run_night("command")
    assert worse["state"] == "refused"
    assert worse["cases"]["new"] == ["case_77"]
    assert "stays champion" in worse["reason"]
    assert worse["decision"]["challenger"] not in (first, second)
    assert champion() == second
    assert len(worse["version_numbers"]) == 3
    check_trail()


@pytest.mark.slow
def test_a_failing_stage_ends_the_night_with_its_reason_and_the_next_one_works(
    nightly_project: NightProject,
) -> None:
    sha256 = champion()
    nightly_project.write_lot("two", BETTER, 2, corrupt=True)
    record = run_night("command")
    assert record["state"] == "failed"
    assert record["reason"] == (
        "inspect: stage inspect failed: case_9 holds other voxels than its header says (case_9.nii.gz)"
    )
    assert record["fix"] == "copy it again"
    assert names(record)[-4:] == ["inspect", *CLOSING]
    assert champion() == sha256
    nightly_project.write_lot("two", BETTER, 2)
    assert run_night("command")["state"] == "promoted"
    check_trail()


@pytest.mark.slow
def test_a_second_night_at_the_same_time_is_skipped_and_says_who_is_at_work(
    nightly_project: NightProject,
) -> None:
    running = start_night("schedule", None)
    with hold(LOCK, "night"):
        record = run_night("command")
    assert record["state"] == "skipped"
    assert (
        record["reason"] == f"the night of {running.record['started']} (PID {os.getpid()}) is still running"
    )
    assert names(record) == [*CLOSING]
    assert record["model"] == "phantom"
    assert nightly_project.executed() != []  # of the first night: nothing has run since


@pytest.mark.slow
def test_a_night_that_starts_too_late_is_skipped(nightly_project: NightProject) -> None:
    assert nightly.load_params().nightly.late_minutes == 240
    record = run_night("schedule", datetime.now(UTC) - timedelta(minutes=250))
    assert record["state"] == "skipped"
    assert (
        record["reason"] == "it could start only 4 h 10 min after its time; nightly.late_minutes allows 240"
    )
    assert names(record) == [*CLOSING]
    check_trail()


@pytest.mark.slow
def test_a_run_of_a_person_is_left_alone(nightly_project: NightProject) -> None:
    nightly_project.write_lot("two", BETTER, 2)
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
def test_wrong_params_end_the_night_before_anything_is_touched(nightly_project: NightProject) -> None:
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
    nightly_project: NightProject, monkeypatch: pytest.MonkeyPatch, drifted: bool, wanted: list[str]
) -> None:
    nightly_project.executed()
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("retrain: changed ", "retrain: drift "))
    nightly_project.write_lot("two", BETTER, 2)
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
    assert nightly_project.executed() == ["inspect", *wanted]
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
def test_a_skipped_night_ends_as_such_in_prefect(
    nightly_project: NightProject, prefect_harness: None
) -> None:
    state = nightly.nightly_flow(return_state=True)
    record = load_nights()[-1]
    assert (state.name, state.is_completed(), state.message) == ("Skipped", True, record["reason"])
    assert record["trigger"] == "run-now"
    assert record["prefect_run_id"] == str(state.state_details.flow_run_id)
    assert record["prefect_url"].endswith(
        f"/runs/flow-run/{record['prefect_run_id']}"
    )  # as Prefect's pages have it
    nightly_project.write_lot("two", BETTER, 2, corrupt=True)
    failed = nightly.nightly_flow(return_state=True)
    assert failed.is_failed()
    assert failed.message == f"{load_nights()[-1]['reason']}\nfix: copy it again"
    assert (
        json.loads((NIGHTS / load_nights()[-1]["night_id"] / "night.json").read_text())["state"] == "failed"
    )
