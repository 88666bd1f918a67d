"""Seconds of a training step and of a prediction with each backbone of Mask R-CNN, and their ratio to resnet18.

    .venv/bin/python benchmarks/backbones.py [--devices auto] [--window 224 192] [--batch 4] [--rounds 10]

All networks take turns, so that other work on the machine meets all of them; medians over the rounds are shown.
Heads and pyramid are those of `params.yaml`. A step is losses, gradients and SGD on random windows with some
objects; a prediction is one window through an untrained network, which reports as many objects as it may. A step
of the U-Net on 3D patches (`plan.max_patch_voxels`, batch of 2) stands beside them for scale.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from pipeline.config import Params, load_params
from pipeline.devices import choose_device
from pipeline.losses import DeepSupervisionLoss
from pipeline.models.backbones import BACKBONES
from pipeline.models.maskrcnn import MaskRCNN, WindowObjects
from pipeline.models.unet import UNet, build_unet
from pipeline.topology import divisible, pooling
from pipeline.train_params import InstanceTrainParams

OBJECTS = 8  # a window


def build_detector(backbone: str, params: Params, window: Sequence[int], channels: int) -> MaskRCNN:
    """Mask R-CNN with the shipped pyramid and heads."""
    train = params.train.of("maskrcnn")
    if not isinstance(train, InstanceTrainParams):
        sys.exit("train.maskrcnn is of another network")
    return MaskRCNN(
        channels=channels,
        classes=2,
        backbone=backbone,
        pyramid_channels=train.pyramid_channels,
        head_channels=train.head_channels,
        anchor_sizes=((8.0,), (16.0,), (32.0,), (64.0,)),
        anchor_ratios=(0.5, 1.0, 2.0),
        proposals=train.proposals,
        detections=50,
        window=window,
        frozen_norm=False,
        trainable_layers=5,
    )


def make_objects(window: Sequence[int], device: torch.device) -> WindowObjects:
    """Squares along the diagonal."""
    masks = torch.zeros((OBJECTS, *window), dtype=torch.bool)
    for index, mask in enumerate(masks):
        x, y = (index * edge // OBJECTS for edge in window)
        mask[x : x + 16, y : y + 16] = True
    return WindowObjects(masks.to(device), torch.ones(OBJECTS, dtype=torch.int64, device=device))


def detector_work(
    backbone: str, params: Params, options: argparse.Namespace, device: torch.device
) -> tuple[Callable[[], None], Callable[[], None], float]:
    """A training step, a prediction of one window, and millions of parameters."""
    network = build_detector(backbone, params, options.window, options.channels).to(device)
    images = torch.randn(options.batch, options.channels, *options.window, device=device)
    objects = [make_objects(options.window, device)] * options.batch
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        torch.stack(list(network.losses(images, objects).values())).sum().backward()
        optimizer.step()

    def predict() -> None:
        network.eval()
        with torch.inference_mode():
            network(images[:1])

    return step, predict, sum(p.numel() for p in network.parameters()) / 1e6


def unet_work(params: Params, device: torch.device) -> tuple[Callable[[], None], Callable[[], None], float]:
    """The same of the U-Net on 3D patches."""
    edge = round((params.plan.max_patch_voxels / 4) ** (1 / 3))
    patch = divisible((2 * edge, 2 * edge, edge), (1.0, 1.0, 2.0))
    strides, kernels = pooling(patch, (1.0, 1.0, 2.0))
    features = [min(params.plan.base_features * 2**i, params.plan.max_features) for i in range(len(strides))]
    network = build_unet(1, 2, features, strides, kernels, 3).to(device)
    assert isinstance(network, UNet)
    image = torch.randn(2, 1, *patch, device=device)
    label = (torch.rand(2, *patch, device=device) > 0.9).long()
    loss = DeepSupervisionLoss(1.0, 1.0, None)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        loss(network.pyramid(image, max(len(features) - 2, 1)), label).backward()
        optimizer.step()

    def predict() -> None:
        with torch.inference_mode():
            network(image[:1])

    return step, predict, sum(p.numel() for p in network.parameters()) / 1e6


def measure(work: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", default="auto", help="auto, cpu or the number of a GPU")
    parser.add_argument("--window", type=int, nargs=2, default=[224, 192], help="pixels, multiples of 32")
    parser.add_argument("--batch", type=int, default=4, help="windows a step")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    options = parser.parse_args()
    device, params = choose_device(options.devices), load_params()
    torch.manual_seed(0)
    works = {name: detector_work(name, params, options, device) for name in options.backbones}
    works["unet"] = unet_work(params, device)
    steps: dict[str, list[float]] = {name: [] for name in works}
    predictions: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-1, options.rounds):  # the first one is not counted: memory, algorithms
        for name, (step, predict, _) in works.items():
            seconds = measure(step, device), measure(predict, device)
            if turn >= 0:
                steps[name].append(seconds[0])
                predictions[name].append(seconds[1])
    print(f"{'network':<20}{'10^6 weights':>13}{'step s':>10}{'ratio':>7}{'prediction s':>14}{'ratio':>7}")
    first = options.backbones[0]
    for name, (_, _, weights) in works.items():
        # Ratios within a round: other work slows its neighbours alike.
        ratios = [
            statistics.median(a / b for a, b in zip(found[name], found[first], strict=True))
            for found in (steps, predictions)
        ]
        step, prediction = statistics.median(steps[name]), statistics.median(predictions[name])
        print(f"{name:<20}{weights:>13.1f}{step:>10.3f}{ratios[0]:>7.1f}{prediction:>14.3f}{ratios[1]:>7.1f}")
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(
        f"windows of {options.window[0]} x {options.window[1]}, {options.batch} a step; {platform.machine()}, "
        f"{hardware}, PyTorch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
