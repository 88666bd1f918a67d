"""What the stages tell MLflow. Nothing here can fail a stage: files are the truth, MLflow is a view of them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from flows.model_files import present_files
from flows.tracking_content import (
    dataset_input,
    epoch_metrics,
    flatten_params,
    run_name,
    run_tags,
)
from flows.tracking_folds import fold_name, fold_tags, log_result
from flows.tracking_parts import log_dataset, log_params
from flows.tracking_registry import find_bundle, reconcile
from flows.tracking_run import count_sides, sync_run
from flows.tracking_store import TRACKING_ERRORS, ensure_experiment, get_run, open_client, tolerate
from pipeline.errors import SegtrailError
from pipeline.plan import load_plan

__all__ = [
    "continue_run",
    "find_bundle",
    "finish_fold_run",
    "finish_training_run",
    "log_epoch",
    "reconcile",
    "record_evaluation",
    "record_training",
    "start_fold_run",
    "start_training_run",
]
LOGGER = logging.getLogger("segtrail")
SAMPLING_S = 5.0
LOSS = "train/loss"


@dataclass
class _LiveRun:
    """A run this process writes to while its model is being trained.

    Attributes:
        client: The store; None after a failure: nothing more is sent, `record_training` makes up for it.
        monitor: Measures the machine; None in the run of a fold, as that of the model does so.
        last_epoch: The last one the run holds.
    """

    client: MlflowClient | None
    monitor: SystemMetricsMonitor | None
    last_epoch: int


_LIVE: dict[str, _LiveRun] = {}


def start_training_run(model: str, params: Mapping[str, Any], provenance: Mapping[str, Any]) -> str | None:
    """Starts the run of a training, with its params, data set and provenance.

    Args:
        model: Name of the model.
        params: Section `train.<model>`.
        provenance: See `flows.provenance.collect_provenance`.

    Returns:
        The run's id, None when MLflow cannot be reached.
    """
    with tolerate("starting a run"):
        client = open_client()
        experiment_id = ensure_experiment(client, str(provenance["dataset"]))
        run = client.create_run(
            experiment_id, tags=_process_tags() | run_tags(model, provenance), run_name=run_name(model)
        )
        log_params(client, run, flatten_params(params, _present_plan(model, params)))
        splits = present_files(model).splits
        counts = count_sides(splits) if splits.is_file() else {}
        data = dataset_input(str(provenance["dataset"]), str(provenance["data_digest"]), counts)
        log_dataset(client, run.info.run_id, data)
        _LIVE[run.info.run_id] = _LiveRun(client, _start_monitor(run.info.run_id, resume=False), 0)
        return str(run.info.run_id)
    return None


def start_fold_run(
    parent_id: str | None, model: str, fold: int, params: Mapping[str, Any], provenance: Mapping[str, Any]
) -> str | None:
    """Starts the run of one training of a cross-validation, below the run of its model.

    Args:
        parent_id: From `start_training_run`; None when MLflow could not be reached then.
        model: Name of the model.
        fold: From 0.
        params: Section `train.<model>`, with the seed of the fold.
        provenance: See `flows.provenance.collect_provenance`.

    Returns:
        The run's id, None when MLflow cannot be reached.
    """
    if parent_id is None:  # a server that is away costs seconds a call; `record_training` makes up for it
        return None
    with tolerate("starting the run of a fold"):
        client = open_client()
        run = client.create_run(
            ensure_experiment(client, str(provenance["dataset"])),
            tags=_process_tags() | fold_tags(model, fold, parent_id, provenance),
            run_name=fold_name(model, fold),
        )
        log_params(client, run, flatten_params(params, _present_plan(model, params)))
        _LIVE[run.info.run_id] = _LiveRun(client, None, 0)
        return str(run.info.run_id)
    return None


def _present_plan(model: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as the bundle of the model will hold it: a param of MLflow cannot be changed later."""
    try:
        plan = load_plan(present_files(model).plan)
        if "configuration" in params:
            plan = plan.configured(params["network"], params["configuration"], model)
    except SegtrailError:  # the training says it
        return {}
    return plan.model_dump(mode="json")


