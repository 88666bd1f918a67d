"""The record of a night: `.segtrail/nights/<night_id>/night.json`, rewritten whole after each step."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from flows.locks import is_alive
from flows.model_files import load_json
from flows.night_folder import NIGHTS, make_folder, make_reserve, night_folder, with_reserve
from pipeline.disk import FULL, write_whole
from pipeline.errors import SegtrailError

LOGGER = logging.getLogger("segtrail")
Record = dict[str, Any]
RECORD = "night.json"
LATEST = NIGHTS / "latest.html"
RUNNING, PROMOTED, KEPT, REFUSED = "running", "promoted", "kept", "refused"
SKIPPED, FAILED, KILLED = "skipped", "failed", "killed"
DONE, NOTHING = "done", "nothing to do"
CLOSING = ("audit", "report", "notify")  # the last steps, of each night
SILENT_S = 86400.0  # a night that trains writes its log all the time
START_TOLERANCE_S = 2.0  # the start of a process is reckoned from the clock, which may be set meanwhile
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Segtrail: the last night</title>
<meta http-equiv="refresh" content="0; url={target}"></head><body><a href="{target}">{target}</a></body></html>
"""


class Step:
    """One step of a night, while it runs.

    Attributes:
        entry: Its line in the record.
    """

    def __init__(self, name: str) -> None:
        self.entry: Record = {"name": name, "state": RUNNING, "seconds": 0.0, "message": ""}
        self._began = time.monotonic()

    def say(self, message: str) -> None:
        """What it did, in a sentence."""
        self.entry["message"] = message

    def nothing(self, message: str) -> None:
        """There was nothing to do for it, and why."""
        self.entry |= {"state": NOTHING, "message": message}

    def fail(self, message: str) -> None:
        """It did not do its work, and why; the night goes on."""
        self.entry |= {"state": FAILED, "message": message}

    def end(self) -> None:
        """Notes how long it took; a step that says nothing else is done."""
        self.entry["seconds"] = round(time.monotonic() - self._began, 3)
        if self.entry["state"] == RUNNING:
            self.entry["state"] = DONE


class Night:
    """A night and its folder.

    Attributes:
        record: See `docs/how-to/retrain-every-night.md`.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    @property
    def folder(self) -> Path:
        """Holds the record, the log of the work, drift and report."""
        return night_folder(self.record["night_id"])

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Runs a block as a step: its state, seconds and message, also when it fails, stand in the record."""
        step = Step(name)
        self.record["steps"].append(step.entry)
        self.save()
        try:
            yield step
        except BaseException as error:
            step.fail(describe(error)[0])
            raise
        finally:
            step.end()
            self.save()
            LOGGER.info("%s: %s", name, step.entry["message"] or step.entry["state"])

    def save(self) -> None:
        """Writes the record; a full disk costs the record of this moment, for the end of a night the reserve."""
        text = json.dumps(self.record, indent=1, ensure_ascii=False) + "\n"
        write = partial(write_whole, self.folder / RECORD, text)
        try:
            if self.record["state"] == RUNNING:
                write()
            else:
                with_reserve(write)
        except OSError as error:
            if error.errno not in FULL:
                raise
            LOGGER.warning("the record of night %s could not be written: %s", self.record["night_id"], error)

    def end(self, state: str, reason: str, fix: str = "") -> None:
        """Says how the night ended; the steps after it may still add to the record.

        Args:
            state: "promoted", "kept", "refused", "skipped", "failed" or "killed".
            reason: One sentence that a person can act on.
            fix: What to do; "" when nothing is to be done.
        """
        self.record |= {"state": state, "reason": reason, "fix": fix}
        self.close()

    def fail(self, error: BaseException) -> None:
        """Ends the night as failed, with the text of an error; what it had reached before is told, too."""
        reason, fix = describe(error)
        last = self.record["steps"][-1]["name"] if self.record["steps"] else "start"
        state, reached = self.record["state"], self.record["reason"]
        before = "" if state == RUNNING else f"; before that, {state}: {reached}"
        self.end(FAILED, f"{last}: {reason}{before}", fix)

    def close(self) -> None:
        """Notes when the night ended, or how long its last steps took."""
        ended = datetime.now(UTC)
        started = datetime.fromisoformat(self.record["started"])
        self.record["ended"] = ended.isoformat(timespec="seconds")
        self.record["seconds"] = round((ended - started).total_seconds(), 3)
        self.save()


