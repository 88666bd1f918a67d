"""U-Net, 2D and 3D."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from pipeline.models.layers import Conv3d, InstanceNorm


class ConvBlock(nn.Sequential):
    """Convolutions, each with instance normalisation and leaky ReLU.

    Args:
        inputs: Feature maps in.
        outputs: Feature maps out.
        kernel: Along X, Y[, Z].
        stride: Of the first convolution.
        convolutions: How many.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int], convolutions: int = 2
    ) -> None:
        flat = len(kernel) == 2
        conv: Callable[..., nn.Module] = nn.Conv2d if flat else Conv3d
        layers: list[nn.Module] = []
        for index in range(convolutions):
            layers += [
                conv(
                    inputs if index == 0 else outputs,
                    outputs,
                    tuple(kernel),
                    stride=tuple(stride) if index == 0 else 1,
                    padding=tuple(k // 2 for k in kernel),
                    bias=False,  # the normalisation takes it away again
                ),
                InstanceNorm(outputs),
                nn.LeakyReLU(0.01, inplace=True),
            ]
        super().__init__(*layers)


class UNet(nn.Module):
    """U-Net, 2D or 3D, with a segmentation head at every decoder stage.

    Strided down-sampling, transposed-convolution up-sampling, skip connections (Ronneberger et al. 2015; stage
    layout after Isensee et al., nnU-Net, 2021).

    Args:
        encoder: The stages on the way down, finest first.
        classes: Classes, background included.
        features: Feature maps of each stage.
        strides: Down-sampling of each stage, one entry an axis; the first is all ones.
        kernels: Kernel of each stage.
        convolutions: Of each decoder stage.
    """

    def __init__(
        self,
        encoder: Sequence[nn.Module],
        classes: int,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]],
        convolutions: int,
    ) -> None:
        super().__init__()
        flat = len(kernels[0]) == 2
        conv: Callable[..., nn.Module] = nn.Conv2d if flat else Conv3d
        transposed: Callable[..., nn.Module] = nn.ConvTranspose2d if flat else nn.ConvTranspose3d
        self.encoder = nn.ModuleList(encoder)
        deep_to_fine = range(len(features) - 1, 0, -1)
        self.upsample = nn.ModuleList(
            transposed(features[i], features[i - 1], tuple(strides[i]), stride=tuple(strides[i]))
            for i in deep_to_fine
        )
        self.decoder = nn.ModuleList(
            ConvBlock(
                2 * features[i - 1], features[i - 1], kernels[i - 1], [1] * len(kernels[0]), convolutions
            )
            for i in deep_to_fine
        )
        self.heads = nn.ModuleList(conv(features[i - 1], classes, 1) for i in deep_to_fine)
        self.apply(_initialize)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes, X, Y[, Z]) of an image (N, channels, X, Y[, Z])."""
        return self.pyramid(image, 1)[0]

    def pyramid(self, image: torch.Tensor, levels: int) -> list[torch.Tensor]:
        """Logits of the finest `levels` decoder stages, finest first, each on its own grid."""
        skips = []
        # Channels last is a third faster on CPU than the default layout.
        x = image.contiguous(memory_format=torch.channels_last_3d) if image.dim() == 5 else image
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        logits = []
        for index, (up, stage, head) in enumerate(zip(self.upsample, self.decoder, self.heads, strict=True)):
            x = stage(torch.cat([up(x), skips.pop()], dim=1))
            if len(self.decoder) - index <= levels:
                logits.append(head(x))
        return logits[::-1]


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SliceWise(nn.Module):
    """Lets a 2D network work on volumes of one slice: (N, C, X, Y, 1) in and out."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes, X, Y, 1)."""
        logits: torch.Tensor = self.network(image[..., 0])
        return logits[..., None]

    def pyramid(self, image: torch.Tensor, levels: int) -> list[torch.Tensor]:
        """As `UNet.pyramid`, with a last axis of length 1."""
        return [logits[..., None] for logits in self.network.pyramid(image[..., 0], levels)]


def build_unet(
    channels: int,
    classes: int,
    features: Sequence[int],
    strides: Sequence[Sequence[int]],
    kernels: Sequence[Sequence[int]],
    dimensions: int,
) -> UNet | SliceWise:
    """Builds a plain U-Net, two convolutions a stage, for tensors (N, C, X, Y, Z); with `dimensions` 2, Z must be 1."""
    strides, kernels = [s[:dimensions] for s in strides], [k[:dimensions] for k in kernels]
    encoder = [
        ConvBlock(before, width, kernel, stride)
        for before, width, kernel, stride in zip(
            [channels, *features[:-1]], features, kernels, strides, strict=True
        )
    ]
    return for_volumes(UNet(encoder, classes, features, strides, kernels, convolutions=2), dimensions)


def for_volumes(network: UNet, dimensions: int) -> UNet | SliceWise:
    """Lets a network of `dimensions` axes take (N, C, X, Y, Z)."""
    return network.to(memory_format=torch.channels_last_3d) if dimensions == 3 else SliceWise(network)
