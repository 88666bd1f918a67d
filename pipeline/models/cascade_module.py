"""Lightning module of the second network of a cascade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.models.semantic import SemanticModule
from pipeline.plan import Plan
from pipeline.train_params import SemanticTrainParams


class CascadeModule(SemanticModule):
    """Trains a network that sees the label map of an earlier one beside the image.

    Args:
        plan: The data set's plan.
        params: `train.<model>`.
        class_weights: One number a class, or None.
    """

    def __init__(
        self, plan: Plan, params: SemanticTrainParams, class_weights: Sequence[float] | None
    ) -> None:
        super().__init__(plan, params, class_weights, previous_classes=len(plan.label_names))

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augments training batches; the earlier label map becomes the last channel of their image."""
        if not self.training or "step" not in batch:
            return batch
        classes = len(self.plan.label_names)
        # As one map both are moved alike; the nearest voxel of pairs is the pair of the nearest voxel.
        pairs = batch["label"].int() * classes + batch["previous"].int()
        moved = super().on_after_batch_transfer({**batch, "label": pairs}, dataloader_idx)
        previous = moved["label"] % classes
        image = torch.cat([moved["image"], previous[:, None].to(moved["image"])], dim=1)
        label = (moved["label"] // classes).to(batch["label"].dtype)
        return {**batch, "image": image, "label": label, "previous": previous}
