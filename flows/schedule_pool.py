"""`segtrail schedule --work-pool`: the nights are left to Prefect workers of this machine or of others."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime
from pathlib import Path

from flows.cron import next_times, show_time
from flows.schedule import check_wanted, write_wanted
from flows.schedule_state import (
    DEPLOYMENT,
    FLOW,
    LOCK,
    Served,
    find_starting,
    note_pause,
    save_served,
    wanted_pause,
)
from flows.servers import answers
from pipeline.errors import SegtrailError

# What must be set before a worker's process imports Prefect; the rest is set by the flow itself.
PASSED_ON = (
    "PREFECT_LOGGING_EXTRA_LOGGERS",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW",
    "PREFECT_CLIENT_MAX_RETRIES",
    "PREFECT_SERVER_ANALYTICS_ENABLED",
    "DO_NOT_TRACK",
)


def deploy_to_pool(pool: str, cron: str | None = None, timezone: str | None = None) -> str:
    """Registers the nightly deployment for the workers of a pool, which is made when it is missing.

    Args:
        pool: Name of a work pool of the type process.
        cron: Written to params first; None: as it stands there.
        timezone: The same.

    Returns:
        What to do next, for a person.

    Raises:
        SegtrailError: Cron text, time zone or pool is wrong, no server answers, or this machine serves.
    """
    check_wanted(cron, timezone)
    if holder := find_starting():
        raise SegtrailError(
            f"the schedule of this project is served by {holder.describe()}", str(LOCK),
            f"kill {holder.pid}, then the same again",
        )  # fmt: skip
    url = _find_server()
    params = write_wanted(cron, timezone)

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    from flows.prefect_api import find_deployment
    from flows.schedule_runner import build_deployment, insist

    with get_client(sync_client=True) as client:
        try:
            kind = client.read_work_pool(pool).type
        except ObjectNotFound:
            kind = client.create_work_pool(WorkPoolCreate(name=pool, type="process")).type
    if kind != "process":
        raise SegtrailError(
            f"work pool {pool} is of type {kind}, not process",
            url,
            "name another one; a new name makes a pool",
        )
    known = find_deployment(url, FLOW, DEPLOYMENT)
    paused = wanted_pause(known)
    deployment = build_deployment(params, paused)
    deployment.work_pool_name = pool
    deployment.job_variables = {
        "working_dir": str(Path.cwd()),
        "env": {name: os.environ[name] for name in PASSED_ON if name in os.environ},
    }
    insist(deployment.apply)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    save_served(Served(url, params.cron, params.timezone, now, work_pool=pool))
    note_pause(paused, told=True)
    return "\n".join(_describe(url, pool, params.cron, params.timezone, paused))


def _find_server() -> str:
    """A server that lives longer than this command.

    Raises:
        SegtrailError: None is named, or it does not answer.
    """
    url = os.environ.get("PREFECT_API_URL", "")
    if not url or not answers(url, 10):
        raise SegtrailError(
            "a work pool needs a Prefect server that stays up", f"PREFECT_API_URL={url or '(not set)'}",
            "start one (segtrail ui, or prefect server start) and set PREFECT_API_URL to its address with /api",
        )  # fmt: skip
    return url


def _describe(url: str, pool: str, cron: str, timezone: str, paused: bool) -> list[str]:
    worker = f"PREFECT_API_URL={url} .venv/bin/prefect worker start --pool {shlex.quote(pool)}"
    lines = [
        f"deployed to work pool {pool}: {url.removesuffix('/api')}/work-pools/work-pool/{pool}",
        *(f"next     {show_time(due)}" for due in next_times(cron, timezone, 3)),
        f"start a worker in this folder: {worker}",
    ]
    if paused:
        lines.append("paused: no night starts until `segtrail schedule resume`")
    return lines
