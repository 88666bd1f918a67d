"""What becomes of nights that were due while nobody served the schedule.

At most one is made up for: the last one, if the start is not later than `late_minutes` after its time. The others
are closed as Missed, so that Prefect's pages say why they never ran.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flows.cron import last_time, show_time
from flows.prefect_api import Record, ask, list_runs, set_state
from flows.schedule_state import Served

ANY_STATE = (
    "SCHEDULED",
    "PENDING",
    "RUNNING",
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "CRASHED",
    "PAUSED",
    "CANCELLING",
)

MADE_UP = "made up for"  # tag: by it the night knows that it was due


@dataclass(frozen=True)
class Missed:
    """Nights that were due while nobody served.

    Attributes:
        closed: Times of those that are left out.
        made_up: Time of the one that runs now, None when there is none.
    """

    closed: tuple[datetime, ...] = ()
    made_up: datetime | None = None

    def describe(self, late_minutes: int) -> list[str]:
        """Lines for a person."""
        lines = []
        if self.closed:
            number = f"{len(self.closed)} nights were" if len(self.closed) > 1 else "a night was"
            times = " to ".join(show_time(due) for due in dict.fromkeys((self.closed[0], self.closed[-1])))
            lines.append(f"{number} missed and not made up for ({times}; late_minutes is {late_minutes})")
        if self.made_up:
            lines.append(f"the night of {show_time(self.made_up)} was missed: it runs now")
        return lines


def settle_missed(
    url: str, deployment_id: str, earlier: Served | None, late_minutes: int, paused: bool, now: datetime
) -> Missed:
    """Closes the nights that were missed and leaves, or makes, the one that is made up for.

    Args:
        url: Of the Prefect server.
        deployment_id: Of the nightly deployment, registered as it is served from now on.
        earlier: What was served before, None when nothing was.
        late_minutes: How long after its time a night may still start.
        paused: Whether no night shall start by itself.
        now: The present.
    """
    runs = list_runs(
        url, deployment_id, ["SCHEDULED"], next_scheduled_start_time={"before_": now.isoformat()}
    )
    kept = None
    if not paused and runs and now - _due(runs[-1]) <= timedelta(minutes=late_minutes):
        kept = runs.pop()
    for run in runs:
        message = "nobody served the schedule when it was due" if not paused else "the schedule is paused"
        set_state(url, run["id"], "CANCELLED", "Missed", f"{message}; late_minutes is {late_minutes}")
    made_up = _due(kept) if kept else None
    if not kept and not paused and (due := _due_without_run(url, deployment_id, earlier, late_minutes, now)):
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}}
        body = {"state": state, "tags": [MADE_UP], "idempotency_key": f"{MADE_UP} {due.isoformat()}"}
        ask(url, f"deployments/{deployment_id}/create_flow_run", body)
        made_up = due
    return Missed(tuple(map(_due, runs)), made_up)


def _due_without_run(
    url: str, deployment_id: str, earlier: Served | None, late_minutes: int, now: datetime
) -> datetime | None:
    """A time within the limit for which the server, being down as well, has no run; None without one."""
    if earlier is None:
        return None
    due = last_time(earlier.cron, earlier.timezone, now)
    if due <= earlier.active_since or now - due > timedelta(minutes=late_minutes):
        return None
    second = timedelta(seconds=1)
    window = {"after_": (due - second).isoformat(), "before_": (due + second).isoformat()}
    return None if list_runs(url, deployment_id, ANY_STATE, expected_start_time=window) else due


def _due(run: Record) -> datetime:
    return datetime.fromisoformat(run["next_scheduled_start_time"] or run["expected_start_time"]).astimezone(
        UTC
    )
