"""Gaussian sliding windows over a volume, and the way back to the grid it came from."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.plan import Plan
from pipeline.preprocessing import prepare_volume, resample_linear
from pipeline.volume import Volume, from_canonical, reorientation

Network = Callable[[torch.Tensor], torch.Tensor]


def predict_logits(
    network: Network, image: torch.Tensor, plan: Plan, overlap: float, mirror_axes: str
) -> torch.Tensor:
    """Runs a network over a whole prepared case.

    Args:
        network: (N, C, X, Y, Z) to logits (N, classes, X, Y, Z).
        image: (C, X, Y, Z) on the plan's spacing, on the network's device.
        plan: Gives window and padding.
        overlap: Of neighbouring windows, as a share of the window.
        mirror_axes: Average over the versions mirrored along these of "xyz"; "" for none.

    Returns:
        (classes, X, Y, Z) logits on the CPU.
    """
    padded, inner = _pad_to_patch(image, plan)
    axes = [2 + "xyz".index(axis) for axis in mirror_axes if plan.patch_size["xyz".index(axis)] > 1]
    flips = [chosen for n in range(len(axes) + 1) for chosen in combinations(axes, n)]

    def averaged(windows: torch.Tensor) -> torch.Tensor:
        total = network(windows)
        for flip in flips[1:]:
            total = total + network(windows.flip(flip)).flip(flip)
        return total / len(flips)

    with torch.inference_mode():
        logits = sliding_window_inference(
            padded[None],
            plan.patch_size,
            sw_batch_size=1 if image.device.type == "cpu" else 4,
            predictor=averaged,
            overlap=overlap,
            mode="gaussian",
            sigma_scale=0.125,
            sw_device=image.device,
            device=torch.device("cpu"),  # the sum over a large volume with many classes outgrows a GPU
        )
    if not isinstance(logits, torch.Tensor):
        raise TypeError("the network must return one tensor")
    return logits[0][(slice(None), *inner)].float().cpu()


def _pad_to_patch(image: torch.Tensor, plan: Plan) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Pads to at least one window, each channel with its own value; also says where the image lies."""
    before = [max(p - n, 0) // 2 for p, n in zip(plan.patch_size, image.shape[1:], strict=True)]
    after = [max(p - n, 0) - b for p, n, b in zip(plan.patch_size, image.shape[1:], before, strict=True)]
    inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    if not any(before) and not any(after):
        return image, inner
    widths = [w for b, a in zip(reversed(before), reversed(after), strict=True) for w in (b, a)]
    channels = [
        functional.pad(channel, widths, value=how.padding)
        for channel, how in zip(image, plan.normalization, strict=True)
    ]
    return torch.stack(channels), inner


def predict_probabilities(
    network: Network,
    volume: Volume,
    plan: Plan,
    overlap: float,
    mirror_axes: str,
    device: torch.device,
    where: str,
) -> NDArray[np.float32]:
    """Class probabilities on the source grid.

    Args:
        network: In evaluation mode, on `device`.
        volume: As read, any orientation and spacing.
        plan: The plan the network was trained with.
        overlap, mirror_axes: See `predict_logits`.
        device: Where the network runs.
        where: Case id and file, for errors.

    Returns:
        (classes, X, Y, Z) float32 in the axis order of `volume`, summing to 1 over classes.
    """
    image = prepare_volume(volume, plan, where).to(device)
    logits = predict_logits(network, image, plan, overlap, mirror_axes)
    axes, _ = reorientation(volume.affine)
    x, y, z = (volume.array.shape[1 + axis] for axis in axes)
    probabilities = resample_linear(logits.softmax(dim=0), (x, y, z))
    return np.ascontiguousarray(from_canonical(probabilities.numpy(), volume.affine))
