"""Dice plus cross-entropy at every decoder stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceCELoss
from torch import nn
from torch.nn import functional


class DeepSupervisionLoss(nn.Module):
    """Weighted sum of soft Dice and cross-entropy over the stages of a decoder.

    Weights of the stages are 1, 1/2, 1/4, ... normalised to sum 1 (nnU-Net). The Dice part leaves the
    background out and pools the batch, so that a patch without foreground does not dominate.

    Args:
        dice_weight: Weight of the soft Dice loss.
        cross_entropy_weight: Weight of the cross-entropy.
        class_weights: One number a class, background first; None = all equal. Weighs both parts.
    """

    def __init__(
        self, dice_weight: float, cross_entropy_weight: float, class_weights: Sequence[float] | None
    ) -> None:
        super().__init__()
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
            pyramid: Logits (N, classes, X, Y, Z) of each stage, finest first.
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
