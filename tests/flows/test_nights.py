"""The record of a night: whole after each step, also when it is killed and when the disk is full."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from flows import nights
from flows.night_folder import NIGHTS, RESERVE, RESERVE_BYTES, night_folder
from flows.nights import Night, find_dead_nights, load_latest, load_night, load_nights, start_night
from pipeline.errors import SegtrailError

PROJECT = Path(__file__).resolve().parents[2]
# A night that says how far it came and then waits to be killed.
WAITING = """
import time
from flows.nights import start_night

night = start_night("schedule", None)
with night.step("sweep") as step:
    step.nothing("nothing")
with night.step("repro"):
    print(night.record["night_id"], flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def in_project(project: Path) -> None:
    """Each test has a folder of its own."""


def test_a_night_is_named_by_its_start_and_one_of_the_same_second_by_a_number() -> None:
    due = datetime(2026, 11, 27, 3, 0, tzinfo=timezone(timedelta(hours=1)))
    made = [start_night("schedule", due) for _ in range(3)]
    first = made[0].record
    assert re.fullmatch(r"\d{8}T\d{6}Z", first["night_id"])
    assert first["night_id"] == f"{datetime.fromisoformat(first['started']):%Y%m%dT%H%M%SZ}"
    assert first["due"] == "2026-11-27T02:00:00+00:00"
    assert (first["state"], first["pid"], first["trigger"]) == ("running", os.getpid(), "schedule")
    assert len({night.record["night_id"] for night in made}) == 3
    assert [record["night_id"] for record in load_nights()] == [night.record["night_id"] for night in made]
    assert load_latest() == made[2].record == load_night(made[2].record["night_id"])


def test_numbers_of_one_second_are_in_order_beyond_nine() -> None:
    record = start_night("command", None).record
    for number in (10, 2):
        name = f"{record['night_id']}-{number}"
        night_folder(name).mkdir()
        Night({**record, "night_id": name}).save()
    assert [r["night_id"].partition("-")[2] for r in load_nights()] == ["", "2", "10"]


def test_steps_say_what_they_did_and_a_failing_one_why() -> None:
    night = start_night("command", None)
    with night.step("sweep") as step:
        step.nothing("nobody was killed")
    with night.step("pull") as step:
        step.say("3 files")
        assert load_night(night.record["night_id"])["steps"][-1]["state"] == "running"
    with pytest.raises(SegtrailError), night.step("repro"):
        raise SegtrailError("stage train@unet failed: NaN", "data/models/unet", "lower the learning rate")
    with night.step("report") as step:
        step.fail("no figure")
    told = [(s["name"], s["state"], s["message"]) for s in load_night(night.record["night_id"])["steps"]]
    assert told == [
        ("sweep", "nothing to do", "nobody was killed"), ("pull", "done", "3 files"),
        ("repro", "failed", "stage train@unet failed: NaN (data/models/unet)"), ("report", "failed", "no figure"),
    ]  # fmt: skip


def test_a_failure_tells_the_step_the_fix_and_what_had_been_reached() -> None:
    night = start_night("command", None)
    with night.step("decision"):
        night.end("promoted", "version 2 is champion")
    error = SegtrailError("the remote does not answer", "DVC remote store", "segtrail data push")
    with pytest.raises(SegtrailError), night.step("push"):
        raise error
    night.fail(error)
    record = load_night(night.record["night_id"])
    assert (record["state"], record["fix"]) == ("failed", "segtrail data push")
    assert record["reason"] == (
        "push: the remote does not answer (DVC remote store); before that, promoted: version 2 is champion"
    )
    assert record["ended"] is not None
    assert record["seconds"] >= 0


def test_a_night_that_is_killed_is_dead_and_one_at_work_is_not() -> None:
    mine = start_night("command", None)
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    night_id = process.stdout.readline().strip()
    assert find_dead_nights() == []
    process.kill()
    process.communicate()
    (dead,) = find_dead_nights()
    assert dead["night_id"] == night_id
    assert [(s["name"], s["state"]) for s in dead["steps"]] == [
        ("sweep", "nothing to do"),
        ("repro", "running"),
    ]
    # Another process has got the number of a dead one: it started at another time.
    mine.record["process_started"] -= 3600.0
    mine.save()
    assert len(find_dead_nights()) == 2
    # Of another machine, or of this one under another name: at work while it gives signs.
    mine.record["host"] = "elsewhere"
    mine.save()
    assert len(find_dead_nights()) == 1
    for path in mine.folder.iterdir():
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    assert len(find_dead_nights()) == 2


def test_a_damaged_record_hides_no_other(messages: list[str]) -> None:
    night = start_night("command", None)
    other = NIGHTS / "20200101T000000Z"
    other.mkdir()
    (other / "night.json").write_text('{"night_id": ')
    assert [record["night_id"] for record in load_nights()] == [night.record["night_id"]]
    assert any("20200101T000000Z" in line for line in messages)


def test_the_latest_page_leads_to_the_report_beside_its_pictures() -> None:
    night = start_night("command", None)
    nights.point_to_latest(night)
    assert not nights.LATEST.exists()
    night.record["report"] = "report.html"
    nights.point_to_latest(night)
    assert f'url={night.record["night_id"]}/report.html"' in nights.LATEST.read_text()


@pytest.fixture
def small_disk(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`.segtrail` on a file system of 1 MiB; only root can mount one."""
    disk = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.decode()}")
    (project / ".segtrail").symlink_to(disk)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as stream, pytest.raises(OSError, match="No space left"):
        while True:
            stream.write(b"x" * 4096)


def test_a_full_disk_costs_the_reserve_and_not_the_record(small_disk: Path, messages: list[str]) -> None:
    night = start_night("command", None)
    assert RESERVE.stat().st_size == RESERVE_BYTES
    fill(small_disk)
    with pytest.raises(OSError, match="No space left") as error, night.step("repro"):
        (small_disk / "result").write_bytes(b"x" * 10_000)
    night.fail(error.value)
    assert not RESERVE.exists()
    record = load_night(night.record["night_id"])
    assert record["state"] == "failed"
    assert "the disk is full" in record["reason"]
    assert "make space" in record["fix"]
    fill(small_disk)  # nothing is left of the reserve either
    night.record["reason"] = "x" * 20_000
    night.save()
    assert load_night(night.record["night_id"]) == record
    assert any("could not be written" in line for line in messages)
    (small_disk / "filler").unlink()
    later = start_night("command", None)
    assert load_night(later.record["night_id"]) == later.record
    assert RESERVE.stat().st_size == RESERVE_BYTES
    assert datetime.fromisoformat(later.record["started"]).tzinfo == UTC
