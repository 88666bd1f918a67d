"""The plan: spacing, patch, batch, depth and normalisation from the fingerprints of a data set.

Rules after Isensee et al., nnU-Net (Nature Methods 18, 2021): median spacing, patch within a voxel budget and
the median shape, pooling until an axis is shorter than 8 voxels, normalisation by modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipeline.config import PlanParams
from pipeline.detection_planning import plan_detection
from pipeline.errors import SegtrailError
from pipeline.fingerprint import Fingerprint
from pipeline.io.dataset import DatasetFacts
from pipeline.plan import ChannelNormalization, Plan
from pipeline.topology import SMALLEST_FEATURE_EDGE, Triple, divisible, pooling

ANISOTROPY = 3.0  # an axis this much coarser than the others is treated apart
SMALLEST_BATCH = 2
BATCH_SHARE_OF_DATA = 0.05


def build_plan(fingerprints: Sequence[Fingerprint], facts: DatasetFacts, params: PlanParams) -> Plan:
    """Derives the plan from the fingerprints of the non-test cases.

    Raises:
        SegtrailError: There is no case, or an override in `params.plan` cannot work.
    """
    if not fingerprints:
        raise SegtrailError("there is no case to plan from", "data/splits/splits.csv", "add cases")
    reasons: dict[str, str] = {}
    spacing = _spacing(fingerprints, params, reasons)
    shapes = np.array([np.array(f.shape) * f.spacing_mm / spacing for f in fingerprints])
    median_shape = np.maximum(np.round(np.median(shapes, axis=0)), 1).astype(int)
    dimensions = _dimensions(median_shape, params, reasons)
    patch = _patch(median_shape, spacing, dimensions, params, reasons)
    strides, kernels = pooling(patch, spacing)
    if len(strides) < 2:
        raise SegtrailError(
            f"a patch of {list(patch)} voxels is too small to be halved even once",
            "params.yaml: plan.patch_size, plan.spacing_mm",
            "at least 8 voxels along two axes, or 12 along one",
        )
    total_voxels = float(shapes.prod(axis=1).sum())
    names = sorted(facts.labels, key=lambda name: facts.labels[name])
    reasons["features"] = f"{params.base_features} doubling with each stage, at most {params.max_features}"
    reasons["strides"] = (
        f"an axis is halved while it keeps {SMALLEST_FEATURE_EDGE} voxels: {len(strides)} stages"
    )
    return Plan(
        dataset=facts.name,
        channels=tuple(facts.channels),
        label_names=tuple(names),
        label_values=tuple(facts.labels[name] for name in names),
        dimensions=dimensions,
        spacing_mm=spacing,
        patch_size=patch,
        batch_size=_batch(patch, total_voxels, params, reasons),
        strides=strides,
        kernels=kernels,
        features=tuple(min(params.base_features * 2**i, params.max_features) for i in range(len(strides))),
        normalization=_normalization(fingerprints, facts, params, reasons),
        reasons=reasons,
        n_cases=len(fingerprints),
        detection=plan_detection(fingerprints, spacing, params, reasons),
    )


def _spacing(
    fingerprints: Sequence[Fingerprint], params: PlanParams, reasons: dict[str, str]
) -> tuple[float, float, float]:
    if params.spacing_mm != "auto":
        reasons["spacing_mm"] = "set by plan.spacing_mm"
        return params.spacing_mm
    all_spacings = np.array([f.spacing_mm for f in fingerprints])
    spacing = np.median(all_spacings, axis=0)
    sizes = np.median([f.shape for f in fingerprints], axis=0)
    reasons["spacing_mm"] = f"median of {len(fingerprints)} cases"
    worst = int(spacing.argmax())
    others = [axis for axis in range(3) if axis != worst]
    few_slices = 1 < sizes[worst] * ANISOTROPY < sizes[others].min()
    if spacing[worst] > ANISOTROPY * spacing[others].max() and few_slices:
        spacing[worst] = max(np.percentile(all_spacings[:, worst], 10), spacing[others].max())
        reasons["spacing_mm"] += f"; axis {'XYZ'[worst]} is anisotropic: its 10th percentile"
    x, y, z = (round(float(s), 6) for s in spacing)
    return x, y, z


def _dimensions(
    median_shape: np.ndarray[tuple[int], np.dtype[np.int_]], params: PlanParams, reasons: dict[str, str]
) -> Literal[2, 3]:
    if params.dimensions != "auto":
        reasons["dimensions"] = "set by plan.dimensions"
        return params.dimensions
    few = int(median_shape[2]) < 2 * SMALLEST_FEATURE_EDGE
    reasons["dimensions"] = f"{median_shape[2]} slices along Z: {'single slices' if few else 'whole volumes'}"
    return 2 if few else 3


def _patch(
    median_shape: np.ndarray[tuple[int], np.dtype[np.int_]],
    spacing: tuple[float, float, float],
    dimensions: int,
    params: PlanParams,
    reasons: dict[str, str],
) -> Triple:
    if params.patch_size != "auto":
        patch = params.patch_size
        if dimensions == 2 and patch[2] != 1:
            raise SegtrailError(
                f"a 2D patch has one slice, but plan.patch_size is {list(patch)}",
                "params.yaml: plan.patch_size",
                f"use [{patch[0]}, {patch[1]}, 1] or plan.dimensions: 3",
            )
        fitting = divisible(patch, spacing)
        if fitting != patch:
            raise SegtrailError(
                f"plan.patch_size {list(patch)} cannot be halved as often as the network does",
                "params.yaml: plan.patch_size",
                f"use {list(fitting)}",
            )
        reasons["patch_size"] = "set by plan.patch_size"
        return patch
    limit = median_shape.astype(float)
    if dimensions == 2:
        limit[2] = 1
    patch = divisible(tuple(int(v) for v in limit), spacing)
    shrunk = limit.copy()
    while np.prod(patch) > params.max_patch_voxels:
        # An axis that is short already is kept whole.
        axis = int(np.where(shrunk > 4 * SMALLEST_FEATURE_EDGE, shrunk / limit, 0).argmax())
        shrunk[axis] = max(shrunk[axis] * 0.95, 1)
        patch = divisible((int(shrunk[0]), int(shrunk[1]), int(shrunk[2])), spacing)
    reasons["patch_size"] = (
        f"median shape {median_shape.tolist()}, at most {params.max_patch_voxels} voxels, divisible by the strides"
    )
    return patch


def _batch(patch: Triple, total_voxels: float, params: PlanParams, reasons: dict[str, str]) -> int:
    if params.batch_size != "auto":
        reasons["batch_size"] = "set by plan.batch_size"
        return params.batch_size
    voxels = int(np.prod(patch))
    by_memory = params.max_patch_voxels // voxels
    by_data = int(BATCH_SHARE_OF_DATA * total_voxels / voxels)
    reasons["batch_size"] = (
        f"voxel budget allows {by_memory}, 5 % of the data {by_data}, at least {SMALLEST_BATCH}"
    )
    return max(SMALLEST_BATCH, min(by_memory, by_data))


def _normalization(
    fingerprints: Sequence[Fingerprint], facts: DatasetFacts, params: PlanParams, reasons: dict[str, str]
) -> tuple[ChannelNormalization, ...]:
    entries = []
    for index, channel in enumerate(facts.channels):
        by_modality = "ct" if channel.upper() == "CT" else "zscore"
        scheme = by_modality if params.normalization == "auto" else params.normalization
        reasons[f"normalization {channel}"] = (
            f"modality {channel}: {scheme}" if params.normalization == "auto" else "set by plan.normalization"
        )
        if scheme == "zscore":
            entries.append(ChannelNormalization(scheme="zscore"))
            continue
        if scheme == "window":
            low, high = params.hu_window
            reasons[f"normalization {channel}"] += f": {low:g} to {high:g} (plan.hu_window) become 0 to 1"
            entries.append(ChannelNormalization(scheme="window", low=low, high=high))
            continue
        samples = np.concatenate([f.intensity[index].samples for f in fingerprints])
        low, high = np.percentile(samples, [0.5, 99.5])
        entries.append(
            ChannelNormalization(
                scheme="ct", low=low, high=high, mean=samples.mean(), std=max(float(samples.std()), 1e-3)
            )
        )
    return tuple(entries)
