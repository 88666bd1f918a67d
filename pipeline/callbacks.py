"""What happens around the training steps: budget, patience, history, resume checkpoints."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from pipeline.history import append_history
from pipeline.models.base import TrainedModule
from pipeline.progress import format_seconds
from pipeline.train_params import TrainParams

LOGGER = logging.getLogger("segtrail")


class Budget(pl.Callback):
    """Counts epochs and minutes, anneals by the larger share, and stops the run when one is spent.

    Minutes of earlier, killed parts of the run count in: they travel in the checkpoint.
    """

    def __init__(self, params: TrainParams) -> None:
        self.params = params
        self.earlier_s = 0.0
        self.started = time.monotonic()
        self.resumed = 0

    @property
    def seconds(self) -> float:
        """Training time so far, resumed parts included."""
        return self.earlier_s + time.monotonic() - self.started

    def spent(self, step: int) -> float:
        """Share of the budget that is used up, 0 to 1.

        Exactly a function of the step as long as the epochs would end before the minutes.
        """
        if step == 0:
            return 0.0
        by_steps = step / (self.params.max_epochs * self.params.steps_per_epoch)
        return max(by_steps, self.seconds / (60 * self.params.max_minutes))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        spent = torch.tensor(self.spent(trainer.global_step), device=pl_module.device)
        if trainer.world_size > 1:
            spent = trainer.strategy.broadcast(spent)
        if isinstance(pl_module, TrainedModule):
            pl_module.budget_spent = float(spent)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        stop = self.spent(trainer.global_step) >= 1
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "resumed": self.resumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.earlier_s = state["seconds"]
        self.resumed = state["resumed"] + 1


class Patience(pl.Callback):
    """Stops after a number of validations without a better value of the module's monitored metric.

    Lightning's EarlyStopping counts validations in its sanity check and after a resumed epoch again; this
    one counts each epoch once.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = float("-inf")
        self.best_epoch = -1
        self.waited = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        monitor = getattr(pl_module, "monitor", "")
        if trainer.sanity_checking or monitor not in trainer.callback_metrics:
            return
        score = float(trainer.callback_metrics[monitor])
        if math.isnan(score):
            return  # no class in any validation case: nothing to judge by
        if score > self.best:
            self.best, self.best_epoch, self.waited = score, trainer.current_epoch, 0
        else:
            self.waited += 1
        stop = bool(self.patience) and self.waited >= self.patience
        if trainer.world_size > 1:  # one process that stops alone leaves the others waiting
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]


class History(pl.Callback):
    """Appends one row an epoch to `history.csv` and logs one progress line.

    Args:
        path: The CSV file; rows of epochs that a resumed run repeats are replaced.
        budget: For elapsed minutes and the ETA.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self.path = path
        self.budget = budget
        self.epoch_started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning leaves out `on_train_epoch_start` for an epoch that is continued.
        self.epoch_started = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch_started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, TrainedModule):
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        validated = (trainer.current_epoch + 1) % self.budget.params.validate_every_epochs == 0
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "minutes": round(self.budget.seconds / 60, 4),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": metrics["train_loss"],
            "seconds": round(time.monotonic() - self.epoch_started, 3),
        }
        for name in pl_module.history_columns():
            # Lightning keeps the value of an earlier validation.
            row[name] = metrics.get(name, "") if validated or not name.startswith("validation") else ""
        append_history(self.path, row)
        spent = self.budget.spent(trainer.global_step)
        left = self.budget.seconds * (1 - spent) / max(spent, 1e-9)
        score = (
            f", validation {pl_module.monitor_title} {metrics[pl_module.monitor]:.4f}" if validated else ""
        )
        LOGGER.info(
            "epoch %d: loss %.4f%s, %.0f %% of the budget (ETA %s)",
            row["epoch"],
            row["train_loss"],
            score,
            100 * min(spent, 1),
            format_seconds(max(left, 0)),
        )


class Resume(pl.Callback):
    """Saves a checkpoint every so many steps, before the next step begins.

    Before, not after: then the validation and the history row of the epoch that has just ended are part of
    it, and a run that is killed during a validation does not lose that validation.

    Args:
        path: The checkpoint; always the newest.
        every: Optimizer steps between two.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step and trainer.global_step % self.every == 0:
            trainer.save_checkpoint(self.path)
