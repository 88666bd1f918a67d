"""The plan: spacing, network, batch and normalisation from the fingerprints of a data set.

Rules after Isensee et al., nnU-Net (Nature Methods 18, 2021). What a network needs is in `network_planning`.
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
from pipeline.network_planning import GridFacts, Measure, plan_configuration
from pipeline.patch_planning import Spacing
from pipeline.plan import ChannelNormalization, Plan
from pipeline.topology import SMALLEST_FEATURE_EDGE, Triple

ANISOTROPY = 3.0  # an axis this much coarser than the others is treated apart
CROPPED_SHARE = 0.75  # a median non-zero box below this makes the z-score count non-zero voxels alone


def build_plan(
    fingerprints: Sequence[Fingerprint],
    facts: DatasetFacts,
    params: PlanParams,
    measure: Measure | None = None,
) -> Plan:
    """Derives the plan from the fingerprints of the non-test cases.

    Args:
        fingerprints: Of these cases.
        facts: Of the data set.
        params: The section `plan`.
        measure: Takes a dry step (`pipeline.network_memory.measure_step`); None = memory is estimated.

    Raises:
        SegtrailError: There is no case, an override in `params.plan` cannot work, or no network fits.
    """
    if not fingerprints:
        raise SegtrailError("there is no case to plan from", "data/splits/splits.csv", "add cases")
    reasons: dict[str, str] = {}
    spacing = _spacing(fingerprints, params, reasons)
    shapes = np.array([np.array(f.shape) * f.spacing_mm / spacing for f in fingerprints])
    x, y, z = np.maximum(np.round(np.median(shapes, axis=0)), 1).astype(int).tolist()
    grid = GridFacts(
        spacing_mm=spacing,
        median_shape=(x, y, z),
        total_voxels=float(shapes.prod(axis=1).sum()),
        dimensions=_dimensions((x, y, z), params, reasons),
        channels=len(facts.channels),
        classes=len(facts.labels),
    )
    network = plan_configuration(grid, params, measure, reasons)
    names = sorted(facts.labels, key=lambda name: facts.labels[name])
    return Plan(
        dataset=facts.name,
        channels=tuple(facts.channels),
        label_names=tuple(names),
        label_values=tuple(facts.labels[name] for name in names),
        dimensions=grid.dimensions,
        spacing_mm=spacing,
        patch_size=network.shape.patch_size,
        batch_size=network.batch_size,
        strides=network.shape.strides,
        kernels=network.shape.kernels,
        features=network.shape.features,
        normalization=_normalization(fingerprints, facts, params, reasons),
        reasons=reasons,
        n_cases=len(fingerprints),
        detection=plan_detection(fingerprints, spacing, params, reasons),
        lowres=network.lowres,
    )


def _spacing(fingerprints: Sequence[Fingerprint], params: PlanParams, reasons: dict[str, str]) -> Spacing:
    if params.spacing_mm != "auto":
        reasons["spacing_mm"] = "set by plan.spacing_mm"
        return params.spacing_mm
    all_spacings = np.array([f.spacing_mm for f in fingerprints])
    spacing = np.median(all_spacings, axis=0)
    sizes = np.median([f.shape for f in fingerprints], axis=0)
    reasons["spacing_mm"] = f"median voxel size of {len(fingerprints)} cases"
    worst = int(spacing.argmax())
    others = [axis for axis in range(3) if axis != worst]
    few_slices = sizes[worst] * ANISOTROPY < sizes[others].min()
    if spacing[worst] > ANISOTROPY * spacing[others].max() and few_slices:
        spacing[worst] = max(np.percentile(all_spacings[:, worst], 10), spacing[others].max())
        reasons["spacing_mm"] += (
            f"; {'XYZ'[worst]} is anisotropic, over {ANISOTROPY:g} times coarser with few slices: its 10th percentile"
        )
    x, y, z = (round(float(s), 6) for s in spacing)
    return x, y, z


def _dimensions(median_shape: Triple, params: PlanParams, reasons: dict[str, str]) -> Literal[2, 3]:
    if params.dimensions != "auto":
        reasons["dimensions"] = "set by plan.dimensions"
        return params.dimensions
    few = median_shape[2] < 2 * SMALLEST_FEATURE_EDGE
    reasons["dimensions"] = (
        f"the median case has {median_shape[2]} slices along Z, fewer than {2 * SMALLEST_FEATURE_EDGE}: a network of "
        "single slices"
        if few
        else f"the median case has {median_shape[2]} slices along Z, at least {2 * SMALLEST_FEATURE_EDGE}: a network "
        "of volumes"
    )
    return 2 if few else 3


def _normalization(
    fingerprints: Sequence[Fingerprint], facts: DatasetFacts, params: PlanParams, reasons: dict[str, str]
) -> tuple[ChannelNormalization, ...]:
    inside = float(np.median([f.nonzero_fraction for f in fingerprints]))
    entries = []
    for index, channel in enumerate(facts.channels):
        by_modality = "ct" if channel.upper() == "CT" else "zscore"
        scheme = by_modality if params.normalization == "auto" else params.normalization
        why = f"modality {channel}" if params.normalization == "auto" else "set by plan.normalization"
        if scheme == "zscore":
            masked = inside < CROPPED_SHARE
            entry = ChannelNormalization(scheme="zscore", nonzero_mask=masked)
            why += ": mean 0 and deviation 1 of each case's own " + (
                "non-zero voxels" if masked else "voxels"
            )
            why += f"; the non-zero box is {inside:.0%} of the median case"
            why += f", {'below' if masked else 'not below'} {CROPPED_SHARE:.0%}"
        elif scheme == "window":
            low, high = params.hu_window
            entry = ChannelNormalization(scheme="window", low=low, high=high)
            why += f": {low:g} to {high:g} (plan.hu_window) become 0 to 1"
        else:
            entry = _of_foreground(np.concatenate([f.intensity[index].samples for f in fingerprints]))
            why += (
                f": clipped to {entry.low:g} to {entry.high:g}, percentiles 0.5 and 99.5 of the foreground, then its "
                f"mean {entry.mean:.4g} and deviation {entry.std:.4g} become 0 and 1"
            )
        reasons[f"normalization {channel}"] = why
        entries.append(entry)
    return tuple(entries)


def _of_foreground(samples: np.ndarray[tuple[int], np.dtype[np.float64]]) -> ChannelNormalization:
    low, high = np.percentile(samples, [0.5, 99.5])
    return ChannelNormalization(
        scheme="ct", low=low, high=high, mean=samples.mean(), std=max(float(samples.std()), 1e-3)
    )