def _process_tags() -> dict[str, str]:
    """Lets `register` tell a run that is still being written from one whose process was killed."""
    return {"segtrail.pid": str(os.getpid())}


def _start_monitor(run_id: str, resume: bool) -> SystemMetricsMonitor:
    monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        run_id, sampling_interval=SAMPLING_S, resume_logging=resume
    )
    monitor.start()  # type: ignore[no-untyped-call]
    return monitor


def continue_run(run_id: str | None, monitored: bool = True) -> None:
    """Takes up a run that a killed process has left; does nothing with one of this process.

    Args:
        run_id: From `start_training_run` or `start_fold_run`; None does nothing.
        monitored: Measure the machine.
    """
    if run_id is None or run_id in _LIVE:
        return
    live = _LiveRun(None, None, 0)
    with tolerate("continuing the run"):
        client = open_client()
        client.update_run(run_id, status="RUNNING")
        for key, value in _process_tags().items():
            client.set_tag(run_id, key, value)
        known = client.get_metric_history(run_id, LOSS)
        last = max((point.step for point in known), default=0)
        monitor = _start_monitor(run_id, resume=True) if monitored else None
        live = _LiveRun(client, monitor, last)
    _LIVE[run_id] = live


def log_epoch(run_id: str | None, row: Mapping[str, Any]) -> None:
    """Logs one row of `history.csv`; one that the run has already is left out.

    Args:
        run_id: From `start_training_run`, also that of an earlier process; None does nothing.
        row: Column to value or text; empty text is left out.
    """
    if run_id is None:
        return
    continue_run(run_id)
    live = _LIVE[run_id]
    epoch = int(row["epoch"])
    if live.client is None or epoch <= live.last_epoch:
        return
    now = round(time.time() * 1000)
    try:
        points = [Metric(name, value, now, epoch) for name, value in epoch_metrics(row).items()]
        live.client.log_batch(run_id, metrics=points)
        live.last_epoch = epoch
    except TRACKING_ERRORS as error:
        # Each further attempt may hang for seconds; the curves are logged when the training has ended.
        live.client = None
        LOGGER.warning("MLflow: logging an epoch failed; the curves follow at the end (%s)", error)


def finish_training_run(run_id: str | None, status: str) -> None:
    """Ends a run.

    Args:
        run_id: From `start_training_run`; None does nothing.
        status: "FINISHED", "FAILED" or "KILLED".
    """
    if run_id is None:
        return
    live = _LIVE.pop(run_id, None)
    if live is not None and live.monitor is not None:
        live.monitor.finish()  # type: ignore[no-untyped-call]
    with tolerate("ending the run"):
        client = open_client()
        if get_run(client, run_id) is not None:
            client.set_terminated(run_id, status)


def finish_fold_run(run_id: str | None, record: Mapping[str, Any]) -> None:
    """Logs what a fold gave and ends its run.

    Args:
        run_id: From `start_fold_run`; None does nothing.
        record: `result.json` of the fold.
    """
    if run_id is None:
        return
    with tolerate("recording a fold"):
        client = open_client()
        if get_run(client, run_id) is not None:
            log_result(client, run_id, record)
    finish_training_run(run_id, "FINISHED")


def record_training(model: str) -> str | None:
    """Brings the run of a model in line with `data/models/<model>`.

    Returns:
        The run's id, None when MLflow cannot be reached.
    """
    return _record(lambda client: sync_run(client, present_files(model)), "recording the training")


def record_evaluation(model: str) -> str | None:
    """Brings the run of a model in line with `data/models/<model>` and `data/metrics/<model>`.

    Returns:
        The run's id, None when MLflow cannot be reached.
    """
    return _record(lambda client: sync_run(client, present_files(model)), "recording the evaluation")


def _record(work: Callable[[MlflowClient], str], what: str) -> str | None:
    with tolerate(what):
        return work(open_client())
    return None
