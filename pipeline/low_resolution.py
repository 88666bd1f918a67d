"""The coarser grid on which a patch sees enough of the image, when on the plan's own grid it sees too little.

Source: nnU-Net's `3d_lowres` (Isensee et al., Nature Methods 18, 2021; nnunetv2 2.8.1, `ExperimentPlanner`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.patch_planning import NetworkShape, Spacing
from pipeline.topology import Triple

SHARE = 0.25  # a patch that covers less of the median volume asks for a low resolution
STEP = 1.03  # factor of the spacing from one try to the next
SAVING = 2.0  # fewest times fewer voxels that make the low resolution worth its training


@dataclass(frozen=True)
class LowResolution:
    """A coarser grid: voxel size, voxels of the median image, and the network for it."""

    spacing_mm: Spacing
    median_shape: Triple
    network: NetworkShape


def plan_low_resolution(
    patch: Triple, spacing: Spacing, median_shape: Triple, build: Callable[[Spacing, Triple], NetworkShape]
) -> tuple[LowResolution | None, str]:
    """Coarsens the grid until a patch covers a quarter of the median volume.

    The spacing grows in steps of 3 %: first of the axes that are more than twice as fine as the coarsest, then
    of all.

    Args:
        patch: Of the plan's own grid.
        spacing: mm along X, Y, Z of this grid.
        median_shape: Voxels of the median image on it.
        build: The network of another spacing and median shape.

    Returns:
        The grid, None when the patch covers enough already or less than half of the voxels would be saved; and
        why.
    """
    share = float(np.prod(patch) / np.prod(median_shape))
    text = f"the patch covers {min(share, 1):.0%} of the median image"
    if share >= SHARE:
        return None, f"{text}, at least {SHARE:.0%}: not needed"
    coarse, shape = np.array(spacing), median_shape
    while share < SHARE:
        fine = coarse.max() / coarse > 2
        coarse = np.where(fine | ~fine.any(), coarse * STEP, coarse)
        exact = np.array(median_shape) * spacing / coarse
        x, y, z = (max(round(float(edge)), 1) for edge in exact)
        shape = (x, y, z)
        network = build(_rounded(coarse), shape)
        share = float(np.prod(network.patch_size) / exact.prod())
    if np.prod(coarse / spacing) < SAVING:
        return None, f"{text}, but a coarser grid would not save {SAVING:g} times the voxels: not worth it"
    why = (
        f"{text}, less than {SHARE:.0%}: on this grid it covers as much; for a section of train with "
        "configuration: lowres or cascade"
    )
    return LowResolution(_rounded(coarse), shape, network), why


def _rounded(spacing: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Spacing:
    x, y, z = (round(float(s), 6) for s in spacing)
    return x, y, z
