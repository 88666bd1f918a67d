"""The networks of a model, trained one after the other: one, or the two of a cascade.

The first network of a cascade is trained at low resolution; its label maps of all cases are an input of the second
one, at full resolution. What is done lies below the scratch folder, so that a killed training continues in whichever
part it was:

    low/                      checkpoints and history of the first network
    low/finished/             its bundle
    previous/<case>           its label maps on the grid of the second network
    (the folder itself)       checkpoints and history of the second network
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from pipeline.bundle import Bundle, load_bundle, save_bundle
from pipeline.cascade_datasets import save_previous
from pipeline.devices import choose_device
from pipeline.inference import WHILE_TRAINING, predict_previous
from pipeline.inference_memory import CaseSize, choose_free_settings
from pipeline.models.cascade import FULL, join_parts
from pipeline.models.semantic import VALIDATION_OVERLAP
from pipeline.plan import Plan
from pipeline.progress import track
from pipeline.store import case_path, load_case
from pipeline.train_params import InstanceTrainParams, SemanticTrainParams
from pipeline.training import RESUME, TrainingResult, fit
from pipeline.training_job import TrainingJob
from pipeline.training_setup import build_training
from pipeline.warm_start import CASCADE, load_parent

LOGGER = logging.getLogger("segtrail")
LOW, FINISHED, PREVIOUS = "low", "finished", "previous"
RECORD = "record.json"
POLL_S = 0.2
# To change a label map of 128^3 voxels takes 0.11 to 0.16 s, which may be longer than a step of a GPU.
GPU_LOADERS = 2


@dataclass(frozen=True)
class Part:
    """What is known of the finished first network, beside its bundle.

    Attributes:
        seconds: Of its training.
        resumed: How often that was continued.
    """

    seconds: float
    resumed: int


@dataclass(frozen=True)
class TrainedNetworks:
    """What came out of all trainings of a model.

    Attributes:
        result: Of the last network; weights, arguments and times are those of all.
        network: Name in `pipeline.models.networks` that the arguments belong to.
        monitor: The score that chose the weights.
        plan: Of the last network.
        low_plan: Of the first network of a cascade.
    """

    result: TrainingResult
    network: str
    monitor: str
    plan: Plan
    low_plan: Plan | None = None


def train_networks(job: TrainingJob, plan: Plan) -> TrainedNetworks:
    """Trains what is not yet trained.

    Args:
        job: The training.
        plan: The data set's.

    Raises:
        SegtrailError: The plan lacks a configuration, a training diverged, or memory ran out; what was done is kept.
    """
    params = job.params
    if isinstance(params, SemanticTrainParams):
        if params.configuration == "cascade":
            full = plan.configured(params.network, "cascade", job.model)
            return _train_cascade(job, params, plan.configured(params.network, "lowres"), full)
        plan = plan.configured(params.network, params.configuration, job.model)
    result, monitor = _fit(job, plan, params, job.network_store, job.scratch, None)
    return TrainedNetworks(result, params.network, monitor, plan)


def _train_cascade(job: TrainingJob, params: SemanticTrainParams, low: Plan, full: Plan) -> TrainedNetworks:
    first, second = share_budget(params)
    if not (job.scratch / LOW / FINISHED).exists():
        _train_low(job, low, first)
    _write_previous(job, low)
    LOGGER.info("cascade: the network at full resolution, at most %g minutes", second.max_minutes)
    result, monitor = _fit(job, full, second, job.store, job.scratch, job.scratch / PREVIOUS)
    if _rank() == 0:
        bundle, part = _load_low(job)
        arguments = {
            "network": params.network,
            "low": bundle.metadata.network_arguments,
            "full": result.network_arguments,
        }
        result = replace(
            result,
            weights=join_parts(bundle.weights, result.weights),
            network_arguments=arguments,
            seconds=part.seconds + result.seconds,
            resumed=part.resumed + result.resumed,
        )
    return TrainedNetworks(result, CASCADE, monitor, full, low)


def share_budget(params: SemanticTrainParams) -> tuple[SemanticTrainParams, SemanticTrainParams]:
    """Parts epochs and minutes by `lowres_share`; either network has one epoch at least."""
    share = params.lowres_share
    epochs = max(1, round(share * params.max_epochs))
    first = {"max_epochs": epochs, "max_minutes": share * params.max_minutes}
    second = {
        "max_epochs": max(1, params.max_epochs - epochs),
        "max_minutes": (1 - share) * params.max_minutes,
    }
    return params.model_copy(update=first), params.model_copy(update=second)


def _train_low(job: TrainingJob, plan: Plan, params: SemanticTrainParams) -> None:
    LOGGER.info("cascade: the network at low resolution, at most %g minutes", params.max_minutes)
    scratch = job.scratch / LOW
    result, monitor = _fit(job, plan, params, job.low_store, scratch, None)
    if _rank() != 0:
        return
    partial = scratch / f"{FINISHED}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_bundle(
        partial,
        result.weights,
        model=job.model,
        network=params.network,
        network_arguments=result.network_arguments,
        plan=plan,
        params=params.model_dump(mode="json"),
        provenance=job.provenance,
        validation_metric=monitor,
        validation_score=result.validation_score,
    )
    record = asdict(Part(result.seconds, result.resumed))
    (partial / RECORD).write_text(json.dumps(record), encoding="utf-8")
    partial.replace(scratch / FINISHED)


def _load_low(job: TrainingJob) -> tuple[Bundle, Part]:
    folder = job.scratch / LOW / FINISHED
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return load_bundle(folder), Part(**record)


def _fit(
    job: TrainingJob,
    plan: Plan,
    params: SemanticTrainParams | InstanceTrainParams,
    store: Path,
    scratch: Path,
    previous: Path | None,
) -> tuple[TrainingResult, str]:
    """Trains one network, from random weights or those of a parent; also says which score chose its weights."""
    # Anew for each network: its first weights must not depend on whether another was trained in this process.
    pl.seed_everything(params.seed, verbose=False)
    scratch.mkdir(parents=True, exist_ok=True)
    loaders = choose_loaders(job, previous is not None)
    module, data = build_training(
        job.model, plan, params, store, job.training_cases, job.validation_cases, loaders, previous
    )
    if job.parent is not None and not (scratch / RESUME).exists():
        part = "" if not job.is_cascade else LOW if previous is None else FULL
        load_parent(module.network, job.parent, job.fold, part)
    return fit(module, data, params, scratch, job.devices), module.monitor


def choose_loaders(job: TrainingJob, is_second: bool) -> int:
    """Loader processes of one network: what the job says, else 0, or 2 where a GPU would wait for label maps.

    Args:
        job: The training.
        is_second: Whether the network is the second of a cascade, whose label maps are changed at random on the CPU.
    """
    if job.workers is not None:
        return job.workers
    return GPU_LOADERS if is_second and choose_device(job.devices).type == "cuda" else 0


def _write_previous(job: TrainingJob, plan: Plan) -> None:
    """Writes the label maps that are missing; of several processes the first does it, and the others wait."""
    folder = job.scratch / PREVIOUS
    folder.mkdir(parents=True, exist_ok=True)
    cases = (*job.training_cases, *job.validation_cases)

    def missing() -> list[str]:
        return [case_id for case_id in cases if not case_path(folder, case_id).exists()]

    while _rank() != 0 and missing():
        time.sleep(POLL_S)  # a barrier of torch.distributed would give up after some minutes
    if _rank() != 0 or not (wanted := missing()):
        return
    device = choose_device(job.devices)
    network = _load_low(job)[0].build(device)
    for case_id in track(wanted, "label map at low resolution", len(wanted)):
        image = torch.from_numpy(load_case(job.low_store, case_id).image.astype(np.float32))
        shape = load_case(job.store, case_id).label.shape
        where = f"{case_id}, label map at low resolution"
        size = CaseSize(0, math.prod(shape), image.shape[1:])
        settings = choose_free_settings(size, plan, VALIDATION_OVERLAP, device, where)
        found = predict_previous(
            network, image, shape, plan, VALIDATION_OVERLAP, "", settings, where, WHILE_TRAINING
        )
        save_previous(folder, case_id, found.numpy())


def _rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
