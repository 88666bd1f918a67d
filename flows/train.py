"""Stage `train`: starts the training processes, follows their curves into MLflow, and puts the bundle in place.

With `folds` above 1 the stage trains one network a fold, one after the other, and joins them. A fold has a scratch
folder below that of the model, so a killed stage goes on in the fold that it was in.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow

from flows import tracking
from flows.environment import STATE
from flows.provenance import collect_provenance
from flows.stage import run_stage
from flows.train_jobs import build_folds, build_job, check_planned
from flows.train_process import run_worker
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.progress import format_seconds
from pipeline.training_job import TrainingJob

LOGGER = logging.getLogger("segtrail")
PRIVATE = ("result.json", "predictions")  # what of a finished training stays in its scratch folder


def _remembered_run(scratch: Path) -> str | None:
    """The MLflow run that a training began; a continued one keeps it."""
    memory = scratch / "mlflow_run"
    return (memory.read_text(encoding="utf-8") or None) if memory.exists() else None


def _remember_run(scratch: Path, run_id: str | None) -> None:
    if run_id is not None:
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / "mlflow_run").write_text(run_id, encoding="utf-8")


def _run_id(job: TrainingJob) -> str | None:
    known = _remembered_run(job.scratch)
    if known is not None:
        return known
    run_id = tracking.start_training_run(job.model, job.params.model_dump(mode="json"), job.provenance)
    _remember_run(job.scratch, run_id)
    return run_id


@contextmanager
def _ending(run_id: str | None) -> Iterator[None]:
    """Says in MLflow how a training ended that did not finish."""
    try:
        yield
    except SegtrailError:
        tracking.finish_training_run(run_id, "FAILED")
        raise
    except BaseException:
        tracking.finish_training_run(run_id, "KILLED")
        raise


def _train_fold(job: TrainingJob, parent_id: str | None) -> None:
    """Trains the network of a fold in a run below that of the model; one that has finished is left as it is."""
    LOGGER.info(
        "train %s, fold %d of 0 to %d: %d training and %d validation cases; all that is left trains at most %s",
        job.model,
        job.fold,
        job.folds - 1,
        len(job.training_cases),
        len(job.validation_cases),
        format_seconds(60 * job.params.max_minutes * (job.folds - job.fold)),
    )
    run_id = _remembered_run(job.scratch)
    if run_id is None:
        params = job.params.model_dump(mode="json")
        run_id = tracking.start_fold_run(parent_id, job.model, job.fold, params, job.provenance)
        _remember_run(job.scratch, run_id)
    result = job.output / "result.json"
    if result.is_file():
        LOGGER.info("this fold had finished before the training was interrupted: its network is taken")
    else:
        with _ending(run_id):
            tracking.continue_run(run_id, monitored=False)
            run_worker(job, lambda row: tracking.log_epoch(run_id, row))
    tracking.finish_fold_run(run_id, json.loads(result.read_text(encoding="utf-8")))


def _train(job: TrainingJob, folds: Sequence[TrainingJob], run_id: str | None) -> None:
    with _ending(run_id):
        tracking.continue_run(run_id)
        for fold in folds:
            _train_fold(fold, run_id)
        if not (job.output / "result.json").is_file():
            run_worker(job, lambda row: tracking.log_epoch(run_id, row))
    for fold in folds:
        _note_run(job.output / "folds" / str(fold.fold) / "result.json", _remembered_run(fold.scratch))
    _write_record(job, run_id)


def _note_run(path: Path, run_id: str | None) -> None:
    """Notes in the record of a fold which run of MLflow shows it."""
    record = json.loads(path.read_text(encoding="utf-8"))
    _write_whole({**record, "run_id": run_id or ""}, path)


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
        "started_from": job.provenance.get("started_from", "scratch"),
        "parents": job.provenance.get("parents", []),
        **result,
    }
    _write_whole(record, job.output / "run.json")


def _write_whole(record: dict[str, Any], path: Path) -> None:
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _publish(job: TrainingJob) -> None:
    """Copies the finished bundle to the output.

    The scratch folder stays until `register` has seen the model: should this stage be killed before DVC has
    noted its output, the next run publishes the same bundle again instead of training anew.
    """
    target = Path("data/models") / job.model
    partial = STATE / "publish" / job.model
    shutil.rmtree(partial, ignore_errors=True)
    top = str(job.output)
    shutil.copytree(job.output, partial, ignore=lambda folder, names: PRIVATE if folder == top else ())
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(target)


def _announce(job: TrainingJob) -> None:
    sides = f"{len(job.training_cases)} training and {len(job.validation_cases)} validation cases"
    times = f"at most {job.params.max_epochs} epochs or {job.params.max_minutes:g} minutes of training"
    if job.members:
        sides = f"{job.folds} folds over {len(job.training_cases)} cases"
        whole = format_seconds(60 * job.params.max_minutes * job.folds)
        times = f"each {times}, {whole} together"
    LOGGER.info("train %s: %s, %s", job.model, sides, times)


@flow(name="train")
def train_flow(model: str) -> None:
    """Trains a model within its budget into `data/models/<model>/`.

    Args:
        model: One of `params.models`.

    Raises:
        SegtrailError: The plan lacks what one of `params.models` needs, this one or another; or a training failed.
    """
    params = load_params()
    check_planned(dict.fromkeys((*params.models, model)), params.train)
    job = build_job(model, params.train.of(model), collect_provenance())
    if job.params.start == "champion":
        from flows.warm_start import (
            choose_start,  # it loads Lightning, which the training process alone needs
        )

        job = choose_start(job, params.register_.model_name)
    folds = build_folds(job)
    _announce(job)
    run_id = _run_id(job)
    if (job.output / "run.json").is_file():
        LOGGER.info("this training had finished before it was interrupted: its bundle is taken")
    else:
        _train(job, folds, run_id)
    _publish(job)
    tracking.record_training(model)
    tracking.finish_training_run(run_id, "FINISHED")


if __name__ == "__main__":
    run_stage(train_flow, sys.argv[1])
