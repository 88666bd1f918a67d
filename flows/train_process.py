"""The training process as the stage `train` sees it: started, followed epoch by epoch, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.servers import end_group
from pipeline import train_worker
from pipeline.errors import SegtrailError
from pipeline.history import read_history
from pipeline.training_job import TrainingJob
from pipeline.training_process import PARENT

POLL_S = 1.0


def run_worker(job: TrainingJob, log_epoch: Callable[[Mapping[str, str]], None]) -> None:
    """Runs the process and hands on each new row of its `history.csv`.

    Args:
        job: What it does.
        log_epoch: Takes a row.

    Raises:
        SegtrailError: The process failed; its own message stands above.
    """
    job.scratch.mkdir(parents=True, exist_ok=True)
    job_file = job.scratch / "job.json"
    job_file.write_text(job.model_dump_json(), encoding="utf-8")
    worker = subprocess.Popen(
        [sys.executable, "-m", train_worker.__name__, str(job_file)],
        env={**os.environ, PARENT: str(os.getpid())},
        start_new_session=True,
    )
    logged = 0
    try:
        while True:
            code = worker.poll()
            logged = _hand_on(job.scratch / "history.csv", logged, log_epoch)
            if code is not None:
                break
            time.sleep(POLL_S)
    finally:
        end_group(worker)
    if code != 0:
        raise SegtrailError(
            f"the training process ended with {_exit_text(code)}",
            f"train.{job.model}",
            "see its message above; after an interruption, dvc repro continues from the last checkpoint",
        )


def _hand_on(history: Path, logged: int, log_epoch: Callable[[Mapping[str, str]], None]) -> int:
    rows = read_history(history)
    for row in rows[logged:]:
        log_epoch(row)
    return len(rows)


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"signal {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")
