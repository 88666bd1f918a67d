"""Stage `train`: starts the training process, follows its history into MLflow, and puts the bundle in place."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow

from flows import tracking
from flows.environment import STATE
from flows.provenance import collect_provenance
from flows.servers import end_group
from flows.stage import run_stage
from flows.stage_code import code_digest
from pipeline.config import InstanceTrainParams, SemanticTrainParams, load_params
from pipeline.errors import SegtrailError
from pipeline.history import read_history
from pipeline.splits import load_splits
from pipeline.store import MANIFEST, content_key
from pipeline.train_worker import PARENT, TrainingJob

LOGGER = logging.getLogger("segtrail")
PLAN = Path("data/plan/plan.json")
STORE = Path("data/preprocessed")
SPLITS = Path("data/splits/splits.csv")
POLL_S = 1.0


def build_job(
    model: str, params: SemanticTrainParams | InstanceTrainParams, provenance: dict[str, Any]
) -> TrainingJob:
    """Describes the training; its scratch folder is named by everything that decides the result.

    So a killed training is continued only while data, plan, split, params, code and packages are the same.
    """
    sides = load_splits(SPLITS)
    entries = json.loads((STORE / MANIFEST).read_text(encoding="utf-8"))
    key = content_key(
        params.model_dump_json(),
        PLAN.read_text(encoding="utf-8"),
        SPLITS.read_text(encoding="utf-8"),
        json.dumps({case: entry["key"] for case, entry in sorted(entries.items())}),
        json.dumps(provenance["packages"], sort_keys=True),
        code_digest("train"),
    )
    scratch = STATE / "checkpoints" / model / key[:16]
    labelled = {case_id: side for case_id, side in sides.items() if case_id in entries}
    return TrainingJob(
        model=model,
        params=params,
        plan=PLAN,
        store=STORE,
        training_cases=tuple(sorted(c for c, side in labelled.items() if side == "train")),
        validation_cases=tuple(sorted(c for c, side in labelled.items() if side == "validation")),
        scratch=scratch,
        output=scratch / "finished",
        provenance=provenance,
        devices=os.environ.get("SEGTRAIL_DEVICES", "auto"),
        workers=int(os.environ.get("SEGTRAIL_LOADERS", "0")),
    )


def run_worker(job: TrainingJob, run_id: str | None) -> None:
    """Runs the training process and logs each new epoch to MLflow.

    Raises:
        SegtrailError: The process failed; its own message stands above.
    """
    job_file = job.scratch / "job.json"
    job_file.write_text(job.model_dump_json(), encoding="utf-8")
    worker = subprocess.Popen(
        [sys.executable, "-m", "pipeline.train_worker", str(job_file)],
        env={**os.environ, PARENT: str(os.getpid())},
        start_new_session=True,
    )
    logged = 0
    try:
        while True:
            code = worker.poll()
            logged = _log_new_epochs(job.scratch / "history.csv", logged, run_id)
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


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"signal {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")


def _log_new_epochs(history: Path, logged: int, run_id: str | None) -> int:
    rows = read_history(history)
    for row in rows[logged:]:
        if run_id is not None:
            tracking.log_epoch(run_id, row)
    return len(rows)


def _run_id(job: TrainingJob, model: str, provenance: dict[str, Any]) -> str | None:
    """The MLflow run of this training; a continued training keeps the run it began."""
    job.scratch.mkdir(parents=True, exist_ok=True)
    memory = job.scratch / "mlflow_run"
    if memory.exists() and (known := memory.read_text(encoding="utf-8")):
        return known
    run_id = tracking.start_training_run(model, job.params.model_dump(mode="json"), provenance)
    if run_id is not None:
        memory.write_text(run_id, encoding="utf-8")
    return run_id


def _write_record(job: TrainingJob, run_id: str | None) -> None:
    """Notes in `run.json` how the bundle came about; its presence says that the training is over."""
    result = json.loads((job.output / "result.json").read_text(encoding="utf-8"))
    started = datetime.fromtimestamp(result.pop("started"), UTC)
    record = {
        "model": job.model,
        "run_id": run_id or "",
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "training_cases": len(job.training_cases),
        "validation_cases": len(job.validation_cases),
        "git_commit": job.provenance.get("git_commit", "unknown"),
        **result,
    }
    partial = job.output / "run.json.tmp"
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(job.output / "run.json")


def _publish(job: TrainingJob) -> None:
    """Copies the finished bundle to the output.

    The scratch folder stays until `register` has seen the model: should this stage be killed before DVC has
    noted its output, the next run publishes the same bundle again instead of training anew.
    """
    target = Path("data/models") / job.model
    partial = STATE / "publish" / job.model
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(job.output, partial, ignore=shutil.ignore_patterns("result.json"))
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(target)


def _train(job: TrainingJob, run_id: str | None) -> None:
    try:
        run_worker(job, run_id)
    except SegtrailError:
        tracking.finish_training_run(run_id, "FAILED")
        raise
    except BaseException:
        tracking.finish_training_run(run_id, "KILLED")
        raise
    _write_record(job, run_id)


@flow(name="train")
def train_flow(model: str) -> None:
    """Trains a model within its budget into `data/models/<model>/`.

    Args:
        model: One of `params.models`.
    """
    params = load_params().train.of(model)
    provenance = collect_provenance()
    job = build_job(model, params, provenance)
    LOGGER.info(
        "train %s: %d training and %d validation cases, at most %d epochs or %g minutes",
        model,
        len(job.training_cases),
        len(job.validation_cases),
        params.max_epochs,
        params.max_minutes,
    )
    run_id = _run_id(job, model, provenance)
    if (job.output / "run.json").is_file():
        LOGGER.info("this training had finished before it was interrupted: its bundle is taken")
    else:
        _train(job, run_id)
    _publish(job)
    tracking.record_training(model)
    tracking.finish_training_run(run_id, "FINISHED")


if __name__ == "__main__":
    run_stage(train_flow, sys.argv[1])
