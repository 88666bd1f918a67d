"""Runs in nnU-Net's environment: plans, preprocesses, trains 3d_fullres within minutes of a start, and predicts.

    python nnunet_training.py DATASET_ID STARTED MINUTES IMAGES OUTPUT

STARTED is the time (seconds since 1970) from which MINUTES count: planning and preprocessing are part of them.
Everything is nnU-Net's own recipe except the schedule: its polynomial decay runs over the minutes, by iteration.
The weights after the last iteration predict IMAGES into OUTPUT; that is not timed. The last line printed is the
number of iterations.
"""

from __future__ import annotations

import sys
import time

import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprints,
    plan_experiments,
    preprocess,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

EXPONENT = 0.9  # of nnU-Net's PolyLRScheduler


class TimedTrainer(nnUNetTrainer):
    """nnU-Net's trainer without its epochs: iterations until the minutes are over."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int | str,
        dataset_json: dict,
        device: torch.device = torch.device("cpu"),  # noqa: B008  the signature that nnU-Net inspects
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)

    def train_until(self, started: float, minutes: float) -> int:
        self.on_train_start()
        self.network.train()
        iterations, first = 0, time.time()
        end = started + 60 * minutes
        while time.time() < end:
            spent = (time.time() - first) / max(end - first, 1e-9)
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - min(spent, 1)) ** EXPONENT
            self.train_step(next(self.dataloader_train))
            iterations += 1
        self.on_train_end()
        return iterations


def main() -> None:
    dataset_id, started, minutes = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    images, output = sys.argv[4:6]
    extract_fingerprints([dataset_id], num_processes=2)
    plan_experiments([dataset_id])
    preprocess([dataset_id], configurations=("3d_fullres",), num_processes=(2,))
    from batchgenerators.utilities.file_and_folder_operations import join, load_json

    folder = join(nnUNet_preprocessed, maybe_convert_to_dataset_name(dataset_id))
    plans = load_json(join(folder, "nnUNetPlans.json"))
    plans["continue_training"] = False
    description = load_json(join(folder, "dataset.json"))
    trainer = TimedTrainer(plans, "3d_fullres", "all", description, torch.device("cpu"))
    iterations = trainer.train_until(started, minutes)
    predictor = nnUNetPredictor(device=torch.device("cpu"), verbose=False, allow_tqdm=False)
    trainer.set_deep_supervision_enabled(False)
    predictor.manual_initialization(
        trainer.network.eval(),
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        description,
        "nnUNetTrainer",
        trainer.inference_allowed_mirroring_axes,
    )
    predictor.predict_from_files(
        images, output, num_processes_preprocessing=1, num_processes_segmentation_export=1
    )
    sys.stdout.write(f"\n{iterations}\n")


if __name__ == "__main__":
    main()
