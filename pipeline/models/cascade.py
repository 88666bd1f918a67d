"""The cascade's networks: one at low resolution, and one at full resolution that sees the first one's label map.

Source: nnU-Net's `3d_cascade_fullres` (Isensee et al., Nature Methods 18, 2021).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

LOW, FULL = "low", "full"


class WithPrevious(nn.Module):
    """Lets a network see a label map: the last channel of its input is a class index, and becomes one-hot.

    As one channel the map travels through windows, mirrors and padding like an image, and it takes a byte a voxel
    where it is stored.

    Args:
        network: Of image channels + classes - 1 channels: the image's, then one a foreground class.
        classes: Classes of the label map, background included.
    """

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network = network
        self.classes = classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes, X, Y, Z) of (N, channels + 1, X, Y, Z)."""
        logits: torch.Tensor = self.network(self._unfold(image))
        return logits

    def pyramid(self, image: torch.Tensor, levels: int) -> list[torch.Tensor]:
        """As the network's own: logits of the finest decoder stages."""
        logits: list[torch.Tensor] = self.network.pyramid(self._unfold(image), levels)  # type: ignore[operator]
        return logits

    def _unfold(self, image: torch.Tensor) -> torch.Tensor:
        labels = torch.arange(1, self.classes, device=image.device).view(1, -1, 1, 1, 1)
        return torch.cat([image[:, :-1], (image[:, -1:] == labels).to(image.dtype)], dim=1)


class Cascade(nn.Module):
    """Both networks as one model; who predicts runs them one after the other, each on its own grid.

    Args:
        low: Sees the image at low resolution.
        full: Sees the image at full resolution, and what the first one found.
    """

    def __init__(self, low: nn.Module, full: nn.Module) -> None:
        super().__init__()
        self.low = low
        self.full = full


def join_parts(low: Mapping[str, torch.Tensor], full: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of a `Cascade` from those of its networks."""
    parts = {LOW: low, FULL: full}
    return {f"{part}.{name}": tensor for part, weights in parts.items() for name, tensor in weights.items()}
