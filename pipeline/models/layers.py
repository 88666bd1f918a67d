"""Convolution and instance normalisation of the U-Net, spelled so that a CPU computes them fast.

Parameters, names and results (up to rounding) are those of torch's own layers.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

FEWEST_CHANNELS = 4


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` with zeros as padding; one to three input channels get zeros as further ones on a CPU.

    oneDNN has no fast weight gradient for fewer than four channels: for one channel of 40 x 56 x 40 voxels it
    took a quarter of the whole training step (`benchmarks/step_time.py`).
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, X, Y, Z) to (N, out_channels, X', Y', Z')."""
        image, weight = input, self.weight
        missing = FEWEST_CHANNELS - self.in_channels
        if missing > 0 and image.device.type == "cpu" and torch.is_grad_enabled():
            zeros = (0, 0, 0, 0, 0, 0, 0, missing)
            image = functional.pad(image, zeros).contiguous(memory_format=torch.channels_last_3d)
            weight = functional.pad(weight, zeros).contiguous(memory_format=torch.channels_last_3d)
        return functional.conv3d(image, weight, self.bias, self.stride, self.padding, self.dilation)


class InstanceNorm(nn.Module):
    """Instance normalisation with scale and shift (Ulyanov et al. 2016), 2D and 3D.

    On a CPU each sample goes through torch's batch normalisation, the same formula for a batch of one: its
    kernels keep the channels-last layout. `torch.nn.InstanceNorm3d` copies to the default one and back, and its
    gradient is wrong for a batch of one in that layout (torch 2.15).

    Args:
        features: Feature maps.
        eps: Added to the variance.
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Each map of each sample of (N, features, X, Y[, Z]) to mean `bias` and deviation `weight`."""
        if maps.device.type != "cpu":
            return functional.instance_norm(maps, weight=self.weight, bias=self.bias, eps=self.eps)
        samples = [
            functional.batch_norm(sample, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for sample in torch.split(maps, 1)
        ]
        return samples[0] if len(samples) == 1 else torch.cat(samples)
