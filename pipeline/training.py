"""The training loop: Lightning, a budget in epochs and minutes, checkpoints that can be resumed exactly."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.environments import LightningEnvironment

from pipeline.checkpoints import SafetensorsCheckpointIO
from pipeline.config import TrainParams
from pipeline.datamodule import PatchDataModule
from pipeline.devices import parse_devices
from pipeline.history import append_history
from pipeline.models.modules import SemanticModule
from pipeline.progress import format_seconds

LOGGER = logging.getLogger("segtrail")
RESUME = "resume.safetensors"
BEST = "best.safetensors"
HISTORY = "history.csv"


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
    """Stops after a number of validations without a better Dice.

    Lightning's EarlyStopping counts validations in its sanity check and after a resumed epoch again; this
    one counts each epoch once.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = float("-inf")
        self.best_epoch = -1
        self.waited = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or "validation_dice" not in trainer.callback_metrics:
            return
        dice = float(trainer.callback_metrics["validation_dice"])
        if dice > self.best:
            self.best, self.best_epoch, self.waited = dice, trainer.current_epoch, 0
            return
        self.waited += 1
        if self.patience and self.waited >= self.patience:
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

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch_started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
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
        for name in sorted(n for n in self._validation_names(pl_module)):
            row[name] = metrics.get(name, "") if validated else ""
        append_history(self.path, row)
        spent = self.budget.spent(trainer.global_step)
        left = self.budget.seconds * (1 - spent) / max(spent, 1e-9)
        dice = f", validation Dice {metrics['validation_dice']:.4f}" if validated else ""
        LOGGER.info(
            "epoch %d: loss %.4f%s, %.0f %% of the budget (ETA %s)",
            row["epoch"],
            row["train_loss"],
            dice,
            100 * min(spent, 1),
            format_seconds(max(left, 0)),
        )

    @staticmethod
    def _validation_names(module: Any) -> list[str]:
        return ["validation_dice", *(f"validation_dice_{n}" for n in module.plan.label_names[1:])]


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training leaves.

    Attributes:
        weights: State dict of the network with the best validation Dice.
        network_arguments: Arguments of the network.
        validation_dice: Its mean Dice on the validation cases.
        best_epoch: Epoch (from 1) of these weights.
        seconds: Training time, resumed parts included.
        resumed: How often the run was continued.
        devices: What it ran on.
    """

    weights: dict[str, torch.Tensor]
    network_arguments: dict[str, Any]
    validation_dice: float
    best_epoch: int
    seconds: float
    resumed: int
    devices: str


def fit(
    module: SemanticModule, data: PatchDataModule, params: TrainParams, scratch: Path, devices: str
) -> TrainingResult:
    """Trains until the budget is spent; continues from `scratch` when a killed run left a checkpoint.

    Args:
        module: Freshly built, seeded.
        data: Patches and validation cases.
        params: `train.<model>`.
        scratch: Folder of checkpoints and `history.csv`; must not be an output of DVC.
        devices: See `parse_devices`.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning|torch|monai")
    budget, patience = Budget(params), Patience(params.patience)
    resume = ModelCheckpoint(
        scratch,
        filename=Path(RESUME).stem,
        every_n_train_steps=params.checkpoint_every_steps,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
        save_top_k=1,
    )
    best = ModelCheckpoint(
        scratch,
        filename=Path(BEST).stem,
        monitor="validation_dice",
        mode="max",
        enable_version_counter=False,
        save_top_k=1,
        save_on_train_epoch_end=False,
    )
    resume.FILE_EXTENSION = best.FILE_EXTENSION = ".safetensors"
    trainer = _trainer(params, devices, [budget, patience, History(scratch / HISTORY, budget), resume, best])
    checkpoint = scratch / RESUME
    if checkpoint.exists():
        LOGGER.info("continuing the interrupted training from %s", checkpoint)
    trainer.fit(module, data, ckpt_path=checkpoint if checkpoint.exists() else None)
    return _result(trainer, module, data, budget, patience, scratch)


def _trainer(params: TrainParams, devices: str, callbacks: list[pl.Callback]) -> pl.Trainer:
    hardware = parse_devices(devices)
    count = hardware["devices"] if isinstance(hardware["devices"], int) else len(hardware["devices"])
    return pl.Trainer(
        **hardware,
        strategy="ddp" if count > 1 else "auto",
        precision=params.precision,
        max_epochs=params.max_epochs,
        limit_train_batches=params.steps_per_epoch,
        check_val_every_n_epoch=params.validate_every_epochs,
        num_sanity_val_steps=0,
        gradient_clip_val=params.gradient_clip,
        callbacks=callbacks,
        plugins=[SafetensorsCheckpointIO(), LightningEnvironment()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        benchmark=hardware["accelerator"] == "gpu",
    )


def _result(
    trainer: pl.Trainer,
    module: SemanticModule,
    data: PatchDataModule,
    budget: Budget,
    patience: Patience,
    scratch: Path,
) -> TrainingResult:
    seconds = budget.seconds
    final = {name: tensor.detach().cpu().clone() for name, tensor in module.network.state_dict().items()}
    last_epoch = trainer.current_epoch
    weights, dice, epoch = final, patience.best, patience.best_epoch + 1
    validated = (last_epoch % budget.params.validate_every_epochs) == 0
    if not validated or patience.best_epoch < 0:
        (metrics,) = trainer.validate(module, data, verbose=False)
        if metrics["validation_dice"] > dice:
            dice, epoch = metrics["validation_dice"], last_epoch
    if epoch < last_epoch and (scratch / BEST).exists():
        saved = SafetensorsCheckpointIO().load_checkpoint(scratch / BEST)["state_dict"]
        prefix = "network."
        weights = {n[len(prefix) :]: t for n, t in saved.items() if n.startswith(prefix)}
    return TrainingResult(
        weights=weights,
        network_arguments=module.network_arguments,
        validation_dice=dice,
        best_epoch=epoch,
        seconds=seconds,
        resumed=budget.resumed,
        devices=f"{trainer.world_size} x {module.device.type}",
    )
