"""What the training of every model shares: annealing to the budget, optimizer, augmentation by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch

from pipeline.augmentation import AugmentationDraw, draw_augmentation
from pipeline.errors import SegtrailError
from pipeline.plan import Plan
from pipeline.train_params import TrainParams

POLY_EXPONENT = 0.9


def annealed(schedule: str, progress: float) -> float:
    """Factor of the learning rate after a share of the budget, 1 at the start and 0 at the end."""
    left = max(1.0 - progress, 0.0)
    if schedule == "poly":
        return math.pow(left, POLY_EXPONENT)
    return 0.5 * (1 + math.cos(math.pi * (1 - left)))


class TrainedModule(pl.LightningModule):
    """Base of the Lightning modules.

    Args:
        network: What is trained; its state goes into the bundle.
        network_arguments: From which the bundle builds it again.
        plan: The data set's plan.
        params: `train.<model>`.

    Attributes:
        monitor: Logged metric whose largest value marks the best weights.
        monitor_title: The same for a person.
    """

    monitor: ClassVar[str]
    monitor_title: ClassVar[str]

    def __init__(
        self, network: torch.nn.Module, network_arguments: dict[str, Any], plan: Plan, params: TrainParams
    ) -> None:
        super().__init__()
        self.network = network
        self.network_arguments = network_arguments
        self.plan = plan
        self.params = params
        self.warmup_steps = 0
        self.budget_spent = 0.0  # share of the budget, set by the budget callback before each step

    def history_columns(self) -> Sequence[str]:
        """Logged metrics that get a column in `history.csv`, beside `train_loss`."""
        raise NotImplementedError

    def set_learning_rate(self) -> None:
        """Warms up linearly by steps, and anneals by the share of the budget that is spent."""
        factor = annealed(self.params.schedule, self.budget_spent)
        if self.global_step < self.warmup_steps:
            factor *= (self.global_step + 1) / self.warmup_steps
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.params.learning_rate * factor

    def step_seed(self, step: int) -> int:
        """Seed of everything random in a step on this process: a resumed run draws the same."""
        return (self.params.seed * 1_000_003 + step) * 1009 + self.global_rank

    def draw(self, batch: dict[str, Any], flat: bool) -> AugmentationDraw:
        """Draws the augmentation of a training batch."""
        generator = torch.Generator()
        generator.manual_seed(self.step_seed(int(batch["step"])))
        return draw_augmentation(self.params.augmentation, len(batch["image"]), flat, generator)

    def require_finite(self, loss: torch.Tensor) -> None:
        """Stops a diverged training instead of saving weights that find nothing.

        Raises:
            SegtrailError: The loss is NaN or infinite.
        """
        if not torch.isfinite(loss):
            raise SegtrailError(
                f"the loss of step {self.global_step} is {float(loss.detach())}: the training diverged",
                "params.yaml: train",
                "lower learning_rate or gradient_clip, or use precision: 32-true",
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum, or AdamW; the learning rate is set at each step."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if self.params.optimizer == "adamw":
            return torch.optim.AdamW(
                trained, lr=self.params.learning_rate, weight_decay=self.params.weight_decay
            )
        return torch.optim.SGD(
            trained,
            lr=self.params.learning_rate,
            momentum=self.params.momentum,
            nesterov=self.params.momentum > 0,
            weight_decay=self.params.weight_decay,
        )
