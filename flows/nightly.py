"""The nightly loop: new data in, `dvc repro`, gate, push, report, messages; recorded step by step.

`run_night` is a plain function; `nightly_flow` wraps it for Prefect's schedule. A night never raises for what a
person can mend: it ends as failed, with the reason, and the next one begins anew.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import State, flow, runtime
from prefect.states import Completed, Failed
from prefect.utilities.urls import url_for

from flows.environment import STATE
from flows.locks import LockBusyError, hold
from flows.night_changes import OtherRunError
from flows.night_folder import night_folder
from flows.night_outcome import audit_night, is_audited
from flows.night_work import NightWork
from flows.nights import (
    CLOSING,
    FAILED,
    SKIPPED,
    Night,
    Record,
    is_at_work,
    load_nights,
    point_to_latest,
    start_night,
)
from flows.servers import interrupt_on
from flows.stage import show_progress
from flows.unbroken import unbroken_output
from pipeline.config import Params, load_params
from pipeline.errors import SegtrailError
from pipeline.progress import format_seconds

LOGGER = logging.getLogger("segtrail")
LOCK = STATE / "night.lock"
SCHEDULED, MADE_UP = "auto-scheduled", "made up for"  # tags of runs that a schedule wanted
# Which of the two it is only the channels know.
NOBODY = "no message: no channel is set, or SEGTRAIL_NOTIFY leaves such a night out"


def run_night(trigger: str, due: datetime | None = None) -> Record:
    """Runs one night; a second one at the same time is recorded as skipped.

    Args:
        trigger: "schedule", "run-now" or "command".
        due: When the schedule wanted it; None without one.

    Returns:
        The record: see `docs/how-to/retrain-every-night.md`.

    Raises:
        SegtrailError: Not even the record can be written.
    """
    night = start_night(trigger, due)
    _note_prefect(night)
    _note_model(night)
    try:
        with unbroken_output(), hold(LOCK, f"night {night.record['night_id']}", wait=False):
            _carry_out(night, due)
    except LockBusyError as error:
        night.end(SKIPPED, _tell_busy(error, night.record["night_id"]))
        close_night(night)
    except (SegtrailError, OSError) as error:  # the lock itself: the disk is full, or locks no files
        night.fail(error)
        close_night(night)
    return night.record


def run_by_hand() -> int:
    """`segtrail night`: one night, told step by step.

    Returns:
        Exit code: 1 when the night failed, else 0.
    """
    show_progress()
    interrupt_on(signal.SIGTERM, signal.SIGHUP)
    record = run_night("command")
    fix = f"\n  fix: {record['fix']}" if record["fix"] else ""
    sys.stdout.write(f"night {record['night_id']} {record['state']}: {record['reason']}{fix}\n")
    if record["report"]:
        sys.stdout.write(
            f"report: {(night_folder(record['night_id']) / record['report']).resolve().as_uri()}\n"
        )
    return 1 if record["state"] == FAILED else 0


def _carry_out(night: Night, due: datetime | None) -> None:
    try:
        params = load_params()
        if late := _tell_late(due, params):
            night.end(SKIPPED, late)
        else:
            NightWork(night, params, tell_night).run()
    except OtherRunError as error:
        night.end(SKIPPED, error.what, error.fix)
    except (SegtrailError, OSError) as error:
        night.fail(error)
    except BaseException as error:
        night.fail(error)
        raise
    finally:
        close_night(night)


def _tell_late(due: datetime | None, params: Params) -> str:
    """Why it is too late for a night; "" when it is not."""
    late = datetime.now(UTC) - due if due else timedelta()
    if late <= timedelta(minutes=params.nightly.late_minutes):
        return ""
    return (
        f"it could start only {format_seconds(late.total_seconds())} after its time; "
        f"nightly.late_minutes allows {params.nightly.late_minutes}"
    )


def _tell_busy(error: LockBusyError, night_id: str) -> str:
    pid = error.holder.pid if error.holder else 0
    others = [r for r in load_nights() if r["night_id"] != night_id and r["pid"] == pid and is_at_work(r)]
    running = others[-1] if others else None
    return f"the night of {running['started'] if running else 'earlier'} (PID {pid}) is still running"


def close_night(night: Night) -> None:
    """The last steps of a night that has ended."""
    try:
        tell_night(night)
    finally:
        night.close()


def tell_night(night: Night) -> None:
    """Audit entry, report and messages of a night that has ended or was killed; what fails here fails alone."""
    with ExitStack() as steps:  # also after an error that nobody has thought of
        for name, work in reversed(tuple(zip(CLOSING, (_audit, _report, _notify), strict=True))):
            steps.callback(_tell_by, night, name, work)


def _tell_by(night: Night, name: str, work: Callable[[Night], str]) -> None:
    try:
        with night.step(name) as step:
            step.say(work(night))
    except (SegtrailError, OSError) as error:
        LOGGER.warning("%s of night %s: %s", name, night.record["night_id"], error)


def _audit(night: Night) -> str:
    if is_audited(night.record):
        return "the audit log holds it already"
    audit_night(night.record)
    return "entered into the audit log"


def _report(night: Night) -> str:
    from flows.morning import write_morning_report  # Matplotlib takes a second

    night.record["report"] = write_morning_report(night.folder).name
    point_to_latest(night)
    return str(night.folder / night.record["report"])


def _notify(night: Night) -> str:
    from flows.notify import notify

    night.record["notified"] = notify(night.record)
    sent = [entry["channel"] for entry in night.record["notified"] if entry["sent"]]
    failed = [f"{e['channel']}: {e['error']}" for e in night.record["notified"] if not e["sent"]]
    return "; ".join([f"sent by {', '.join(sent)}" if sent else NOBODY, *failed])


def _note_prefect(night: Night) -> None:
    """Which Prefect run this is, if any."""
    if run_id := runtime.flow_run.id:
        night.record |= {"prefect_run_id": str(run_id), "prefect_url": url_for("flow-run", obj_id=run_id)}
        night.save()


def _note_model(night: Night) -> None:
    """Of which model a night is, also when it does nothing; wrong params are told by who needs them."""
    try:
        params = load_params()
    except SegtrailError:
        return
    night.record |= {"model": params.register_.model_name, "dataset": params.inspect.dataset}


@flow(name="nightly", persist_result=False)
def nightly_flow() -> State[Any]:
    """One night, for Prefect; the run ends in a state that is named as the night ended and says why."""
    LOGGER.setLevel(logging.INFO)
    scheduled = bool({SCHEDULED, MADE_UP} & set(runtime.flow_run.tags or []))
    due = runtime.flow_run.scheduled_start_time if scheduled else None
    record = run_night("schedule" if scheduled else "run-now", due)
    if record["state"] == FAILED:
        return Failed(message=f"{record['reason']}\nfix: {record['fix']}")
    return Completed(name=record["state"].capitalize(), message=record["reason"])
