"""Lightning modules: loss, validation by real Dice of whole cases, optimizer, annealing to the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from pipeline.augmentation import apply_augmentation, draw_augmentation
from pipeline.config import TrainParams
from pipeline.inference import predict_logits
from pipeline.losses import DeepSupervisionLoss
from pipeline.metrics import count_voxels
from pipeline.metrics import dice as compute_dice
from pipeline.models.networks import build_network
from pipeline.plan import Plan

POLY_EXPONENT = 0.9
VALIDATION_OVERLAP = 0.25  # of windows; the test cases are predicted with `predict.overlap`


def annealed(schedule: str, progress: float) -> float:
    """Factor of the learning rate after a share of the budget, 1 at the start and 0 at the end."""
    left = max(1.0 - progress, 0.0)
    if schedule == "poly":
        return math.pow(left, POLY_EXPONENT)
    return 0.5 * (1 + math.cos(math.pi * (1 - left)))


class SemanticModule(pl.LightningModule):
    """Trains a semantic segmentation network on patches.

    Args:
        network: Name of the network.
        plan: The data set's plan.
        params: `train.<model>`.
        class_weights: One number a class, or None.
    """

    def __init__(
        self, network: str, plan: Plan, params: TrainParams, class_weights: Sequence[float] | None
    ) -> None:
        super().__init__()
        self.plan = plan
        self.params = params
        self.network_arguments = {
            "channels": len(plan.channels),
            "classes": len(plan.label_names),
            "features": list(plan.features),
            "strides": [list(s) for s in plan.strides],
            "kernels": [list(k) for k in plan.kernels],
            "dimensions": plan.dimensions,
        }
        self.network = build_network(network, **self.network_arguments)
        self.loss = DeepSupervisionLoss(params.dice_weight, params.cross_entropy_weight, class_weights)
        self.levels = max(len(plan.features) - 2, 1) if params.deep_supervision else 1
        self.validation_dice: list[torch.Tensor] = []
        self.budget_spent = 0.0  # share of the budget, set by the budget callback before each step

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augments training batches on the training device."""
        if not self.training or "step" not in batch:
            return batch
        generator = torch.Generator()
        generator.manual_seed((self.params.seed * 1_000_003 + int(batch["step"])) * 1009 + self.global_rank)
        draw = draw_augmentation(
            self.params.augmentation, len(batch["image"]), self.plan.dimensions == 2, generator
        )
        padding = torch.tensor([how.padding for how in self.plan.normalization])
        image, label = apply_augmentation(batch["image"], batch["label"], padding, self.plan.spacing_mm, draw)
        return {**batch, "image": image, "label": label}

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of one batch at all supervised decoder stages."""
        factor = annealed(self.params.schedule, self.budget_spent)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.params.learning_rate * factor
        pyramid = self.network.pyramid(batch["image"], self.levels)
        loss: torch.Tensor = self.loss(pyramid, batch["label"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Dice of each class of one whole case; NaN where neither side has the class."""
        logits = predict_logits(
            self.network, batch["image"], self.plan, overlap=VALIDATION_OVERLAP, mirror_axes=""
        )
        predicted = logits.argmax(dim=0).numpy()
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

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum, or AdamW; the learning rate is set at each step."""
        if self.params.optimizer == "adamw":
            return torch.optim.AdamW(
                self.parameters(), lr=self.params.learning_rate, weight_decay=self.params.weight_decay
            )
        return torch.optim.SGD(
            self.parameters(),
            lr=self.params.learning_rate,
            momentum=self.params.momentum,
            nesterov=self.params.momentum > 0,
            weight_decay=self.params.weight_decay,
        )
