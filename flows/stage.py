"""How a DVC stage runs its Prefect flow: server, messages, exit code, and cases in batches."""

from __future__ import annotations

import logging
import math
import os
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pipeline.errors import SegtrailError
from pipeline.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

MOST_TASKS = 12  # Prefect records about 100 task runs a second: a task is a batch of cases
LOGGER = logging.getLogger("segtrail")


def show_progress() -> None:
    """Sends Segtrail's own log lines to the terminal, plain, one a line."""
    if not LOGGER.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("  %(message)s"))
        LOGGER.addHandler(handler)
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


def server_answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a Prefect server is healthy at an API address such as `http://127.0.0.1:4200/api`."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def run_stage(flow: Any, *args: Any) -> None:
    """Runs a flow as a stage and ends the process: 0, or 1 with one clear error.

    A server named by `PREFECT_API_URL` that does not answer is left aside and the run is recorded in the
    project's own database. `SEGTRAIL_NO_PREFECT=1` calls the plain function.
    """
    show_progress()
    url = os.environ.get("PREFECT_API_URL")
    if url and not server_answers(url):
        LOGGER.info("no Prefect server at %s: the run is recorded in .segtrail/prefect", url)
        del os.environ["PREFECT_API_URL"]
    try:
        if os.environ.get("SEGTRAIL_NO_PREFECT"):
            flow.fn(*args)
        else:
            flow(*args)
    except SegtrailError as error:
        sys.stdout.flush()
        sys.stderr.write(f"\nsegtrail: error: {error}\n")
        sys.exit(1)


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
        workers: Threads within a batch; 0 = one a core.
    """
    progress = Progress(label, len(items))
    threads = workers or int(os.environ.get("SEGTRAIL_WORKERS", "0")) or os.cpu_count() or 1

    def batch(part: Sequence[T]) -> list[R]:
        results = []
        with ThreadPoolExecutor(threads) as pool:
            for item, result in zip(part, pool.map(work, part), strict=True):
                progress.step(name(item))
                results.append(result)
        return results

    run = _as_task(batch, label)
    size = max(1, math.ceil(len(items) / MOST_TASKS))
    return [r for start in range(0, len(items), size) for r in run(items[start : start + size])]


def _as_task(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    """Wraps a function as a Prefect task when a flow run is active."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is None:
        return function
    return task(function, name=label, cache_policy=NO_CACHE, persist_result=False)
