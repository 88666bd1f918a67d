"""Networks whose answer is known, a plan of windows for them, and what they predict with it."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.inference import predict_classes
from pipeline.inference_memory import list_settings
from pipeline.plan import ChannelNormalization, Plan
from pipeline.preprocessing import prepare_volume
from pipeline.volume import Volume
from pipeline.windows import Network, Setting

CPU = torch.device("cpu")
SINGLE, HALF = list_settings(CPU)


def make_plan(patch: tuple[int, int, int], spacing: tuple[float, float, float]) -> Plan:
    return Plan(
        dataset="x", channels=("CT",), label_names=("background", "bright"), label_values=(0, 1),
        dimensions=3, spacing_mm=spacing, patch_size=patch, batch_size=2, strides=((1, 1, 1),),
        kernels=((3, 3, 3),), features=(4,), reasons={}, n_cases=1,
        normalization=(ChannelNormalization(scheme="ct", low=-100, high=100, mean=0, std=100),),
    )  # fmt: skip


def threshold(image: torch.Tensor) -> torch.Tensor:
    """A network that calls bright what is above zero."""
    return torch.cat([-image, image], dim=1) * 10


def blurred(image: torch.Tensor) -> torch.Tensor:
    """Five classes that depend on the place in the window and on neighbours, as those of a network do."""
    generator = torch.Generator().manual_seed(1)
    kernel = torch.randn(5, image.shape[1], 5, 5, 5, generator=generator)
    return torch.nn.functional.conv3d(image, kernel, padding=2)


def predict(
    network: Network, volume: Volume, plan: Plan, mirror: str = "", setting: Setting = SINGLE
) -> tuple[np.ndarray, np.ndarray]:
    """Index and probability of the winner, slab by slab."""
    image = prepare_volume(volume, plan, "case")
    grid = volume.array.shape[1:], volume.affine
    found = predict_classes(network, image, grid, plan, 0.5, mirror, [setting], "case")
    return found.winner, found.probability
