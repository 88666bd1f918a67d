"""Patch, network and batch of a data set's grid, each with its reason.

Rules after Isensee et al., nnU-Net (Nature Methods 18, 2021); memory is measured where a dry step can be taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipeline.config import PlanParams
from pipeline.errors import SegtrailError
from pipeline.patch_planning import (
    BASE_FEATURES,
    BYTES_PER_ELEMENT,
    MAX_FEATURES,
    RESIDUAL_BATCH,
    RESIDUAL_BYTES_PER_ELEMENT,
    NetworkLimits,
    NetworkShape,
    Spacing,
    StepCost,
    StepMemory,
    plan_network,
    voxels_inside,
)
from pipeline.topology import SMALLEST_FEATURE_EDGE, Triple, divisible

SMALLEST_BATCH = 2
BATCH_SHARE_OF_DATA = 0.05
DEVICE_SHARE = 0.8  # of a device's memory that a training step may take
MEASUREMENTS = 3  # a patch that turns out too large is planned again with what was measured
COARSE = 1.1  # measured bytes are rounded up to a power of it: small changes of torch leave a plan as it is

Measure = Callable[[NetworkShape], StepMemory | str]
Reasons = dict[str, str]


@dataclass(frozen=True)
class GridFacts:
    """What a network is planned for; lengths along X, Y, Z.

    Attributes:
        spacing_mm, median_shape: Of the plan's grid.
        total_voxels: Of all cases on this grid.
        dimensions: 2 or 3.
        channels, classes: Of the images; of the label maps, background included.
    """

    spacing_mm: Spacing
    median_shape: Triple
    total_voxels: float
    dimensions: Literal[2, 3]
    channels: int
    classes: int


@dataclass(frozen=True)
class FittedNetwork:
    """A network that keeps to limits.

    Attributes:
        grid: What it was planned for.
        shape: The network.
        batch_size: Patches a step.
        limits, cost: What it keeps to, and what a step takes.
        reasons: One entry a value.
    """

    grid: GridFacts
    shape: NetworkShape
    batch_size: int
    limits: NetworkLimits
    cost: StepCost
    reasons: Reasons


def fit_network(
    grid: GridFacts, params: PlanParams, measure: Measure | None, residual: bool = False
) -> FittedNetwork:
    """Plans the network of a grid.

    Args:
        grid: The grid.
        params: The section `plan`.
        measure: Takes a dry step; None = memory is estimated.
        residual: Whether the encoder is of residual blocks.

    Raises:
        SegtrailError: An override cannot work, the patch is too small, or no network fits into the memory.
    """
    smallest = RESIDUAL_BATCH[grid.dimensions] if residual else SMALLEST_BATCH
    limits = NetworkLimits(
        channels=grid.channels,
        classes=grid.classes,
        dimensions=grid.dimensions,
        base_features=BASE_FEATURES if params.base_features == "auto" else params.base_features,
        max_features=MAX_FEATURES[grid.dimensions] if params.max_features == "auto" else params.max_features,
        memory_bytes=params.memory_gb * 1e9,
        batch_size=smallest if params.batch_size == "auto" else params.batch_size,
        voxels=params.max_patch_voxels,
        first_features=None if params.first_features == "auto" else params.first_features,
        residual=residual,
    )
    bytes_per_element = RESIDUAL_BYTES_PER_ELEMENT if residual else BYTES_PER_ELEMENT
    cost = StepCost(0.0, bytes_per_element[grid.dimensions])
    shape, _ = _network(grid, limits, cost, params)
    source = "estimated" if measure else "estimated, plan.memory: estimate"
    for _ in range(MEASUREMENTS if measure else 0):
        found = measure(shape) if measure else ""
        if isinstance(found, str):
            source = f"estimated, as {found}"
            break
        cost = StepCost(_rounded_up(found.fixed_bytes), _rounded_up(found.element_bytes))
        limits = replace(limits, memory_bytes=min(limits.memory_bytes, DEVICE_SHARE * found.available_bytes))
        source = f"measured by a dry step in float32 on {found.device}"
        before = shape
        shape, _ = _network(grid, limits, cost, params)
        if shape == before:
            break
    return settle(grid, params, limits, cost, source)


def settle(
    grid: GridFacts, params: PlanParams, limits: NetworkLimits, cost: StepCost, source: str
) -> FittedNetwork:
    """The network and its batch, with reasons, for limits and a cost that are known.

    Raises:
        SegtrailError: As `fit_network`.
    """
    reasons: Reasons = {}
    shape, reasons["patch_size"] = _network(grid, limits, cost, params)
    _explain_memory(shape, limits, cost, source, params, reasons)
    _explain_network(shape, params, reasons)
    batch = _batch(shape, grid, limits, cost, params, reasons)
    return FittedNetwork(grid, shape, batch, limits, cost, reasons)


def _rounded_up(value: float) -> float:
    """To the next power of COARSE, so at most 10 % more."""
    if value <= 0:
        return 0.0
    return float(f"{COARSE ** math.ceil(round(math.log(value, COARSE), 6)):.4g}")


def _network(
    grid: GridFacts, limits: NetworkLimits, cost: StepCost, params: PlanParams
) -> tuple[NetworkShape, str]:
    """The network, and why its patch is what it is."""
    if params.patch_size != "auto":
        return _checked(
            limits.build(_own_patch(params.patch_size, grid), grid.spacing_mm)
        ), "set by plan.patch_size"
    planned = plan_network(grid.spacing_mm, grid.median_shape, limits, cost)
    patch = planned.shape.patch_size
    bounds = {
        "memory": f"{limits.memory_bytes / 1e9:.3g} GB (plan.memory_gb) for a step with {limits.batch_size}",
        "voxels": f"{limits.voxels} voxels (plan.max_patch_voxels), {voxels_inside(patch, grid.median_shape)} used",
    }
    shrunk = " and ".join(bounds[name] for name in sorted(planned.shrunk_by))
    why = f"median image {_times(grid.median_shape)}, " + (f"shrunk to {shrunk}" if shrunk else "seen whole")
    return _checked(planned.shape), f"{why}; divisible by the strides"


def _checked(shape: NetworkShape) -> NetworkShape:
    if len(shape.strides) < 2:
        raise SegtrailError(
            f"a patch of {list(shape.patch_size)} voxels is too small to be halved even once",
            "params.yaml: plan.patch_size, plan.spacing_mm",
            "at least 8 voxels along two axes, or 12 along one",
        )
    return shape


def _own_patch(patch: Triple, grid: GridFacts) -> Triple:
    if grid.dimensions == 2 and patch[2] != 1:
        raise SegtrailError(
            f"a 2D patch has one slice, but plan.patch_size is {list(patch)}",
            "params.yaml: plan.patch_size",
            f"use [{patch[0]}, {patch[1]}, 1] or plan.dimensions: 3",
        )
    fitting = divisible(patch, grid.spacing_mm)
    if fitting != patch:
        raise SegtrailError(
            f"plan.patch_size {list(patch)} cannot be halved as often as the network does",
            "params.yaml: plan.patch_size",
            f"use {list(fitting)}",
        )
    return patch


def _explain_network(shape: NetworkShape, params: PlanParams, reasons: Reasons) -> None:
    axes = [axis for axis in range(3) if shape.patch_size[axis] > 1]
    halved = ", ".join(f"{'XYZ'[a]} {sum(s[a] > 1 for s in shape.strides)} times" for a in axes)
    reasons["strides"] = (
        f"an axis is halved while it keeps {SMALLEST_FEATURE_EDGE} voxels and is not twice as coarse as another: "
        f"{halved}, {len(shape.strides)} stages"
    )
    waiting = [f"{'XYZ'[a]} up to stage {n}" for a in axes if (n := sum(k[a] == 1 for k in shape.kernels))]
    reasons["kernels"] = "3 along each axis" + (
        f", but 1 along {' and '.join(waiting)}: twice as coarse as another axis there" if waiting else ""
    )
    first = (
        "nnU-Net's 32" if params.base_features == "auto" else f"{params.base_features} (plan.base_features)"
    )
    most = (
        f"{MAX_FEATURES[shape.dimensions]}"
        if params.max_features == "auto"
        else f"{params.max_features} (plan.max_features)"
    )
    reasons["features"] = f"{first}, doubled with each stage, at most {most}"
    if params.first_features != "auto":
        reasons["features"] += f"; {params.first_features} in the first stage (plan.first_features)"


def _explain_memory(
    shape: NetworkShape,
    limits: NetworkLimits,
    cost: StepCost,
    source: str,
    params: PlanParams,
    reasons: Reasons,
) -> None:
    sample = cost.element_bytes * shape.elements / 1e9
    text = f"{sample:.2g} GB a sample" + (
        f" and {cost.fixed_bytes / 1e9:.2g} GB once" if cost.fixed_bytes else ""
    )
    text += f", {source}; {limits.memory_bytes / 1e9:.3g} GB may be taken"
    text += (
        " (plan.memory_gb)"
        if limits.memory_bytes == params.memory_gb * 1e9
        else f" ({DEVICE_SHARE:.0%} of the device, less than plan.memory_gb)"
    )
    if cost.step_bytes(shape, limits.batch_size) > limits.memory_bytes:
        text += f"; a step with {limits.batch_size} NEEDS MORE: plan.patch_size is set too large for it"
    reasons["memory"] = text


def _batch(
    shape: NetworkShape,
    grid: GridFacts,
    limits: NetworkLimits,
    cost: StepCost,
    params: PlanParams,
    reasons: Reasons,
) -> int:
    if params.batch_size != "auto":
        reasons["batch_size"] = "set by plan.batch_size"
        return params.batch_size
    by_memory = cost.largest_batch(shape, limits.memory_bytes)
    by_voxels = limits.voxels // voxels_inside(shape.patch_size, grid.median_shape)
    share = (
        1.0 if limits.residual else BATCH_SHARE_OF_DATA
    )  # the presets of the residual encoder have no 5 % rule
    by_data = int(share * grid.total_voxels / np.prod(shape.patch_size))
    reasons["batch_size"] = (
        f"memory allows {by_memory}, {share:.0%} of the data {by_data}, plan.max_patch_voxels "
        f"{by_voxels}; at least {SMALLEST_BATCH}"
    )
    return max(SMALLEST_BATCH, min(by_memory, by_data, by_voxels))


def _times(shape: Triple) -> str:
    return " x ".join(str(edge) for edge in shape)
