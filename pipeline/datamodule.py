"""Loaders of training patches and validation cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from pipeline.config import TrainParams
from pipeline.datasets import PatchSampling, PatchStream, Share, WholeCases
from pipeline.plan import Plan


class PatchDataModule(pl.LightningDataModule):
    """Training patches and whole validation cases of a store.

    Args:
        folder: Store of preprocessed cases.
        training_cases: Case ids of the training side.
        validation_cases: Case ids of the validation side.
        plan: The data set's plan.
        params: `train.<model>`.
        workers: Loader processes; 0 loads in the training process.
    """

    def __init__(
        self,
        folder: Path,
        training_cases: Sequence[str],
        validation_cases: Sequence[str],
        plan: Plan,
        params: TrainParams,
        workers: int,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.training_cases = training_cases
        self.validation_cases = validation_cases
        self.sampling = PatchSampling(
            patch_size=plan.patch_size,
            batch_size=plan.batch_size,
            foreground_fraction=params.foreground_fraction,
            padding=tuple(how.padding for how in plan.normalization),
            seed=params.seed,
        )
        self.steps_per_epoch = params.steps_per_epoch
        self.workers = workers

    def _current_step(self) -> int:
        return self.trainer.global_step if self.trainer is not None else 0

    def train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        """Batches of patches, in the order of optimizer steps."""
        trainer = self.trainer
        share = Share(trainer.global_rank, trainer.world_size) if trainer is not None else Share()
        stream = PatchStream(
            self.folder, self.training_cases, self.sampling, self.steps_per_epoch, self._current_step, share
        )
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,  # the stream knows its trainer
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole cases, one at a time."""
        return DataLoader(WholeCases(self.folder, self.validation_cases), batch_size=None)
