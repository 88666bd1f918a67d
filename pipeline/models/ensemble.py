"""Several networks as one: the mean of their logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from pipeline.models.cascade import Cascade


class Ensemble(nn.Module):
    """Averages the logits of its members, as nnU-Net does over the folds of a cross-validation.

    Logits, not probabilities: a member that is sure of a voxel outweighs one that is not.

    Args:
        members: Networks of the same input and output.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes, X, Y, Z), a new tensor, of an image (N, channels, X, Y, Z)."""
        first, *others = self.members
        total: torch.Tensor = first(image)
        for member in others:
            total += member(image)
        return total.div_(len(self.members))


def average_networks(members: Sequence[nn.Module]) -> nn.Module:
    """The members as one network; of cascades each part is averaged, on the grid it works on."""
    cascades = [member for member in members if isinstance(member, Cascade)]
    if cascades:
        return Cascade(Ensemble(c.low for c in cascades), Ensemble(c.full for c in cascades))
    return Ensemble(members)


def join_weights(members: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """State dicts of several networks as one: names begin with the number of the member, as in "0.heads.0.bias"."""
    return {f"{i}.{name}": tensor for i, weights in enumerate(members) for name, tensor in weights.items()}


def member_weights(weights: Mapping[str, torch.Tensor], member: int) -> dict[str, torch.Tensor]:
    """The part of `join_weights` that is one network's."""
    prefix = f"{member}."
    return {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
