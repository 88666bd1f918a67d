"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pipeline.errors import unknown_name
from pipeline.models.maskrcnn import MaskRCNN
from pipeline.models.unet import build_unet

NETWORKS: dict[str, Callable[..., nn.Module]] = {"unet": build_unet, "maskrcnn": MaskRCNN}


def build_network(name: str, **arguments: Any) -> nn.Module:
    """Builds a network by its name.

    Raises:
        SegtrailError: There is no such network.
    """
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS, "params.yaml: models")
    return NETWORKS[name](**arguments)
