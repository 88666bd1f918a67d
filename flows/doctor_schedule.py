"""The part of `segtrail doctor` that looks at the schedule and its nights."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.cron import last_time, show_time
from flows.doctor import OK, WARN, Check
from flows.night_folder import NIGHTS
from flows.nights import FAILED, KILLED, RUNNING
from flows.schedule_status import collect_status
from pipeline.config import load_params
from pipeline.errors import SegtrailError

Record = dict[str, Any]


def check_nights() -> Iterator[Check]:
    """Whether the schedule is served, and how the last night went; nothing where nobody has used either."""
    try:
        record = collect_status()
    except SegtrailError as error:
        yield Check(WARN, "schedule", f"{error.where}: {error.what}", error.fix)
        return
    if record["served"]:
        yield _check_served(record)
    elif record["pid"]:
        yield Check(OK, "schedule", f"process {record['pid']} is about to serve it")
    elif record["nights"]:
        yield Check(WARN, "schedule", "not served: no night starts by itself", "segtrail schedule")
    else:
        yield Check(OK, "schedule", "not served")
    if record["nights"]:
        yield _check_last(record["nights"][-1])
    if late := _overdue(record):
        yield Check(
            WARN,
            "nights",
            f"none is recorded for {late}",
            ".segtrail/prefect/server.log; segtrail schedule run-now",
        )


def _check_served(record: Record) -> Check:
    by = f"work pool {record['work_pool']}" if record["work_pool"] else f"process {record['pid']}"
    due = show_time(datetime.fromisoformat(record["next"][0]))
    if record["url"] is None:
        return Check(WARN, "schedule", f"served by {by}, but its server does not answer", "segtrail schedule")
    if record["paused"]:
        return Check(WARN, "schedule", f"paused (served by {by})", "segtrail schedule resume")
    if record["params"]:
        found = f"served as {record['cron']!r} ({record['timezone']}); params.yaml says {record['params']}"
        return Check(WARN, "schedule", found, "end segtrail schedule and start it again")
    return Check(OK, "schedule", f"served by {by}; the next night is {due}")


def _check_last(night: Record) -> Check:
    found = f"the last one, {night['night_id']}, {night['state']}: {night['reason']}"
    if night["state"] == RUNNING:
        if night["at_work"]:
            return Check(OK, "nights", f"{night['night_id']} is running")
        return Check(
            WARN, "nights", f"{night['night_id']} was killed", "the next night goes on; or segtrail night"
        )
    if night["state"] in (FAILED, KILLED):
        return Check(WARN, "nights", found, night["fix"] or f"see {NIGHTS / night['night_id']}")
    return Check(OK, "nights", found)


def _overdue(record: Record) -> str:
    """The last time a night was due without one that started; "" when all is well, or it may still start."""
    if not record["served"] or record["paused"] or not record["since"]:
        return ""
    now = datetime.now(UTC)
    due = last_time(record["cron"], record["timezone"], now)
    limit = timedelta(minutes=load_params().nightly.late_minutes)
    wanted = due.astimezone(UTC).isoformat(timespec="seconds")
    if due <= datetime.fromisoformat(record["since"]) or now - due < limit:
        return ""
    return "" if any(night["due"] == wanted for night in record["nights"]) else show_time(due)
