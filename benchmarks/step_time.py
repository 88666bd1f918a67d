"""What a training step costs beside its network: waiting for data, augmentation, bookkeeping.

    .venv/bin/python benchmarks/step_time.py RAW [--preset hippocampus] [--steps 40] [--set K=V]

Prepares RAW in a copy of the project, then takes turns between the real training (`pipeline.training.fit`) and the
bare network (forward, loss, backward, optimizer) on random tensors of the same shapes, and prints medians.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from preset_quality import change_params, copy_project, describe_machine, segtrail

from pipeline import training
from pipeline.config import load_params
from pipeline.devices import choose_precision
from pipeline.models.base import TrainedModule
from pipeline.plan import load_plan
from pipeline.splits import load_splits
from pipeline.train_params import SemanticTrainParams
from pipeline.training_setup import build_training

ROUNDS = 3
WARM_UP = 3  # steps of each round that are left out


class Clock(pl.Callback):
    """Seconds of each step, and of it those before the batch is ready."""

    def __init__(self) -> None:
        self.whole: list[float] = []
        self.waiting: list[float] = []
        self.ended: float | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.ready = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if self.ended is not None:
            self.whole.append(now - self.ended)
            self.waiting.append(self.ready - self.ended)
        self.ended = now


def time_augmentation(module: TrainedModule) -> list[float]:
    """Seconds of each later augmentation, to tell them from the loading of data."""
    original, seconds = module.on_after_batch_transfer, []

    def timed(batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        started = time.perf_counter()
        done = original(batch, dataloader_idx)
        if "step" in batch:
            seconds.append(time.perf_counter() - started)
        return done

    module.on_after_batch_transfer = timed  # type: ignore[method-assign]
    return seconds


def time_training(project: Path, model: str, steps: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each step of the real training: whole, loading, augmentation."""
    params = load_params().train.of(model)
    params = params.model_copy(update={"max_epochs": 1, "steps_per_epoch": steps + WARM_UP, "patience": 0})
    sides = load_splits(Path("data/splits/splits.csv"))
    train, validation = ([c for c, s in sides.items() if s == side] for side in ("train", "validation"))
    plan = load_plan(Path("data/plan/plan.json"))
    if isinstance(params, SemanticTrainParams):
        plan = plan.configured(params.network, params.configuration)
    pl.seed_everything(1, verbose=False)
    store = Path("data/preprocessed")
    module, data = build_training(model, plan, params, store, train, validation[:1], workers=0)
    clock, augmentations = Clock(), time_augmentation(module)
    build = training._trainer

    def with_clock(*arguments: Any) -> pl.Trainer:
        *others, callbacks = arguments
        return build(*others, [*callbacks, clock])

    training._trainer = with_clock
    with tempfile.TemporaryDirectory() as scratch:
        training.fit(module, data, params, Path(scratch), "auto")
    training._trainer = build
    augmented = augmentations[1:]
    loading = [wait - own for wait, own in zip(clock.waiting, augmented, strict=True)]
    return clock.whole[WARM_UP:], loading[WARM_UP:], augmented[WARM_UP:]


def time_network(steps: int) -> list[float]:
    """Seconds of each step of the bare U-Net on random tensors."""
    params, plan = load_params().train.of("unet"), load_plan(Path("data/plan/plan.json"))
    pl.seed_everything(1, verbose=False)
    module, _ = build_training("unet", plan, params, Path("data/preprocessed"), [], [], workers=0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device).train()
    optimizer = module.configure_optimizers()
    shape = (plan.batch_size, len(plan.channels), *plan.patch_size)
    image = torch.randn(shape, device=device)
    label = torch.randint(len(plan.label_names), (shape[0], *shape[2:]), device=device, dtype=torch.uint8)
    precision = choose_precision(params.precision, "gpu" if device.type == "cuda" else "cpu")
    short = torch.float16 if precision == "16-mixed" else torch.bfloat16
    seconds = []
    for _ in range(steps + WARM_UP):
        started = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device.type, short, enabled=precision != "32-true"):
            loss = module.loss(module.network.pyramid(image, module.levels), label)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), params.gradient_clip)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--preset", default="hippocampus")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="step-time-") as folder:
        project = Path(folder)
        copy_project(project)
        segtrail(project, "data", "add", str(options.raw.resolve()), "--preset", options.preset)
        change_params(project, options.set)
        segtrail(project, "repro", "preprocess")
        os.chdir(project)
        logging.disable(logging.INFO)
        parts: list[list[float]] = [[], [], [], []]
        for _ in range(ROUNDS):
            measured = (*time_training(project, "unet", options.steps), time_network(options.steps))
            for seconds, more in zip(parts, measured, strict=True):
                seconds.extend(more)
        batch = load_plan(Path("data/plan/plan.json")).batch_size
        os.chdir("/")
    whole, loading, augmentation, bare = (float(np.median(seconds)) for seconds in parts)
    print(
        f"\n{options.preset}, U-Net, batch of {batch}, {ROUNDS} rounds of {options.steps} steps, medians in ms"
    )
    print(f"whole step          {1000 * whole:8.1f}   {1000 * whole / batch:.1f} a sample")
    print(f"  waiting for data  {1000 * loading:8.1f}   {100 * loading / whole:.1f} % of the step")
    mean = float(np.mean(parts[2]))
    print(
        f"  augmentation      {1000 * augmentation:8.1f}   {100 * augmentation / whole:.1f} %, mean {1000 * mean:.1f}"
    )
    print(f"bare network        {1000 * bare:8.1f}   whole / bare {whole / bare:.3f}")
    print(describe_machine())


if __name__ == "__main__":
    main()
