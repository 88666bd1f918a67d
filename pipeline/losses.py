"""Dice plus cross-entropy at every decoder stage, of classes or of overlapping regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import nn
from torch.nn import functional

from pipeline.masked_losses import MaskedDiceCELoss, labelled
from pipeline.plan import RegionPlan
from pipeline.regions import to_region_masks


class DeepSupervisionLoss(nn.Module):
    """Weighted sum of soft Dice and cross-entropy over the stages of a decoder.

    Of classes the cross-entropy is that of the softmax; of regions each has its own sigmoid and a binary one.

    Weights of the stages are 1, 1/2, 1/4, ... normalised to sum 1 (nnU-Net). The Dice part leaves the
    background out and pools the batch, so that a patch without foreground does not dominate.

    Args:
        dice_weight: Weight of the soft Dice loss.
        cross_entropy_weight: Weight of the cross-entropy.
        class_weights: Above 0: one number a class, background first, or one a region; None = all equal. Weighs both
            parts, but the Dice of a single foreground class stays as it is: there is nothing to weigh it against.
        regions: Of the plan; empty = classes.
        sparse: Whether voxels may be `IGNORE_INDEX`: they are left out of all parts.
    """

    def __init__(
        self,
        dice_weight: float,
        cross_entropy_weight: float,
        class_weights: Sequence[float] | None,
        regions: Sequence[RegionPlan] = (),
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.loss: nn.Module
        if regions:
            self.loss = RegionLoss(dice_weight, cross_entropy_weight, class_weights, regions, sparse)
            return
        if sparse:
            self.loss = MaskedDiceCELoss(dice_weight, cross_entropy_weight, class_weights)
            return
        self.loss = DiceCELoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            batch=True,
            smooth_nr=1e-5,
            smooth_dr=1e-5,
            lambda_dice=dice_weight,
            lambda_ce=cross_entropy_weight,
            weight=None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32),
        )

    def forward(self, pyramid: Sequence[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
        """Loss of logits against a label map.

        Args:
            pyramid: Logits (N, classes or regions, X, Y, Z) of each stage, finest first.
            label: (N, X, Y, Z) integer network indices on the finest grid.
        """
        label = label[:, None].float()
        weights = [0.5**level for level in range(len(pyramid))]
        total = pyramid[0].new_zeros(())
        for weight, logits in zip(weights, pyramid, strict=True):
            target = label
            if logits.shape[2:] != label.shape[2:]:
                target = functional.interpolate(label, logits.shape[2:], mode="nearest-exact")
            total = total + weight / sum(weights) * self.loss(logits.float(), target)
        return total


class RegionLoss(nn.Module):
    """Soft Dice (batch) and binary cross-entropy of each region against a label map, mean over the regions.

    Source: nnU-Net's `DC_and_BCE_loss`.

    Args:
        dice_weight: Weight of the soft Dice loss.
        cross_entropy_weight: Weight of the binary cross-entropy.
        region_weights: One factor a region for both parts; None = 1.
        regions: Of the plan.
        sparse: As in `DeepSupervisionLoss`.
    """

    weights: torch.Tensor

    def __init__(
        self,
        dice_weight: float,
        cross_entropy_weight: float,
        region_weights: Sequence[float] | None,
        regions: Sequence[RegionPlan],
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.regions, self.sparse = tuple(regions), sparse
        self.parts = dice_weight, cross_entropy_weight
        weights = [1.0] * len(regions) if region_weights is None else list(region_weights)
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.dice = DiceLoss(batch=True, smooth_nr=1e-5, smooth_dr=1e-5, reduction="none")

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Loss of logits (N, regions, X, Y, Z) against network indices (N, 1, X, Y, Z) on the same grid."""
        target = to_region_masks(label[:, 0], self.regions).to(logits.dtype)
        each, found = self.weights[:, None, None, None], logits.sigmoid()
        if self.sparse:
            known = labelled(label).to(logits.dtype)
            entropy = functional.binary_cross_entropy_with_logits(
                logits, target, each * known, reduction="sum"
            )
            entropy = entropy / (known.sum() * len(self.regions)).clamp(min=1)
            found = found * known
        else:
            entropy = functional.binary_cross_entropy_with_logits(logits, target, weight=each)
        overlap: torch.Tensor = (self.dice(found, target).flatten() * self.weights).mean()
        dice_weight, cross_entropy_weight = self.parts
        return dice_weight * overlap + cross_entropy_weight * entropy
