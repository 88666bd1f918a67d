"""`segtrail schedule`: serves the nightly deployment from this machine, or hands it to a work pool."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flows import nights
from flows.cron import check_schedule, next_times, show_time
from flows.locks import LockBusyError, hold
from flows.missed import settle_missed
from flows.night_folder import NIGHTS
from flows.params_edit import edit_params
from flows.prefect_api import find_deployment
from flows.schedule_lines import NightLines
from flows.schedule_state import (
    DEPLOYMENT,
    FLOW,
    LOCK,
    Served,
    load_served,
    note_pause,
    release_dead_runs,
    save_served,
    wanted_pause,
)
from flows.servers import STOP_TIMEOUT_S, PrefectServer, answers, interrupt_on, log_path, start_server
from flows.staging import replace_bytes
from flows.ui import PREFECT_PORT, find_port
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.nightly_params import NightlyParams

if TYPE_CHECKING:
    from flows.schedule_runner import NightlyRunner

PARAMS = Path("params.yaml")
LOOK_EVERY_S = 1.0
SWEEP_EVERY_S = 60.0
AGAIN_AFTER_S = 10.0


def serve_schedule(cron: str | None = None, timezone: str | None = None) -> int:
    """Serves the nightly deployment until Ctrl-C or SIGTERM.

    Args:
        cron: Written to params first; None: as it stands there.
        timezone: The same.

    Returns:
        Exit code: 0 after Ctrl-C.

    Raises:
        SegtrailError: Cron text or time zone is wrong, somebody serves already, or no server answers.
    """
    check_wanted(cron, timezone)
    try:
        with hold(LOCK, "segtrail schedule", wait=False):
            params = write_wanted(cron, timezone)
            interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            server = PrefectServer("")
            try:
                server = open_server()
                _serve(server, params)
            except KeyboardInterrupt:
                _write("\nno longer served; `segtrail schedule` goes on\n")
            finally:
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave a server behind
                server.stop()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except LockBusyError as busy:
        raise _served_already(busy) from None
    return 0


def check_wanted(cron: str | None, timezone: str | None) -> None:
    """Checks cron text and time zone, those of params where none is given.

    Raises:
        SegtrailError: One of them is wrong.
    """
    params = load_params().nightly
    check_schedule(params.cron if cron is None else cron, params.timezone if timezone is None else timezone)


def write_wanted(cron: str | None, timezone: str | None) -> NightlyParams:
    """Writes cron text and time zone into `params.yaml`: what is served stays on record."""
    part = {key: value for key, value in (("cron", cron), ("timezone", timezone)) if value is not None}
    if part:
        edit = edit_params([{"nightly": part}], PARAMS, "segtrail schedule")
        replace_bytes(PARAMS, edit.text.encode())
        for change in edit.changes:
            _write(f"params.yaml: {change}\n")
    return load_params().nightly


def open_server() -> PrefectServer:
    """The server of `PREFECT_API_URL`, or this project's own one with scheduler and pages.

    From here on this process and what it starts speak to it.

    Raises:
        SegtrailError: It does not answer.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        if not answers(url, 10):
            raise SegtrailError(
                "no Prefect server answers", f"PREFECT_API_URL={url}",
                "start that server; or unset PREFECT_API_URL: one of this project is started then",
            )  # fmt: skip
        return PrefectServer(url)
    return _start(find_port(_choose_port()))


def _choose_port() -> int:
    """The port of the time before: a night that has outlived its serving process still speaks to it."""
    served = load_served()
    if served is None or not served.own_server:
        return PREFECT_PORT
    end = time.monotonic() + 2 * STOP_TIMEOUT_S  # a server whose owner was killed takes some seconds to end
    while answers(served.url, 1) and time.monotonic() < end:
        time.sleep(LOOK_EVERY_S / 2)
    return urlsplit(served.url).port or PREFECT_PORT


def _start(port: int) -> PrefectServer:
    server = start_server(os.getpid(), port, with_ui=True)
    if not server.wait():
        server.stop()
        raise SegtrailError("the Prefect server did not start", str(log_path()), "segtrail doctor")
    os.environ["PREFECT_API_URL"] = server.url
    return server


