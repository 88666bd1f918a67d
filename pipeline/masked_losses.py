"""Dice plus cross-entropy over the voxels that somebody labelled; the rest has neither loss nor gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional

from pipeline.ignored_voxels import IGNORE_INDEX


def labelled(label: torch.Tensor) -> torch.Tensor:
    """1 where somebody labelled, else 0; of the shape and type of network indices (N, 1, X, Y, Z)."""
    return (label != IGNORE_INDEX).to(label.dtype)


class MaskedDiceCELoss(nn.Module):
    """MONAI's `DiceCELoss` (softmax, batch, without background) of the labelled voxels alone.

    Where every voxel is labelled it has the same value. A batch without any labelled voxel costs 0.

    Source: nnU-Net's `DC_and_CE_loss` with `ignore_label`.

    Args:
        dice_weight: Weight of the soft Dice loss.
        cross_entropy_weight: Weight of the cross-entropy.
        class_weights: One number a class, background first; None = all equal.
    """

    class_weights: torch.Tensor | None

    def __init__(
        self, dice_weight: float, cross_entropy_weight: float, class_weights: Sequence[float] | None
    ) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.parts = dice_weight, cross_entropy_weight
        self.register_buffer("class_weights", weights, persistent=False)
        self.dice = DiceLoss(
            include_background=False,
            batch=True,
            smooth_nr=1e-5,
            smooth_dr=1e-5,
            weight=None if weights is None else weights[1:],
        )

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Loss of logits (N, classes, X, Y, Z) against network indices (N, 1, X, Y, Z) on the same grid."""
        known, index = labelled(label), label[:, 0].long()
        classes = torch.where(label == IGNORE_INDEX, 0, label)[:, 0].long()
        target = functional.one_hot(classes, logits.shape[1]).movedim(-1, 1).to(logits.dtype) * known
        overlap: torch.Tensor = self.dice(logits.softmax(dim=1) * known, target)
        weights = self.class_weights
        entropy = functional.cross_entropy(logits, index, weights, ignore_index=IGNORE_INDEX, reduction="sum")
        # As torch has it, a weighted mean: by the weights of the voxels' classes.
        share = known[:, 0] if weights is None else weights[classes] * known[:, 0]
        total = share.sum()
        dice_weight, cross_entropy_weight = self.parts
        return dice_weight * overlap + cross_entropy_weight * entropy / torch.where(total > 0, total, 1)
