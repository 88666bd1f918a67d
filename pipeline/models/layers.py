"""Convolution and instance normalisation of the U-Net, spelled so that a CPU computes them fast.

Parameters, names and results (up to rounding) are those of torch's own layers.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

FEWEST_CHANNELS = 4
MKLDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` with zeros as padding, always by oneDNN on a CPU.

    In training, one to three input channels get zeros as further ones: oneDNN has no fast weight gradient for
    fewer than four channels, and for one channel of 40 x 56 x 40 voxels it took a quarter of the training step
    (docs/explanation/training.md). In inference it is called by name: for a single small sample torch takes a
    kernel of its own, which made a window of 40 x 56 x 40 voxels a third slower (docs/explanation/inference.md).
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, X, Y, Z) to (N, out_channels, X', Y', Z')."""
        image, weight = input, self.weight
        if _is_plain_inference(image, weight):
            padding = [int(p) for p in self.padding]
            return torch.mkldnn_convolution(
                image, weight, self.bias, padding, self.stride, self.dilation, self.groups
            )
        missing = FEWEST_CHANNELS - self.in_channels
        plain = self.groups == 1 and image.device.type == "cpu"
        if missing > 0 and plain and torch.is_grad_enabled():
            zeros = (0, 0, 0, 0, 0, 0, 0, missing)
            image = functional.pad(image, zeros).contiguous(memory_format=torch.channels_last_3d)
            weight = functional.pad(weight, zeros).contiguous(memory_format=torch.channels_last_3d)
        return functional.conv3d(
            image, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


def _is_plain_inference(image: torch.Tensor, weight: torch.Tensor) -> bool:
    """On a CPU with oneDNN, in single precision, without gradients and autocast."""
    return (
        image.device.type == "cpu"
        and image.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and MKLDNN
    )


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
