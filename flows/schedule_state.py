"""What is known about the schedule without asking a server: who serves it, as what, and whether a person paused it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from flows import nights
from flows.environment import STATE
from flows.locks import Holder, find_holder
from flows.model_files import save_json
from flows.prefect_api import ask, find_deployment, list_runs, mark_crashed, set_state
from flows.provenance import user_name
from flows.servers import answers
from pipeline.errors import SegtrailError

Record = dict[str, Any]
FLOW, DEPLOYMENT = "nightly", "nightly"
FOLDER = STATE / "schedule"
LOCK = FOLDER / "serving.lock"
SERVED = FOLDER / "served.json"
PAUSE = FOLDER / "pause.json"
AT_WORK = ("RUNNING", "PENDING", "CANCELLING")
ANSWER_S = 10.0  # of a server that is there and busy; one that is not refuses at once
GONE = "its process is gone (killed, or the machine went down)"


@dataclass(frozen=True)
class Served:
    """What is served, or was served last.

    Attributes:
        url: API of the Prefect server.
        cron: When a night is due.
        timezone: Of `cron`.
        since: UTC, ISO 8601, when serving began.
        pid: Process that serves; 0 with a work pool.
        work_pool: Whose workers run the nights; "" when the serving process does.
        own_server: The serving process has started the server, which ends with it.
    """

    url: str
    cron: str
    timezone: str
    since: str
    pid: int = 0
    work_pool: str = ""
    own_server: bool = False

    @property
    def active_since(self) -> datetime:
        """From when on nights were due: serving began, and nobody has resumed it later."""
        return max(map(datetime.fromisoformat, (self.since, _load(PAUSE).get("since", self.since))))


def load_served() -> Served | None:
    """What was served last, None before the first time."""
    record = _load(SERVED)
    return Served(**record) if record else None


def save_served(served: Served) -> None:
    """Notes what is served from now on."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_json(asdict(served), SERVED)


def find_serving() -> Served | None:
    """What is served now, by a process of this machine or by a work pool; None when nothing is."""
    served = load_served()
    if served is None or served.work_pool:
        return served
    holder = find_holder(LOCK)
    return served if holder and holder.pid == served.pid else None


def find_starting() -> Holder | None:
    """The process that is about to serve, or does already."""
    return find_holder(LOCK)


def find_url() -> str | None:
    """API of the server that the schedule lives on, None when none answers."""
    wanted = [os.environ.get("PREFECT_API_URL")]
    if served := find_serving():
        wanted.insert(0, served.url)
    return next((url for url in wanted if url and answers(url, ANSWER_S)), None)


def is_paused(url: str | None) -> bool:
    """Whether no night starts by itself: as the server has it, else as was noted last."""
    deployment = find_deployment(url, FLOW, DEPLOYMENT) if url else None
    return bool(_load(PAUSE).get("paused", False) if deployment is None else deployment["paused"])


def note_pause(paused: bool, told: bool) -> None:
    """Notes a pause or its end.

    Args:
        paused: Whether no night shall start by itself.
        told: Whether the server knows; if not, it is told when it is next met.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    save_json({"paused": paused, "told": told, "since": now, "by": user_name()}, PAUSE)


def wanted_pause(deployment: Record | None) -> bool:
    """Whether the schedule starts paused: what a person said last, here or on Prefect's pages.

    Args:
        deployment: As the server has it, None for a new one.
    """
    noted = _load(PAUSE)
    if deployment is None or not noted.get("told", True):
        return bool(noted.get("paused", False))
    return bool(deployment["paused"])


def release_dead_runs(url: str, deployment_id: str, states: tuple[str, ...] = AT_WORK) -> list[str]:
    """Ends the runs that claim to be at work although their process is gone.

    Args:
        url: The server's API.
        deployment_id: Of the nightly deployment.
        states: Types of state that are looked at.

    Returns:
        Names of the runs that were ended.
    """
    suspects = list_runs(url, deployment_id, states)
    if not suspects:
        return []
    alive = find_runs_at_work()
    ended = []
    for run in suspects:
        if run["id"] in alive or ask(url, f"flow_runs/{run['id']}")["state_type"] not in states:
            continue
        if run["state_type"] == "CANCELLING":
            done = set_state(url, run["id"], "CANCELLED", "Cancelled", GONE)
        else:
            done = mark_crashed(url, run["id"], GONE)
        if done:
            ended.append(run["name"])
    return ended


def find_runs_at_work() -> set[str]:
    """Ids of the Prefect runs that a process works on: by its environment, or by the record of its night."""
    found = {
        str(record["prefect_run_id"])
        for record in nights.load_nights()
        if record["state"] == nights.RUNNING and nights.is_at_work(record)
    }
    for process in psutil.process_iter():
        try:
            run_id = process.environ().get("PREFECT__FLOW_RUN_ID")
            # What a run has started inherits its environment and may outlive it.
            if run_id and any(word.startswith("prefect") for word in process.cmdline()):
                found.add(run_id)
        except (psutil.Error, OSError):
            continue
    return found


def _load(path: Path) -> Record:
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise SegtrailError(
            f"this is not JSON: {error}", str(path), f"rm {path}; segtrail schedule"
        ) from error
    return record
