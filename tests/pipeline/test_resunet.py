"""The residual encoder: size of the reference network, gradients, two and three dimensions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.models.networks import build_network
from pipeline.models.resunet import ResidualBlock

FLAT = {
    "channels": 3, "classes": 2, "dimensions": 2, "features": (32, 64, 128, 256, 512, 512, 512),
    "strides": [(1, 1, 1), *[(2, 2, 1)] * 6], "kernels": [(3, 3, 1)] * 7, "blocks": (1, 3, 4, 6, 6, 6, 6),
}  # fmt: skip
SMALL = {
    "channels": 1, "classes": 3, "dimensions": 3, "features": (8, 16, 32, 64),
    "strides": [(1, 1, 1), *[(2, 2, 2)] * 3], "kernels": [(3, 3, 3)] * 4, "blocks": (1, 3, 4, 6),
}  # fmt: skip
THICK = {
    "channels": 2, "classes": 4, "dimensions": 3, "features": (32, 64, 128, 256, 320, 320),
    "strides": [(1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1)],
    "kernels": [(3, 3, 1)] * 2 + [(3, 3, 3)] * 4, "blocks": (1, 3, 4, 6, 6, 6),
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "reference"), [(SMALL, 1_620_425), (THICK, 101_259_988), (FLAT, 105_891_372)]
)
def test_as_many_parameters_as_the_reference_network(arguments: dict[str, Any], reference: int) -> None:
    """`ResidualEncoderUNet` of dynamic_network_architectures 0.4.4 with `conv_bias=False`, one convolution a decoder
    stage. That argument takes the bias of the transposed convolutions too, which this network keeps: one number for
    each feature map of every stage but the deepest."""
    with torch.device("meta"):
        network = build_network("resunet", **arguments)
    own = sum(parameter.numel() for parameter in network.parameters())
    assert own == reference + sum(arguments["features"][:-1])


def test_pyramid_and_gradients() -> None:
    torch.manual_seed(0)
    network = build_network("resunet", **SMALL)
    pyramid = network.pyramid(torch.randn(2, 1, 16, 24, 16), 2)
    assert [tuple(logits.shape) for logits in pyramid] == [(2, 3, 16, 24, 16), (2, 3, 8, 12, 8)]
    torch.stack([logits.square().mean() for logits in pyramid]).sum().backward()
    silent = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # A block starts as its skip connection: what stands before its last normalisation learns from the next step on.
    blocks = {name for name, module in network.named_modules() if isinstance(module, ResidualBlock)}
    waiting = {name for name in silent if any(name.startswith((f"{b}.first", f"{b}.second")) for b in blocks)}
    assert silent - waiting == {"heads.0.weight", "heads.0.bias"}  # the coarsest head has no loss


def test_a_block_starts_as_its_skip_connection() -> None:
    torch.manual_seed(0)
    network = build_network("resunet", **SMALL)
    block = network.encoder[1][1]
    maps = torch.rand(1, 16, 4, 4, 4)
    torch.testing.assert_close(block(maps), maps)


def test_a_change_of_grid_and_width_is_averaged_and_projected() -> None:
    block = ResidualBlock(2, 4, (3, 3), (2, 2))
    assert [type(part).__name__ for part in block.skip] == ["AvgPool2d", "Conv2d", "InstanceNorm"]
    assert [type(part).__name__ for part in ResidualBlock(4, 4, (3, 3, 3), (2, 2, 1)).skip] == ["AvgPool3d"]
    assert block(torch.rand(1, 2, 6, 8)).shape == (1, 4, 3, 4)


def test_two_dimensions_take_volumes_of_one_slice() -> None:
    arguments = {
        **FLAT,
        "features": (4, 8, 8),
        "strides": FLAT["strides"][:3],
        "kernels": FLAT["kernels"][:3],
    }  # type: ignore[index]
    network = build_network("resunet", **{**arguments, "blocks": (1, 3, 4)}).eval()
    image = torch.randn(2, 3, 16, 24, 1)
    logits = network(image)
    assert logits.shape == (2, 2, 16, 24, 1)
    torch.testing.assert_close(network.pyramid(image, 2)[0], logits)
