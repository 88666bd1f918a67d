"""Which module and which batches belong to a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.cascade_datasets import CascadeCases, CascadePatchStream
from pipeline.datamodule import CaseDataModule
from pipeline.datasets import PatchSampling, PatchStream, WholeCases
from pipeline.errors import SegtrailError
from pipeline.instance_datasets import WindowSampling, WindowStream
from pipeline.models.base import TrainedModule
from pipeline.models.cascade_module import CascadeModule
from pipeline.models.instance import InstanceModule
from pipeline.models.semantic import SemanticModule
from pipeline.plan import Plan
from pipeline.slices import require_detection
from pipeline.store import load_case
from pipeline.train_params import InstanceTrainParams, SemanticTrainParams


def build_training(
    model: str,
    plan: Plan,
    params: SemanticTrainParams | InstanceTrainParams,
    store: Path,
    training_cases: Sequence[str],
    validation_cases: Sequence[str],
    workers: int,
    previous: Path | None = None,
) -> tuple[TrainedModule, CaseDataModule]:
    """Builds a fresh module and its loaders.

    Args:
        model: Name of the model.
        plan: Of the network, see `Plan.configured`.
        params: `train.<model>`; their kind decides between semantic and instance segmentation.
        store: Folder of preprocessed cases.
        training_cases, validation_cases: Case ids.
        workers: Loader processes.
        previous: Label maps of the first network of a cascade, where this is the second.

    Raises:
        SegtrailError: Params, plan and data do not go together.
    """
    padding = tuple(how.padding for how in plan.normalization)
    fraction, steps = params.foreground_fraction, params.steps_per_epoch
    if isinstance(params, InstanceTrainParams):
        windows = WindowSampling(require_detection(plan), params.batch_size, fraction, padding, params.seed)
        stream = partial(WindowStream, store, training_cases, windows)
        whole = WholeCases(store, validation_cases)
        return InstanceModule(model, plan, params), CaseDataModule(
            stream, params.batch_size, steps, whole, workers
        )
    patches = PatchSampling(plan.patch_size, plan.batch_size, fraction, padding, params.seed)
    weights = class_weights(params, plan, store, training_cases, model)
    if previous is not None:
        classes = len(plan.label_names)
        build = partial(
            CascadePatchStream, store, training_cases, patches, previous=previous, classes=classes
        )
        cases = CascadeCases(store, validation_cases, previous)
        data = CaseDataModule(build, plan.batch_size, steps, cases, workers)
        return CascadeModule(plan, params, weights), data
    patch_stream = partial(PatchStream, store, training_cases, patches)
    whole = WholeCases(store, validation_cases)
    return SemanticModule(plan, params, weights), CaseDataModule(
        patch_stream, plan.batch_size, steps, whole, workers
    )


def class_weights(
    params: SemanticTrainParams, plan: Plan, store: Path, training_cases: Sequence[str], model: str
) -> list[float] | None:
    """Weights of the classes, background first, or of the regions of the plan; None when all are equal.

    "balanced" is the inverse square root of a class's (region's) share of the training voxels, scaled to mean 1.

    Raises:
        SegtrailError: The list in params has another length than there are classes or regions.
    """
    names, wanted = plan.label_names, params.class_weights
    if wanted == "none":
        return None
    if wanted != "balanced":
        if len(wanted) != plan.outputs:
            kind, order = (
                ("regions", "in painting order") if plan.regions else ("classes", "background first")
            )
            given = [region.name for region in plan.regions] or names
            raise SegtrailError(
                f"{len(wanted)} class weights for {plan.outputs} {kind} ({', '.join(given)})",
                f"params.yaml: train.{model}.class_weights",
                f"give one number for each of the {kind}, {order}",
            )
        return list(wanted)
    voxels = sum(
        np.bincount(load_case(store, case_id).label.ravel(), minlength=len(names))[: len(names)]
        for case_id in training_cases
    )
    counts = np.asarray(voxels)
    shares = [counts[list(region.labels)].sum() for region in plan.regions] or counts
    weights = 1.0 / np.sqrt(np.maximum(shares, 1) / counts.sum())
    return [float(w) for w in weights / weights.mean()]
