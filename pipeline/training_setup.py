"""Which module and which batches belong to a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.config import InstanceTrainParams, SemanticTrainParams
from pipeline.datamodule import CaseDataModule
from pipeline.datasets import PatchSampling, PatchStream
from pipeline.errors import SegtrailError
from pipeline.instance_datasets import WindowSampling, WindowStream
from pipeline.models.base import TrainedModule
from pipeline.models.instance import InstanceModule
from pipeline.models.semantic import SemanticModule
from pipeline.plan import Plan
from pipeline.slices import require_detection
from pipeline.store import load_case


def build_training(
    model: str,
    plan: Plan,
    params: SemanticTrainParams | InstanceTrainParams,
    store: Path,
    training_cases: Sequence[str],
    validation_cases: Sequence[str],
    workers: int,
) -> tuple[TrainedModule, CaseDataModule]:
    """Builds a fresh module and its loaders.

    Args:
        model: Name of the model and of its network.
        plan: The data set's plan.
        params: `train.<model>`; their kind decides between semantic and instance segmentation.
        store: Folder of preprocessed cases.
        training_cases, validation_cases: Case ids.
        workers: Loader processes.

    Raises:
        SegtrailError: Params, plan and data do not go together.
    """
    padding = tuple(how.padding for how in plan.normalization)
    fraction, steps = params.foreground_fraction, params.steps_per_epoch
    if isinstance(params, InstanceTrainParams):
        windows = WindowSampling(require_detection(plan), params.batch_size, fraction, padding, params.seed)
        stream = partial(WindowStream, store, training_cases, windows)
        data = CaseDataModule(stream, params.batch_size, steps, store, validation_cases, workers)
        return InstanceModule(model, plan, params), data
    patches = PatchSampling(plan.patch_size, plan.batch_size, fraction, padding, params.seed)
    weights = class_weights(params, plan, store, training_cases, model)
    data = CaseDataModule(
        partial(PatchStream, store, training_cases, patches),
        plan.batch_size,
        steps,
        store,
        validation_cases,
        workers,
    )
    return SemanticModule(model, plan, params, weights), data


def class_weights(
    params: SemanticTrainParams, plan: Plan, store: Path, training_cases: Sequence[str], model: str
) -> list[float] | None:
    """Weights of the classes, background first; None when all are equal.

    "balanced" is the inverse square root of a class's share of the training voxels, scaled to mean 1.

    Raises:
        SegtrailError: The list in params has another length than there are classes.
    """
    names, wanted = plan.label_names, params.class_weights
    if wanted == "none":
        return None
    if wanted != "balanced":
        if len(wanted) != len(names):
            raise SegtrailError(
                f"{len(wanted)} class weights for {len(names)} classes ({', '.join(names)})",
                f"params.yaml: train.{model}.class_weights",
                "give one number a class, background first",
            )
        return list(wanted)
    counts = sum(
        np.bincount(load_case(store, case_id).label.ravel(), minlength=len(names))
        for case_id in training_cases
    )
    weights = 1.0 / np.sqrt(np.maximum(counts, 1) / np.sum(counts))
    return [float(w) for w in weights / weights.mean()]
