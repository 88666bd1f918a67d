"""Loaders of training batches and validation cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from pipeline.datasets import Share, StepSchedule, StepStream, WholeCases


class CaseDataModule(pl.LightningDataModule):
    """Training batches by optimizer step, and whole validation cases of a store.

    Args:
        build_stream: Makes the stream of training batches.
        batch_size: Samples a step over all processes.
        steps_per_epoch: Length of an epoch.
        whole_cases: Validation cases.
        workers: Loader processes; 0 loads in the training process.
    """

    def __init__(
        self,
        build_stream: Callable[[StepSchedule], StepStream],
        batch_size: int,
        steps_per_epoch: int,
        whole_cases: WholeCases,
        workers: int,
    ) -> None:
        super().__init__()
        self.build_stream = build_stream
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.whole_cases = whole_cases
        self.workers = workers

    def _current_step(self) -> int:
        return self.trainer.global_step if self.trainer is not None else 0

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches in the order of optimizer steps."""
        trainer = self.trainer
        share = Share(trainer.global_rank, trainer.world_size) if trainer is not None else Share()
        return DataLoader(
            self.build_stream(StepSchedule(self.steps_per_epoch, self._current_step, share)),
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,  # the stream knows its trainer
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole cases, one at a time."""
        return DataLoader(self.whole_cases, batch_size=None)
