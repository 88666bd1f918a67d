"""Residual networks with a feature pyramid, and where their pre-trained weights come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.misc import FrozenBatchNorm2d

from pipeline.errors import SegtrailError, unknown_name

BACKBONES = ("resnet18", "resnet50", "resnext101_32x8d")
STAGES = ("layer1", "layer2", "layer3", "layer4")  # strides 4, 8, 16, 32
NORM_GROUPS = 16
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green, blue, as torchvision's classifiers were trained
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class PyramidBackbone(nn.Module):
    """A residual network whose four stages feed a feature pyramid (Lin et al. 2017).

    Args:
        name: One of BACKBONES.
        channels: Of the image; the first convolution is made for it.
        pyramid_channels: Feature maps of each level.
        frozen_norm: Batch normalisation with the fixed statistics of pre-trained weights. Without such weights
            it lets the loss diverge; then group normalisation is used, which does not depend on the size of
            the batch (Wu and He 2018; He et al. 2019, training from scratch).
        trainable_layers: How many of the five parts, from the last one, are trained; 5 is all.
    """

    def __init__(
        self, name: str, channels: int, pyramid_channels: int, frozen_norm: bool, trainable_layers: int
    ) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise unknown_name("backbone", name, BACKBONES, "params.yaml: train.<model>.backbone")
        norm: Callable[..., nn.Module] = (
            FrozenBatchNorm2d if frozen_norm else partial(nn.GroupNorm, NORM_GROUPS)
        )
        network = get_model(name, weights=None, norm_layer=norm)
        if channels != network.conv1.in_channels:
            network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
        for part, parameter in network.named_parameters():
            if not any(part.startswith(stage) for stage in trained) and trainable_layers < 5:
                parameter.requires_grad_(False)
        widths = [network.inplanes // 2**halvings for halvings in (3, 2, 1, 0)]
        self.body = IntermediateLayerGetter(network, {stage: stage for stage in STAGES})
        self.pyramid = FeaturePyramidNetwork(widths, pyramid_channels)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Levels by name, finest first: (N, pyramid_channels, X / 4, Y / 4) to (..., X / 32, Y / 32)."""
        levels: dict[str, torch.Tensor] = self.pyramid(self.body(image))
        return levels

    def load_pretrained(self, state: dict[str, torch.Tensor], where: str, unit_range: bool) -> None:
        """Takes the weights of a classifier of the same name.

        Args:
            state: Its tensors by name.
            where: For errors.
            unit_range: Images are 0 to 1. The classifiers saw (image - mean) / deviation of ImageNet's colours;
                that step then goes into the first convolution and its normalisation, so that frozen statistics
                fit. Otherwise images have about zero mean and unit deviation already.

        The first convolution is averaged over its colours when the image has another number of channels, so
        that the response to an image with equal channels stays.

        Raises:
            SegtrailError: The tensors are those of another network.
        """
        own = self.body.state_dict()
        state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
        state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
        if unit_range and {"conv1.weight", "bn1.running_mean"} <= state.keys():
            weight = state["conv1.weight"] / torch.tensor(IMAGENET_DEVIATION).view(1, 3, 1, 1)
            shift = (weight * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
            state |= {"conv1.weight": weight, "bn1.running_mean": state["bn1.running_mean"] + shift}
        first = state.get("conv1.weight")
        channels = own["conv1.weight"].shape[1]
        if first is not None and first.shape[1] != channels:
            state["conv1.weight"] = first.sum(dim=1, keepdim=True).repeat(1, channels, 1, 1) / channels
        wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
        wrong += [name for name in state if name not in own]
        if wrong:
            raise SegtrailError(
                f"these weights do not fit the backbone: {len(wrong)} tensors differ, such as {wrong[0]}",
                where,
                "give weights of the network that the key backbone names",
            )
        self.body.load_state_dict(state)


def load_backbone_weights(source: str, sha256: str, backbone: str, section: str) -> dict[str, torch.Tensor]:
    """Reads pre-trained weights.

    Args:
        source: "imagenet" (torchvision's own download, checked by torchvision) or a file.
        sha256: Of the file.
        backbone: One of BACKBONES.
        section: Of params.yaml that says so, for errors.

    Raises:
        SegtrailError: There is no network, no such file, its checksum differs, or it is not safetensors.
    """
    if source == "imagenet":
        return _download(backbone, section)
    where = f"{source} (params.yaml: {section}.backbone_weights)"
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise SegtrailError(
            f"the backbone's weights cannot be read: {error.strerror}", where, "name a file, imagenet or none"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise SegtrailError(
            f"the sha256 of the backbone's weights is {found}, expected {sha256}",
            where,
            f"get the file again, or correct {section}.backbone_sha256",
        )
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise SegtrailError(
            f"the backbone's weights are not safetensors: {error}",
            where,
            "convert them: safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)",
        ) from error


def _download(backbone: str, section: str) -> dict[str, torch.Tensor]:
    """ImageNet weights of torchvision, from its cache or its server; their names hold the start of the sha256."""
    weights = get_model_weights(backbone).DEFAULT
    name = weights.url.rsplit("/", 1)[-1]
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        # torch checks what it downloads, not what lies in its cache.
        if file.exists():
            expected = name.rsplit("-", 1)[-1].removesuffix(".pth")
            if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(expected):
                raise OSError(f"{file} is damaged, remove it")
        state: dict[str, torch.Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise SegtrailError(
            f"ImageNet weights of {backbone} cannot be had: {error}",
            f"{weights.url} (params.yaml: {section}.backbone_weights)",
            f"put {name} into {file.parent}, name a .safetensors file, or set backbone_weights: none",
        ) from error
    return state
