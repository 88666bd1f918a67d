"""U-Net with a residual encoder, 2D and 3D.

Source: nnU-Net's ResEnc U-Net (Isensee et al., nnU-Net Revisited, 2024; dynamic_network_architectures 0.4.2,
`ResidualEncoderUNet` of `BasicBlockD`), after He et al. 2016 and, for the skip with pooling, He et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from pipeline.models.layers import Conv3d, InstanceNorm
from pipeline.models.unet import ConvBlock, SliceWise, UNet, for_volumes


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip connection, both normalised; the first convolution has the stride.

    The skip averages over the stride, and has a convolution of its own where the width changes.

    Args:
        inputs: Feature maps in.
        outputs: Feature maps out.
        kernel: Along X, Y[, Z].
        stride: Down-sampling along these axes.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        flat = len(kernel) == 2
        conv: Callable[..., nn.Module] = nn.Conv2d if flat else Conv3d
        pool: Callable[..., nn.Module] = nn.AvgPool2d if flat else nn.AvgPool3d
        padding = tuple(k // 2 for k in kernel)
        self.first = ConvBlock(inputs, outputs, kernel, stride, convolutions=1)
        self.second = conv(outputs, outputs, tuple(kernel), padding=padding, bias=False)
        self.norm = InstanceNorm(outputs)
        self.skip = nn.Sequential()
        if any(step > 1 for step in stride):
            self.skip.append(pool(tuple(stride), tuple(stride)))
        if inputs != outputs:
            self.skip.extend([conv(inputs, outputs, 1, bias=False), InstanceNorm(outputs)])
        self.activation = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(N, inputs, X, Y[, Z]) to (N, outputs, X', Y'[, Z'])."""
        changed = self.norm(self.second(self.first(maps)))
        result: torch.Tensor = self.activation(changed + self.skip(maps))
        return result


def build_resunet(
    channels: int,
    classes: int,
    features: Sequence[int],
    strides: Sequence[Sequence[int]],
    kernels: Sequence[Sequence[int]],
    dimensions: int,
    blocks: Sequence[int],
) -> UNet | SliceWise:
    """Builds the network for tensors (N, C, X, Y, Z); with `dimensions` 2, Z must be 1.

    Args:
        channels: Channels of the image.
        classes: Classes, background included.
        features, strides, kernels: One entry a stage, as of `UNet`.
        dimensions: 2 or 3.
        blocks: Residual blocks of each stage.
    """
    strides, kernels = [s[:dimensions] for s in strides], [k[:dimensions] for k in kernels]
    still = [1] * dimensions
    encoder = []
    for stage, count in enumerate(blocks):
        before, width, kernel = features[max(stage - 1, 0)], features[stage], kernels[stage]
        stem = [ConvBlock(channels, width, kernel, still, convolutions=1)] if stage == 0 else []
        first = ResidualBlock(before, width, kernel, strides[stage])
        further = [ResidualBlock(width, width, kernel, still) for _ in range(count - 1)]
        encoder.append(nn.Sequential(*stem, first, *further))
    network = UNet(encoder, classes, features, strides, kernels, convolutions=1)
    for block in network.modules():
        if isinstance(block, ResidualBlock):  # each block passes its input on at first
            nn.init.zeros_(block.norm.weight)
    return for_volumes(network, dimensions)
