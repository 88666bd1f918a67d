"""Lightning module of semantic segmentation: validation by the real Dice of whole cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from pipeline.augmentation import apply_augmentation
from pipeline.config import SemanticTrainParams
from pipeline.inference import predict_logits
from pipeline.losses import DeepSupervisionLoss
from pipeline.metrics import count_voxels
from pipeline.metrics import dice as compute_dice
from pipeline.models.base import TrainedModule
from pipeline.models.networks import build_network
from pipeline.models.unet import SliceWise, UNet
from pipeline.plan import Plan

VALIDATION_OVERLAP = 0.25  # of windows; the test cases are predicted with `predict.overlap`


class SemanticModule(TrainedModule):
    """Trains a semantic segmentation network on patches.

    Args:
        network: Name of the network.
        plan: The data set's plan.
        params: `train.<model>`.
        class_weights: One number a class, or None.
    """

    monitor: ClassVar[str] = "validation_dice"
    monitor_title: ClassVar[str] = "Dice"
    network: UNet | SliceWise

    def __init__(
        self, network: str, plan: Plan, params: SemanticTrainParams, class_weights: Sequence[float] | None
    ) -> None:
        arguments = {
            "channels": len(plan.channels),
            "classes": len(plan.label_names),
            "features": list(plan.features),
            "strides": [list(s) for s in plan.strides],
            "kernels": [list(k) for k in plan.kernels],
            "dimensions": plan.dimensions,
        }
        super().__init__(build_network(network, **arguments), arguments, plan, params)
        self.loss = DeepSupervisionLoss(params.dice_weight, params.cross_entropy_weight, class_weights)
        self.levels = max(len(plan.features) - 2, 1) if params.deep_supervision else 1
        self.validation_dice: list[torch.Tensor] = []

    def history_columns(self) -> list[str]:
        """Dice of the classes and their mean."""
        return ["validation_dice", *(f"validation_dice_{name}" for name in self.plan.label_names[1:])]

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augments training batches on the training device."""
        if not self.training or "step" not in batch:
            return batch
        draw = self.draw(batch, flat=self.plan.dimensions == 2)
        padding = torch.tensor([how.padding for how in self.plan.normalization])
        image, label = apply_augmentation(batch["image"], batch["label"], padding, self.plan.spacing_mm, draw)
        return {**batch, "image": image, "label": label}

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of one batch at all supervised decoder stages."""
        self.set_learning_rate()
        pyramid = self.network.pyramid(batch["image"], self.levels)
        loss: torch.Tensor = self.loss(pyramid, batch["label"])
        self.require_finite(loss)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Dice of each class of one whole case; NaN where neither side has the class."""
        winner = predict_logits(
            self.network, batch["image"], self.plan, VALIDATION_OVERLAP, "", finish=_most_probable
        )
        predicted = winner[0].numpy()
        reference = batch["label"].cpu().numpy()
        classes = range(1, len(self.plan.label_names))
        dice = [compute_dice(count_voxels(reference == c, predicted == c)) for c in classes]
        self.validation_dice.append(torch.tensor(dice, device=self.device))

    def on_validation_epoch_end(self) -> None:
        """Logs the mean over cases of each class and their mean."""
        rows = torch.stack(self.validation_dice)
        self.validation_dice.clear()
        if self.trainer.world_size > 1:
            gathered = self.all_gather(rows)
            rows = torch.cat(list(gathered)) if isinstance(gathered, torch.Tensor) else rows
        classes = torch.nanmean(rows, dim=0)
        for name, value in zip(self.plan.label_names[1:], classes, strict=True):
            self.log(f"validation_dice_{name}", value, rank_zero_only=True)
        self.log("validation_dice", torch.nanmean(classes), rank_zero_only=True)


def _most_probable(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(dim=0, keepdim=True).to(torch.uint8)
