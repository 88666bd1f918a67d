"""The training loop: Lightning, a budget in epochs and minutes, checkpoints that can be resumed exactly."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.plugins.environments import LightningEnvironment

from pipeline.callbacks import Budget, History, Patience, Resume
from pipeline.checkpoints import SafetensorsCheckpointIO
from pipeline.datamodule import CaseDataModule
from pipeline.devices import choose_precision, parse_devices
from pipeline.errors import SegtrailError
from pipeline.history import complete_history
from pipeline.inference import is_out_of_memory
from pipeline.models.base import TrainedModule
from pipeline.train_params import InstanceTrainParams, TrainParams

LOGGER = logging.getLogger("segtrail")
RESUME = "resume.safetensors"
BEST = "best.safetensors"
HISTORY = "history.csv"


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training leaves.

    Attributes:
        weights: State dict of the network with the best validation score.
        network_arguments: Arguments of the network.
        validation_score: What the module monitors, on the validation cases; None when no class occurs in them.
        best_epoch: Epoch (from 1) of these weights.
        seconds: Training time, resumed parts included.
        resumed: How often the run was continued.
        devices: What it ran on, and with which precision.
    """

    weights: dict[str, torch.Tensor]
    network_arguments: dict[str, Any]
    validation_score: float | None
    best_epoch: int
    seconds: float
    resumed: int
    devices: str


def fit(
    module: TrainedModule, data: CaseDataModule, params: TrainParams, scratch: Path, devices: str
) -> TrainingResult:
    """Trains until the budget is spent; continues from `scratch` when a killed run left a checkpoint.

    Args:
        module: Freshly built, seeded.
        data: Training batches and validation cases.
        params: `train.<model>`.
        scratch: Folder of checkpoints and `history.csv`; must not be an output of DVC.
        devices: See `parse_devices`.

    Raises:
        SegtrailError: The training diverged, or memory ran out; a checkpoint is kept.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning|torch|monai")
    budget, patience = Budget(params), Patience(params.patience)
    best = ModelCheckpoint(
        scratch,
        filename=Path(BEST).stem,
        monitor=module.monitor,
        mode="max",
        enable_version_counter=False,
        save_top_k=1,
        save_on_train_epoch_end=False,
    )
    best.FILE_EXTENSION = ".safetensors"
    resume = Resume(scratch / RESUME, params.checkpoint_every_steps)
    callbacks = [budget, patience, History(scratch / HISTORY, budget), best, resume]
    if params.ema_decay:
        callbacks.append(EMAWeightAveraging(decay=params.ema_decay))
    trainer = _trainer(params, devices, data.batch_size, callbacks)
    checkpoint = scratch / RESUME
    if checkpoint.exists():
        LOGGER.info("continuing the interrupted training from %s", checkpoint)
    try:
        trainer.fit(module, data, ckpt_path=checkpoint if checkpoint.exists() else None)
        return _result(trainer, module, data, budget, patience, scratch)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_large(error, params, trainer.global_step) from error


def _too_large(error: BaseException, params: TrainParams, step: int) -> SegtrailError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(params, InstanceTrainParams):
        fix = "lower batch_size of its section of train, or plan.detection_window, or use a smaller backbone"
    else:
        fix = "lower plan.batch_size (at least 2), plan.max_patch_voxels or plan.base_features"
    return SegtrailError(f"memory ran out in step {step}: {reason}", "params.yaml: plan, train", fix)


def _trainer(params: TrainParams, devices: str, batch_size: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    hardware = parse_devices(devices)
    count = hardware["devices"] if isinstance(hardware["devices"], int) else len(hardware["devices"])
    if batch_size % count:
        raise SegtrailError(
            f"{batch_size} samples a step cannot be shared evenly by {count} processes",
            "params.yaml: plan.batch_size (U-Net), train.<model>.batch_size (Mask R-CNN)",
            f"use a multiple of {count}, or fewer devices",
        )
    return pl.Trainer(
        **hardware,
        # The coarsest head has no loss, see SemanticModule.levels.
        strategy="ddp_find_unused_parameters_true" if count > 1 else "auto",
        precision=choose_precision(params.precision, hardware["accelerator"]),
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
    module: TrainedModule,
    data: CaseDataModule,
    budget: Budget,
    patience: Patience,
    scratch: Path,
) -> TrainingResult:
    seconds = budget.seconds
    final = {name: tensor.detach().cpu().clone() for name, tensor in module.network.state_dict().items()}
    last_epoch = trainer.current_epoch
    weights, score, epoch = final, patience.best, patience.best_epoch + 1
    validated = (last_epoch % budget.params.validate_every_epochs) == 0
    if not validated or patience.best_epoch < 0:
        (metrics,) = trainer.validate(module, data, verbose=False)
        if trainer.is_global_zero:
            complete_history(scratch / HISTORY, metrics)
        last = metrics[module.monitor]
        LOGGER.info("last validation: %s %.4f", module.monitor_title, last)
        if last > score or patience.best_epoch < 0:
            score, epoch = last, last_epoch
    if epoch < last_epoch and (scratch / BEST).exists():
        saved = SafetensorsCheckpointIO().load_checkpoint(scratch / BEST)["state_dict"]
        prefix = "network."
        weights = {n[len(prefix) :]: t for n, t in saved.items() if n.startswith(prefix)}
    return TrainingResult(
        weights=weights,
        network_arguments=module.network_arguments,
        validation_score=None if math.isnan(score) else score,
        best_epoch=epoch,
        seconds=seconds,
        resumed=budget.resumed,
        devices=f"{trainer.world_size} x {module.device.type}, {trainer.precision}",
    )