def start_night(trigger: str, due: datetime | None) -> Night:
    """Makes the folder and the record of a night that begins now.

    Args:
        trigger: "schedule", "run-now" or "command".
        due: When the schedule wanted it; None without one.

    Raises:
        SegtrailError: Not even a folder can be made.
    """
    now = datetime.now(UTC)
    try:
        night_id = with_reserve(lambda: make_folder(f"{now:%Y%m%dT%H%M%SZ}"))
    except OSError as error:
        raise SegtrailError(
            f"the folder of the night cannot be made: {error}", str(NIGHTS), "make space; segtrail night"
        ) from error
    make_reserve()
    night = Night(
        {
            "night_id": night_id, "trigger": trigger,
            "due": due.astimezone(UTC).isoformat(timespec="seconds") if due else None,
            "started": now.isoformat(timespec="seconds"), "ended": None, "seconds": None,
            "state": RUNNING, "reason": "", "fix": "",
            "pid": os.getpid(), "process_started": psutil.Process().create_time(), "host": socket.gethostname(),
            "prefect_run_id": None, "prefect_url": None, "steps": [], "dataset": "", "model": "",
            "champion": None, "data_digest_before": "", "data_digest_after": "", "params_sha256": "", "git_commit": "",
            "intake": None, "cases": None, "drift": None, "decision": None, "version_numbers": {},
            "report": None, "project_report": None, "push": None, "commit": None, "notified": [],
        }
    )  # fmt: skip
    night.save()
    return night


def load_night(night_id: str) -> Record:
    """The record of one night.

    Raises:
        SegtrailError: There is none, or it is damaged.
    """
    return load_json(night_folder(night_id) / RECORD, "night")


def load_nights() -> list[Record]:
    """The records of all nights, oldest first; one that cannot be read is left out."""
    found = []
    for path in NIGHTS.glob(f"*/{RECORD}"):
        try:
            found.append(load_night(path.parent.name))
        except SegtrailError as error:
            LOGGER.warning("%s: %s", error.where, error.what)
    return sorted(found, key=_order)


def load_latest() -> Record | None:
    """The record of the last night, None before the first."""
    nights = load_nights()
    return nights[-1] if nights else None


def find_dead_nights() -> list[Record]:
    """Nights that did not come to their last step and never will."""
    return [record for record in load_nights() if not is_closed(record) and not is_at_work(record)]


def is_closed(record: Record) -> bool:
    """Whether a night has come to its end: decided, audited, reported, told."""
    last = record["steps"][-1] if record["steps"] else {}
    return record["state"] != RUNNING and last.get("name") == CLOSING[-1] and last["state"] != RUNNING


def is_at_work(record: Record) -> bool:
    """Whether the process of a night lives; of a night of another machine, whether it gave a sign within a day.

    A container has another name after each start: what was killed in the one before must not run for ever.
    """
    if record.get("host", socket.gethostname()) != socket.gethostname():
        signs = [path.stat().st_mtime for path in night_folder(record["night_id"]).glob("*")]
        return time.time() - max(signs, default=0.0) < SILENT_S
    if not is_alive(record["pid"]):
        return False
    try:
        started = psutil.Process(record["pid"]).create_time()
    except psutil.Error:
        return False
    return bool(abs(started - record["process_started"]) < START_TOLERANCE_S)


def point_to_latest(night: Night) -> None:
    """Makes `latest.html` lead to the report of a night: a page of its own, so that links in the report hold."""
    if night.record["report"]:
        target = f"{night.record['night_id']}/{night.record['report']}"
        with_reserve(lambda: write_whole(LATEST, PAGE.format(target=target)))


def describe(error: BaseException) -> tuple[str, str]:
    """Reason and fix of whatever ended a step."""
    if isinstance(error, SegtrailError):
        return f"{error.what} ({error.where})" if error.where else error.what, error.fix
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full: {error}", "make space; the next night continues"
    if not isinstance(error, Exception):  # Ctrl-C, or a run that was cancelled
        return "it was interrupted", "segtrail night continues where this one stopped"
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__, "see the log of the night"


def _order(record: Record) -> tuple[str, int]:
    stem, _, number = record["night_id"].partition("-")
    return stem, int(number) if number.isdigit() else 1