def _serve(server: PrefectServer, params: NightlyParams) -> None:
    """Registers the deployment and runs its nights; only an exception ends it."""
    from flows.schedule_runner import NightlyRunner, build_deployment  # only now: Prefect reads its settings

    earlier, known = load_served(), find_deployment(server.url, FLOW, DEPLOYMENT)
    if known is not None and not known["work_pool_name"]:
        for name in release_dead_runs(server.url, known["id"]):
            _write(f"run {name}: its process is gone; it says Crashed now\n")
    paused = wanted_pause(known)
    runner = NightlyRunner(build_deployment(params, paused))
    now = datetime.now(UTC)
    missed = settle_missed(server.url, runner.deployment_id, earlier, params.late_minutes, paused, now)
    since, own = now.isoformat(timespec="seconds"), server.process is not None
    save_served(Served(server.url, params.cron, params.timezone, since, os.getpid(), own_server=own))
    note_pause(paused, told=True)
    lines = [*missed.describe(params.late_minutes), *_describe(server.url, params, paused)]
    _write("\n".join(lines) + "\n")
    try:
        runner.start()
        _watch(server, runner)
    finally:
        runner.stop()
        if answers(server.url):
            _keep_pause(server.url)
            _try(lambda: release_dead_runs(server.url, runner.deployment_id))


def _keep_pause(url: str) -> None:
    """Notes whether a person has paused the schedule on Prefect's pages meanwhile."""
    deployment = find_deployment(url, FLOW, DEPLOYMENT)
    if deployment is not None and deployment["paused"] != wanted_pause(None):
        note_pause(deployment["paused"], told=True)


def _watch(server: PrefectServer, runner: NightlyRunner) -> None:
    """Keeps server and runner alive and closes runs that died; returns never."""
    swept, lines = time.monotonic(), NightLines()
    while True:
        time.sleep(LOOK_EVERY_S)
        for line in lines.look():
            _say(line)
        if server.process is not None and server.process.poll() is not None:
            _say("the Prefect server has ended; it is started again")
            _try(lambda: _revive(server))
        elif not runner.runs:
            _say("the Prefect server did not answer for a while; it is asked again")
            time.sleep(AGAIN_AFTER_S)
            _try(runner.start_again)
        elif time.monotonic() - swept > SWEEP_EVERY_S:
            swept = time.monotonic()
            _try(lambda: release_dead_runs(server.url, runner.deployment_id, ("RUNNING", "CANCELLING")))


def _revive(server: PrefectServer) -> None:
    """Starts a server that has ended again, on its port, which the nights know."""
    port = urlsplit(server.url).port or PREFECT_PORT
    server.process = start_server(os.getpid(), port, with_ui=True).process
    server.wait()


def _try(action: Callable[[], object]) -> None:
    """Does what is tried again later when the server does not answer."""
    from flows.schedule_runner import LOST

    try:
        action()
    except (SegtrailError, *LOST) as error:
        _say(str(error).partition("\n")[0])


def _describe(url: str, params: NightlyParams, paused: bool) -> list[str]:
    pages = url.removesuffix("/api")
    due = next_times(params.cron, params.timezone, 3)
    lines = [
        f"Prefect  {pages}",
        f"  runs   {pages}/runs",
        f"next     {show_time(due[0])}  ({params.cron}, {params.timezone})",
        *(f"         {show_time(time_)}" for time_ in due[1:]),
        f"reports  {nights.LATEST} (all: {NIGHTS}/)",
    ]
    if paused:
        lines.append("paused: no night starts until `segtrail schedule resume`")
    return [*lines, "Ctrl-C ends it."]


def _served_already(busy: LockBusyError) -> SegtrailError:
    holder = busy.holder
    who = "another process" if holder is None else holder.describe()
    end = "" if holder is None else f"; kill {holder.pid} ends it"
    return SegtrailError(
        f"the schedule of this project is served already by {who}",
        str(LOCK),
        f"segtrail schedule status{end}",
    )


def _say(text: str) -> None:
    """Prints a line; a full disk or a closed terminal must not end the nights."""
    with suppress(OSError):
        _write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {text}\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
