"""Lightning module of semantic segmentation: validation by the real Dice of whole cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from pipeline.augmentation import apply_augmentation
from pipeline.ignored_voxels import hide_unlabelled
from pipeline.inference import predict_logits
from pipeline.losses import DeepSupervisionLoss
from pipeline.metrics import count_voxels
from pipeline.metrics import dice as compute_dice
from pipeline.models.base import TrainedModule
from pipeline.models.cascade import WithPrevious
from pipeline.models.networks import build_network, build_with_previous
from pipeline.models.unet import SliceWise, UNet
from pipeline.plan import Plan
from pipeline.regions import paint_regions
from pipeline.train_params import SemanticTrainParams

VALIDATION_OVERLAP = 0.25  # of windows; the test cases are predicted with `predict.overlap`


def semantic_arguments(plan: Plan, previous_classes: int = 0) -> dict[str, Any]:
    """Arguments of the network of a plan; see `SemanticModule`."""
    return {
        "channels": len(plan.channels),
        "classes": plan.outputs,
        "features": list(plan.features),
        "strides": [list(s) for s in plan.strides],
        "kernels": [list(k) for k in plan.kernels],
        "dimensions": plan.dimensions,
        **({"blocks": list(plan.blocks)} if plan.blocks else {}),
        **({"previous_classes": previous_classes} if previous_classes else {}),
    }


class SemanticModule(TrainedModule):
    """Trains a semantic segmentation network on patches.

    Args:
        plan: The data set's plan.
        params: `train.<model>`.
        class_weights: One number a class, or a region where the plan has regions; or None.
        previous_classes: Of a label map that the network sees beside the image, 0 for none.
    """

    monitor: ClassVar[str] = "validation_dice"
    monitor_title: ClassVar[str] = "Dice"
    network: UNet | SliceWise | WithPrevious

    def __init__(
        self,
        plan: Plan,
        params: SemanticTrainParams,
        class_weights: Sequence[float] | None,
        previous_classes: int = 0,
    ) -> None:
        arguments = semantic_arguments(plan, previous_classes)
        build: Callable[..., torch.nn.Module] = build_with_previous if previous_classes else build_network
        super().__init__(build(params.network, **arguments), arguments, plan, params)
        self.loss = DeepSupervisionLoss(
            params.dice_weight,
            params.cross_entropy_weight,
            class_weights,
            plan.regions,
            sparse=plan.ignore_value is not None,
        )
        self.levels = max(len(plan.features) - 2, 1) if params.deep_supervision else 1
        self.validation_dice: list[torch.Tensor] = []

    def history_columns(self) -> list[str]:
        """Dice of the classes, or of the regions, and their mean."""
        return ["validation_dice", *(f"validation_dice_{name}" for name in self.plan.scored)]

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
        """Dice of each class or region of one whole case; NaN where neither side has it."""
        winner = predict_logits(
            self.network, batch["image"], self.plan, VALIDATION_OVERLAP, "", finish=self._to_label_map,
            previous=batch.get("previous"),
        )  # fmt: skip
        reference = batch["label"].cpu().numpy()
        predicted = hide_unlabelled(winner[0].numpy(), reference)
        dice = [
            compute_dice(count_voxels(np.isin(reference, indices), np.isin(predicted, indices)))
            for indices in self.plan.scored.values()
        ]
        self.validation_dice.append(torch.tensor(dice, device=self.device))

    def _to_label_map(self, logits: torch.Tensor) -> torch.Tensor:
        """(1, X, Y, Z) uint8 network indices; regions are painted, as in a prediction."""
        if self.plan.regions:
            return paint_regions(logits.float().sigmoid(), self.plan.regions)[1][None]
        return logits.argmax(dim=0, keepdim=True).to(torch.uint8)

    def on_validation_epoch_end(self) -> None:
        """Logs the mean over cases of each class or region, and their mean."""
        rows = torch.stack(self.validation_dice)
        self.validation_dice.clear()
        if self.trainer.world_size > 1:
            gathered = self.all_gather(rows)
            rows = torch.cat(list(gathered)) if isinstance(gathered, torch.Tensor) else rows
        classes = torch.nanmean(rows, dim=0)
        for name, value in zip(self.plan.scored, classes, strict=True):
            self.log(f"validation_dice_{name}", value, rank_zero_only=True)
        self.log("validation_dice", torch.nanmean(classes), rank_zero_only=True)
