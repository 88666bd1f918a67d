"""How a DVC stage runs its Prefect flow: server, messages, exit code, and cases in batches."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO, TypeVar

import psutil

from flows.night_folder import NIGHT, night_tags
from flows.record_loss import tell_losses
from flows.servers import end_with, find_owners, find_server, is_recording, log_path, process_tags
from pipeline.disk import explain_full_disk
from pipeline.errors import SegtrailError
from pipeline.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

MOST_TASKS = 12  # Prefect records about 100 task runs a second: a task is a batch of cases
LOGGER = logging.getLogger("segtrail")


def show_progress() -> None:
    """Sends Segtrail's own log lines to the terminal, plain, one a line."""
    if not any(isinstance(handler, _Terminal) for handler in LOGGER.handlers):
        handler = _Terminal(sys.stdout)
        handler.setFormatter(logging.Formatter("  %(message)s"))
        LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


class _Terminal(logging.StreamHandler[TextIO]):
    """Our handler, told from Prefect's, which sends the same lines to its pages."""


def run_stage(flow: Any, *args: Any) -> None:
    """Runs a flow as a stage and ends the process: 0, or 1 with one clear error.

    It is recorded by the server of `PREFECT_API_URL`, else by one that all stages of a DVC process share.
    Without any server, and with `SEGTRAIL_NO_PREFECT=1`, the plain function is called: same result, no record.
    A stage ends when DVC above it is killed, because DVC would throw its output away.
    """
    show_progress()
    flow.fn = _timed(_explained(flow.fn), flow.name)
    signal.signal(signal.SIGTERM, _unwind)
    if owners := find_owners():
        end_with(owners)
    try:
        if is_recording():
            _run_recorded(flow, args)
        else:
            flow.fn(*args)
    except SegtrailError as error:
        sys.stdout.flush()
        sys.stderr.write(f"\nsegtrail: error: {error}\n")
        sys.exit(1)


def _run_recorded(flow: Any, args: tuple[Any, ...]) -> None:
    """Runs the flow under Prefect; a server that is lost costs the record, never the work."""
    server = find_server()
    if not server.wait():
        LOGGER.warning("no Prefect server: the stage runs unrecorded (see %s)", log_path())
        flow.fn(*args)
        return
    import httpx
    from prefect import tags
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    tell_losses()
    outcome = _Outcome(flow.fn)
    recorded = flow.with_options(flow_run_name=" ".join([flow.name, *map(str, args)]))
    recorded.fn = outcome.work
    # Nothing listens to heartbeats, and their thread holds up the end of each flow for up to a second.
    settings = {PREFECT_API_URL: server.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    try:
        with temporary_settings(settings), tags(*process_tags(), *_night_tags()):
            recorded(*args)
    except (httpx.HTTPError, PrefectException, RuntimeError, OSError) as error:
        if outcome.error is not None:
            raise outcome.error from None
        rest = "is complete" if outcome.done else "runs"
        LOGGER.warning("the Prefect server was lost; the stage %s, unrecorded (%r)", rest, error)
        if not outcome.done:
            flow.fn(*args)


def _night_tags() -> list[str]:
    """Tags of the night that the stage runs for, so that its run is found when the night is killed."""
    night_id = os.environ.get(NIGHT)
    return night_tags(night_id) if night_id else []


class _Outcome:
    """Remembers what the flow's function did, whatever Prefect makes of it afterwards."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.done = False
        self.error: BaseException | None = None

        @functools.wraps(function)
        def work(*args: Any, **kwargs: Any) -> Any:
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                self.error = error
                raise
            self.done = True
            return result

        self.work = work


def _explained(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes one clear error of a full disk, wherever the stage meets it."""

    @functools.wraps(function)
    def work(*args: Any, **kwargs: Any) -> Any:
        with explain_full_disk(Path("data"), "segtrail repro"):
            return function(*args, **kwargs)

    return work


def _timed(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
    """Notes when the stage's own work began and ended, for `benchmarks/overhead.py`."""
    if not (log := os.environ.get("SEGTRAIL_TIMINGS")):
        return function

    @functools.wraps(function)
    def work(*args: Any, **kwargs: Any) -> Any:
        began = time.time()
        result = function(*args, **kwargs)
        times = {"started": psutil.Process().create_time(), "began": began, "ended": time.time()}
        with Path(log).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"stage": stage, "pid": os.getpid(), **times}) + "\n")
        return result

    return work


def _unwind(number: int, frame: object) -> None:
    """Lets `finally` and `except` blocks end what they have started."""
    sys.exit(128 + number)


def map_cases(
    work: Callable[[T], R], items: Sequence[T], label: str, name: Callable[[T], str], workers: int = 0
) -> list[R]:
    """Applies a function to every case, in order, one progress line a case.

    Inside a flow run the cases form at most `MOST_TASKS` Prefect tasks; outside, plain calls.

    Args:
        work: Handles one case; its errors end the stage.
        items: The cases.
        label: Name of the step in progress lines and task runs.
        name: Text of an item in its progress line.
        workers: Threads; 0 = one a core.
    """
    progress = Progress(label, len(items))
    threads = workers or int(os.environ.get("SEGTRAIL_WORKERS", "0")) or os.cpu_count() or 1
    size = max(1, math.ceil(len(items) / MOST_TASKS))
    results: list[R] = []
    # All cases are handed out at once: no thread waits for the last case of a task.
    with ThreadPoolExecutor(threads) as pool:
        handled = pool.map(work, items)

        def batch(part: Sequence[T]) -> list[R]:
            done = []
            for item in part:
                done.append(next(handled))
                progress.step(name(item))
            return done

        try:
            for start in range(0, len(items), size):
                part = items[start : start + size]
                cases = f"{start + 1} to {start + len(part)}" if len(part) > 1 else f"{start + 1}"
                results += _as_task(batch, label, f"{label} {cases} of {len(items)}")(part)
        finally:
            pool.shutdown(cancel_futures=True)
    return results


def _as_task(function: Callable[..., Any], name: str, run_name: str) -> Callable[..., Any]:
    """Wraps a function as a Prefect task when a flow run is active."""
    from prefect import Task
    from prefect.cache_policies import NO_CACHE
    from prefect.context import FlowRunContext, TagsContext

    if FlowRunContext.get() is None:
        return function
    task = Task(function, name=name, task_run_name=run_name, cache_policy=NO_CACHE, persist_result=False)

    def run(*arguments: Any) -> Any:
        # For a task with tags Prefect asks the server for a place each time, and fails when that is too busy to answer.
        with TagsContext(current_tags=set()):
            return task(*arguments)

    return run
