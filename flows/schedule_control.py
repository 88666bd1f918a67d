"""`segtrail schedule pause`, `resume` and `run-now`."""

from __future__ import annotations

from uuid import uuid4

from flows.cron import next_times, show_time
from flows.prefect_api import Record, ask, find_deployment, list_runs
from flows.schedule_state import (
    AT_WORK,
    DEPLOYMENT,
    FLOW,
    find_serving,
    find_url,
    note_pause,
    release_dead_runs,
)
from pipeline.config import load_params
from pipeline.errors import SegtrailError

RUN_NOW = "run-now"  # tag of such a run


def set_pause(paused: bool) -> str:
    """Lets no night start by itself any more, or lets them again; a night at work goes on.

    The server is told when one answers; else it is as soon as the schedule is served again.

    Returns:
        What came of it, for a person.
    """
    url = find_url()
    deployment = find_deployment(url, FLOW, DEPLOYMENT) if url else None
    if url and deployment:
        ask(url, f"deployments/{deployment['id']}/{'pause' if paused else 'resume'}_deployment", {})
    note_pause(paused, told=deployment is not None)
    served = find_serving()
    if paused:
        return "paused: no night starts until `segtrail schedule resume`" + (
            "" if served else "; nothing is served here now, and it stays so"
        )
    if not served:
        return "not paused any more; nothing is served here now: segtrail schedule"
    params = load_params().nightly
    return f"resumed: the next night is {show_time(next_times(params.cron, params.timezone, 1)[0])}"


def run_now() -> str:
    """Asks the server for a night at once, whether the schedule is paused or not.

    Returns:
        Where it can be seen, for a person.

    Raises:
        SegtrailError: Nothing is served here, or a night is at work.
    """
    serving = find_serving()
    url = find_url() if serving else None
    deployment = find_deployment(url, FLOW, DEPLOYMENT) if url else None
    if serving is None or url is None or deployment is None:
        raise SegtrailError(
            "the schedule is not served here", "segtrail schedule status",
            "segtrail night runs a night here and now; segtrail schedule serves the schedule",
        )  # fmt: skip
    if not serving.work_pool:  # its workers may be on other machines
        release_dead_runs(url, deployment["id"], ("RUNNING",))
    if busy := list_runs(url, deployment["id"], AT_WORK):
        raise SegtrailError(
            f"a night is at work: run {busy[0]['name']}", _page(url, busy[0]),
            "wait for its end: segtrail schedule status",
        )  # fmt: skip
    body = {"tags": [RUN_NOW], "idempotency_key": str(uuid4())}  # asked twice, it is one run
    run: Record = ask(url, f"deployments/{deployment['id']}/create_flow_run", body)
    return f"run {run['name']} starts within some seconds: {_page(url, run)}"


def _page(url: str, run: Record) -> str:
    return f"{url.removesuffix('/api')}/runs/flow-run/{run['id']}"
