"""Overlapping regions: from label maps to one mask a region, and back to one class a voxel.

After nnU-Net's region-based training (Isensee et al., nnU-Net for Brain Tumor Segmentation, arXiv:2011.00848).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.plan import RegionPlan

THRESHOLD = 0.5  # of a region's probability


def to_region_masks(label: torch.Tensor, regions: Sequence[RegionPlan]) -> torch.Tensor:
    """Which voxels lie in each region.

    Args:
        label: (N, X, Y, Z) network indices, of any type.
        regions: Of the plan.

    Returns:
        (N, regions, X, Y, Z) boolean.
    """
    return torch.stack([_is_inside(label, region) for region in regions], dim=1)


def _is_inside(label: torch.Tensor, region: RegionPlan) -> torch.Tensor:
    """Comparisons rather than `torch.isin`: no tensor has to go to a GPU in each step."""
    inside = label == region.labels[0]
    for index in region.labels[1:]:
        inside |= label == index
    return inside


def paint_regions(
    probabilities: torch.Tensor, regions: Sequence[RegionPlan]
) -> tuple[torch.Tensor, torch.Tensor]:
    """One class a voxel: the regions paint theirs one after the other where they are more likely than not.

    Args:
        probabilities: (regions, ...) 0 to 1, each region by itself.
        regions: Of the plan, in painting order.

    Returns:
        Probability of the region that was painted last (of background: that there is no region), and the uint8
        network index that it paints; both of the shape (...).
    """
    value = 1 - probabilities.amax(dim=0)
    index = torch.zeros(value.shape, dtype=torch.uint8, device=value.device)
    for share, region in zip(probabilities, regions, strict=True):
        inside = share > THRESHOLD
        index.masked_fill_(inside, region.paint)
        value = torch.where(inside, share, value)
    return value, index
