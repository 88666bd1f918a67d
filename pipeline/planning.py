"""The plan: spacing, network, batch and normalisation from the fingerprints of a data set.

Rules after Isensee et al., nnU-Net (Nature Methods 18, 2021). What a network needs is in `network_planning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipeline.alternative_planning import plan_alternatives
from pipeline.config import PlanParams
from pipeline.detection_planning import plan_detection
from pipeline.fingerprint import Fingerprint
from pipeline.io.dataset import DatasetFacts
from pipeline.network_planning import GridFacts, Measure, fit_network
from pipeline.patch_planning import Spacing
from pipeline.plan import ChannelNormalization, Plan, RegionPlan
from pipeline.plan_basis import PlanBasis
from pipeline.plan_growth import measure_basis, schemes
from pipeline.topology import SMALLEST_FEATURE_EDGE, Triple

ANISOTROPY = 3.0  # an axis this much coarser than the others is treated apart
CROPPED_SHARE = 0.75  # a median non-zero box below this makes the z-score count non-zero voxels alone


def build_plan(
    fingerprints: Sequence[Fingerprint],
    facts: DatasetFacts,
    params: PlanParams,
    measure: Measure | None = None,
    basis: PlanBasis | None = None,
) -> Plan:
    """Derives the plan from the fingerprints of the non-test cases.

    Args:
        fingerprints: Of these cases.
        facts: Of the data set.
        params: The section `plan`.
        measure: Takes a dry step (`pipeline.network_memory.measure_step`); None = memory is estimated.
        basis: What grid and normalisation are derived from; None = the fingerprints.

    Raises:
        SegtrailError: There is no case, an override in `params.plan` cannot work, or no network fits.
    """
    basis = basis or measure_basis(fingerprints, schemes(facts.channels, params))
    reasons: dict[str, str] = {}
    spacing = _spacing(basis, params, reasons)
    x, y, z = np.maximum(np.round(np.array(basis.extent_mm) / spacing), 1).astype(int).tolist()
    grid = GridFacts(
        spacing_mm=spacing,
        median_shape=(x, y, z),
        total_voxels=basis.volume_mm3 / float(np.prod(spacing)),
        dimensions=_dimensions((x, y, z), params, reasons),
        channels=len(facts.channels),
        classes=len(facts.regions) or len(facts.labels),
    )
    network = fit_network(grid, params, measure)
    reasons["resampling"] = "near nnU-Net's spline of order 3 at a tenth of its time"
    reasons |= network.reasons
    alternatives = plan_alternatives(network, params, measure, reasons)
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
        normalization=_normalization(basis, facts, params, reasons),
        resampling="cubic",
        reasons=reasons,
        n_cases=len(fingerprints),
        detection=plan_detection(fingerprints, spacing, params, reasons),
        regions=_regions(names, facts, reasons),
        alternatives=alternatives,
        ignore_value=_ignore_value(fingerprints, facts, reasons),
        basis=basis,
    )


def _regions(names: Sequence[str], facts: DatasetFacts, reasons: dict[str, str]) -> tuple[RegionPlan, ...]:
    """Regions with network indices: places in `names`, the classes by value."""
    place = {facts.labels[name]: index for index, name in enumerate(names)}
    regions = []
    for (name, values), paint in zip(facts.regions.items(), facts.regions_class_order, strict=True):
        region = RegionPlan(name=name, labels=tuple(place[v] for v in values), paint=place[paint])
        classes = ", ".join(names[index] for index in region.labels)
        reasons[f"region {name}"] = (
            f"of {classes}, found as one (dataset.json); painted as {names[region.paint]}"
        )
        regions.append(region)
    painted = {region.paint for region in regions}
    lost = [name for index, name in enumerate(names) if regions and index and index not in painted]
    if lost:
        reasons["regions"] = f"no region paints {', '.join(lost)}: predicted label maps do not hold it"
    return tuple(regions)


def _ignore_value(
    fingerprints: Sequence[Fingerprint], facts: DatasetFacts, reasons: dict[str, str]
) -> int | None:
    if facts.ignore is not None:
        share = float(np.mean([f.ignored_fraction for f in fingerprints]))
        reasons["ignore_value"] = (
            f"dataset.json: {share:.0%} of the voxels are not labelled; they are in no loss and no metric"
        )
    return facts.ignore


def _spacing(basis: PlanBasis, params: PlanParams, reasons: dict[str, str]) -> Spacing:
    if params.spacing_mm != "auto":
        reasons["spacing_mm"] = "set by plan.spacing_mm"
        return params.spacing_mm
    spacing, voxels = np.array(basis.spacing_mm), np.array(basis.voxels)
    reasons["spacing_mm"] = f"median voxel size of {basis.cases} cases"
    worst = int(spacing.argmax())
    others = [axis for axis in range(3) if axis != worst]
    few_slices = voxels[worst] * ANISOTROPY < voxels[others].min()
    if spacing[worst] > ANISOTROPY * spacing[others].max() and few_slices:
        spacing[worst] = max(basis.fine_spacing_mm[worst], spacing[others].max())
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
    basis: PlanBasis, facts: DatasetFacts, params: PlanParams, reasons: dict[str, str]
) -> tuple[ChannelNormalization, ...]:
    inside = basis.nonzero_fraction
    entries = []
    found = zip(facts.channels, schemes(facts.channels, params), basis.intensity, strict=True)
    for channel, scheme, measured in found:
        why = f"modality {channel}" if params.normalization == "auto" else "set by plan.normalization"
        if measured is not None:
            entry = ChannelNormalization(scheme="ct", **measured.model_dump())
            why += (
                f": clipped to {entry.low:g} to {entry.high:g}, percentiles 0.5 and 99.5 of the foreground, then its "
                f"mean {entry.mean:.4g} and deviation {entry.std:.4g} become 0 and 1"
            )
        elif scheme == "window":
            low, high = params.hu_window
            entry = ChannelNormalization(scheme="window", low=low, high=high)
            why += f": {low:g} to {high:g} (plan.hu_window) become 0 to 1"
        else:
            masked = inside < CROPPED_SHARE
            entry = ChannelNormalization(scheme="zscore", nonzero_mask=masked)
            why += ": mean 0 and deviation 1 of each case's own " + (
                "non-zero voxels" if masked else "voxels"
            )
            why += f"; the non-zero box is {inside:.0%} of the median case"
            why += f", {'below' if masked else 'not below'} {CROPPED_SHARE:.0%}"
        reasons[f"normalization {channel}"] = why
        entries.append(entry)
    return tuple(entries)
