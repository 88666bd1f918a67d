"""U-Net, 2D and 3D."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from pipeline.models.layers import Conv3d, InstanceNorm

Triple = tuple[int, int, int]


class ConvBlock(nn.Sequential):
    """Two convolutions, each with instance normalisation and leaky ReLU.

    Args:
        inputs: Feature maps in.
        outputs: Feature maps out.
        kernel: Along X, Y[, Z].
        stride: Of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        flat = len(kernel) == 2
        conv: Callable[..., nn.Module] = nn.Conv2d if flat else Conv3d
        layers: list[nn.Module] = []
        for index in range(2):
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
    """Plain convolutional U-Net, 2D or 3D, with a segmentation head at every decoder stage.

    Two convolutions a stage, strided down-sampling, transposed-convolution up-sampling, skip connections
    (Ronneberger et al. 2015; stage layout after Isensee et al., nnU-Net, 2021).

    Args:
        channels: Channels of the image.
        classes: Classes, background included.
        features: Feature maps of each stage.
        strides: Down-sampling of each stage, one entry an axis; the first is all ones.
        kernels: Kernel of each stage.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        flat = len(kernels[0]) == 2
        conv: Callable[..., nn.Module] = nn.Conv2d if flat else Conv3d
        transposed: Callable[..., nn.Module] = nn.ConvTranspose2d if flat else nn.ConvTranspose3d
        widths = [channels, *features]
        self.encoder = nn.ModuleList(
            ConvBlock(widths[i], widths[i + 1], kernels[i], strides[i]) for i in range(len(features))
        )
        deep_to_fine = range(len(features) - 1, 0, -1)
        self.upsample = nn.ModuleList(
            transposed(features[i], features[i - 1], tuple(strides[i]), stride=tuple(strides[i]))
            for i in deep_to_fine
        )
        self.decoder = nn.ModuleList(
            ConvBlock(2 * features[i - 1], features[i - 1], kernels[i - 1], [1] * len(kernels[0]))
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
    strides: Sequence[Triple],
    kernels: Sequence[Triple],
    dimensions: int,
) -> UNet | SliceWise:
    """Builds a U-Net for tensors (N, C, X, Y, Z); with `dimensions` 2, Z must be 1."""
    if dimensions == 3:
        return UNet(channels, classes, features, strides, kernels).to(memory_format=torch.channels_last_3d)
    flat_strides = [stride[:2] for stride in strides]
    flat_kernels = [kernel[:2] for kernel in kernels]
    return SliceWise(UNet(channels, classes, features, flat_strides, flat_kernels))
