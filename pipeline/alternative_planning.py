"""The other configurations of a data set: slices, a coarser grid, a residual encoder, each with its reason.

Source: nnU-Net's `2d`, `3d_lowres` and the preset of the residual encoder (Isensee et al., Nature Methods 18, 2021;
nnU-Net Revisited, 2024; nnunetv2 2.8.1, `nnUNetPlannerResEncM`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pipeline.config import PlanParams
from pipeline.errors import SegtrailError
from pipeline.low_resolution import plan_low_resolution
from pipeline.network_planning import FittedNetwork, GridFacts, Measure, Reasons, fit_network, settle
from pipeline.patch_planning import NetworkShape, Spacing, plan_network
from pipeline.plan import ConfigurationPlan
from pipeline.topology import Triple, divisible

SAME_COST = "as much an element as on the finest grid"


def plan_alternatives(
    full: FittedNetwork, params: PlanParams, measure: Measure | None, reasons: Reasons
) -> dict[str, ConfigurationPlan]:
    """Plans what can be trained in place of the plain U-Net on the finest grid.

    Overrides hold for all of them. Of `plan.patch_size`, slices take X and Y, a coarser grid no more than its
    image has; what cannot be halved as often there is rounded up.

    Args:
        full: The plain U-Net on the finest grid.
        params: The section `plan`.
        measure: Takes a dry step, of the residual encoder on the finest grid; None = memory is estimated.
        reasons: Receives one entry an alternative, also for one that there is not.

    Returns:
        As `Plan.alternatives`.
    """
    found: dict[str, FittedNetwork] = {}

    def add(name: str, why: str, fit: Callable[[], FittedNetwork]) -> None:
        try:
            found[name] = fit()
        except SegtrailError as error:
            reasons[name] = f"none: {error.what}"
        else:
            of = found[name].reasons
            reasons[name] = f"{why}; {of['patch_size']}; batch: {of['batch_size']}"

    blocks = "residual blocks, 1, 3, 4 and then 6 a stage, one convolution a stage on the way up"
    add("residual", blocks, lambda: fit_network(full.grid, params, measure, True))
    if "residual" in found:
        reasons["residual"] += f"; memory: {found['residual'].reasons['memory']}"
    if full.grid.dimensions == 2:
        reasons["2d"] = "none: the plan itself is of single slices, which is configuration full"
        reasons["lowres"] = "none: for single slices nnU-Net plans no coarser grid either"
        return {name: _record(fitted) for name, fitted in found.items()}
    flat = replace(full.grid, dimensions=2, median_shape=(*full.grid.median_shape[:2], 1))
    # Their own dry step is not taken, but the device is the one that was measured.
    memory_gb = min(params.memory_gb, full.limits.memory_bytes / 1e9)
    thin = _with_patch(params, flat).model_copy(update={"memory_gb": memory_gb})
    add("2d", "single slices along Z", lambda: fit_network(flat, thin, None))
    add("residual 2d", "single slices along Z", lambda: fit_network(flat, thin, None, True))
    coarse, why = _coarser_grid(full, params)
    if coarse is None:
        reasons["lowres"] = f"none: {why}"
    else:
        small = _with_patch(params, coarse)
        add("lowres", why, lambda: settle(coarse, small, full.limits, full.cost, SAME_COST))
        if (residual := found.get("residual")) is not None:
            fit = (coarse, small, residual.limits, residual.cost, SAME_COST)
            add("residual lowres", "the grid of lowres", lambda: settle(*fit))
        else:
            why_not = reasons["residual"].removeprefix("none: ")
            reasons["residual lowres"] = f"none: no residual encoder on the finest grid, {why_not}"
    return {name: _record(fitted) for name, fitted in found.items()}


def _coarser_grid(full: FittedNetwork, params: PlanParams) -> tuple[GridFacts | None, str]:
    """The grid of the low resolution, and why there is one or none."""

    def build(spacing: Spacing, shape: Triple) -> NetworkShape:
        if params.patch_size == "auto":
            return plan_network(spacing, shape, full.limits, full.cost).shape
        return full.limits.build(_fitting(params.patch_size, shape, spacing), spacing)

    grid = full.grid
    try:
        low, why = plan_low_resolution(full.shape.patch_size, grid.spacing_mm, grid.median_shape, build)
    except SegtrailError as error:
        return None, error.what
    if low is None:
        return None, why
    voxels = grid.total_voxels * float(np.prod(grid.spacing_mm) / np.prod(low.spacing_mm))
    return (
        replace(grid, spacing_mm=low.spacing_mm, median_shape=low.median_shape, total_voxels=voxels),
        why,
    )


def _with_patch(params: PlanParams, grid: GridFacts) -> PlanParams:
    """The params with a patch of one's own made fit for another grid."""
    if params.patch_size == "auto":
        return params
    patch = _fitting(params.patch_size, grid.median_shape, grid.spacing_mm)
    return params.model_copy(update={"patch_size": patch})


def _fitting(patch: Triple, shape: Triple, spacing: Spacing) -> Triple:
    return divisible(tuple(min(edge, size) for edge, size in zip(patch, shape, strict=True)), spacing)


def _record(fitted: FittedNetwork) -> ConfigurationPlan:
    shape, grid = fitted.shape, fitted.grid
    return ConfigurationPlan(
        dimensions=grid.dimensions,
        spacing_mm=grid.spacing_mm,
        shape=grid.median_shape,
        patch_size=shape.patch_size,
        batch_size=fitted.batch_size,
        strides=shape.strides,
        kernels=shape.kernels,
        features=shape.features,
        blocks=shape.blocks,
    )
