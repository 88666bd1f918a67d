"""The coarser grid on which a patch sees enough of the image, when on the plan's own grid it sees too little.

Source: nnU-Net's `3d_lowres` (Isensee et al., Nature Methods 18, 2021; nnunetv2 2.8.1, `ExperimentPlanner`).
"""

from __future__ import annotations

import numpy as np

from pipeline.patch_planning import NetworkLimits, NetworkShape, Spacing, StepCost, plan_network
from pipeline.plan import LowResolutionPlan
from pipeline.topology import Triple

SHARE = 0.25  # a patch that covers less of the median volume asks for a low resolution
STEP = 1.03  # factor of the spacing from one try to the next
SAVING = 2.0  # fewest times fewer voxels that make the low resolution worth its training


def plan_low_resolution(
    full: NetworkShape,
    spacing: Spacing,
    median_shape: Triple,
    limits: NetworkLimits,
    cost: StepCost,
    reasons: dict[str, str],
) -> LowResolutionPlan | None:
    """Coarsens the grid until a patch covers a quarter of the median volume.

    The spacing grows in steps of 3 %: first of the axes that are more than twice as fine as the coarsest, then
    of all.

    Args:
        full: The network of the plan's own grid.
        spacing: mm along X, Y, Z of this grid.
        median_shape: Voxels of the median image on it.
        limits, cost: Which the network keeps to there too.
        reasons: Receives the entry "lowres".

    Returns:
        None when the patch covers enough already, or when less than half of the voxels would be saved.
    """
    share = float(np.prod(full.patch_size) / np.prod(median_shape))
    text = f"the patch covers {min(share, 1):.0%} of the median image"
    if share >= SHARE:
        reasons["lowres"] = f"{text}, at least {SHARE:.0%}: not needed"
        return None
    coarse, shape, patch = np.array(spacing), median_shape, full.patch_size
    while share < SHARE:
        fine = coarse.max() / coarse > 2
        coarse = np.where(fine | ~fine.any(), coarse * STEP, coarse)
        exact = np.array(median_shape) * spacing / coarse
        x, y, z = (max(round(float(edge)), 1) for edge in exact)
        shape = (x, y, z)
        patch = plan_network(_rounded(coarse), shape, limits, cost).shape.patch_size
        share = float(np.prod(patch) / exact.prod())
    if np.prod(coarse / spacing) < SAVING:
        reasons["lowres"] = (
            f"{text}, but a coarser grid would not save {SAVING:g} times the voxels: not worth it"
        )
        return None
    low = _rounded(coarse)
    reasons["lowres"] = (
        f"{text}, less than {SHARE:.0%}: on this grid it covers as much. Only planned, no stage trains it: for a model "
        f"of low resolution set plan.spacing_mm to {[round(s, 3) for s in low]}"
    )
    return LowResolutionPlan(spacing_mm=low, shape=shape, patch_size=patch)


def _rounded(spacing: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Spacing:
    x, y, z = (round(float(s), 6) for s in spacing)
    return x, y, z
