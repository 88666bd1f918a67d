"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pipeline.errors import unknown_name
from pipeline.models.cascade import Cascade, WithPrevious
from pipeline.models.maskrcnn import MaskRCNN
from pipeline.models.resunet import build_resunet
from pipeline.models.unet import build_unet


def build_cascade(network: str, low: dict[str, Any], full: dict[str, Any]) -> Cascade:
    """Builds both networks of a cascade.

    Args:
        network: Name of either.
        low: Arguments of the one at low resolution.
        full: Arguments of the one at full resolution, see `build_with_previous`.
    """
    return Cascade(build_network(network, **low), build_with_previous(network, **full))


def build_with_previous(network: str, channels: int, previous_classes: int, **arguments: Any) -> WithPrevious:
    """Builds a network that sees a label map of `previous_classes` beside its `channels` of the image."""
    inner = build_network(network, channels=channels + previous_classes - 1, **arguments)
    return WithPrevious(inner, previous_classes)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": build_unet,
    "resunet": build_resunet,
    "maskrcnn": MaskRCNN,
    "cascade": build_cascade,
}


def build_network(name: str, **arguments: Any) -> nn.Module:
    """Builds a network by its name.

    Raises:
        SegtrailError: There is no such network.
    """
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS, "params.yaml: network of a section of train")
    return NETWORKS[name](**arguments)
