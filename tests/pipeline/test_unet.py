"""Shapes, gradients and names of the networks."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from pipeline.errors import SegtrailError
from pipeline.models.networks import NETWORKS, build_network
from pipeline.topology import pooling
from pipeline.train_params import InstanceTrainParams, SemanticTrainParams


@pytest.mark.parametrize(
    ("patch", "spacing", "dimensions"),
    [
        ((16, 24, 16), (1.0, 1.0, 1.0), 3),
        ((32, 32, 8), (1.0, 1.0, 4.0), 3),
        ((32, 48, 1), (1.0, 1.0, 1.0), 2),
    ],
)
def test_logits_lie_on_the_grid_of_the_image(
    patch: tuple[int, int, int], spacing: tuple[float, float, float], dimensions: int
) -> None:
    strides, kernels = pooling(patch, spacing)
    features = [4 * 2**i for i in range(len(strides))]
    network = build_network(
        "unet",
        channels=2,
        classes=3,
        features=features,
        strides=strides,
        kernels=kernels,
        dimensions=dimensions,
    )
    image = torch.randn(2, 2, *patch)
    assert network(image).shape == (2, 3, *patch)
    pyramid = network.pyramid(image, 2)
    assert pyramid[0].shape == (2, 3, *patch)
    halved = [size // stride for size, stride in zip(patch, strides[1], strict=True)]
    assert pyramid[1].shape == (2, 3, *halved)
    torch.testing.assert_close(pyramid[0], network(image))


def test_every_weight_learns_when_all_stages_are_supervised() -> None:
    strides, kernels = pooling((16, 16, 16), (1.0, 1.0, 1.0))
    network = build_network(
        "unet", channels=1, classes=2, features=[4, 8, 16], strides=strides, kernels=kernels, dimensions=3
    )
    sum(logits.square().mean() for logits in network.pyramid(torch.randn(1, 1, 16, 16, 16), 2)).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_no_weight_has_two_names() -> None:
    network = build_network(
        "unet", channels=1, classes=2, features=[4, 8], strides=[(1, 1, 1), (2, 2, 2)],
        kernels=[(3, 3, 3)] * 2, dimensions=3,
    )  # fmt: skip
    pointers = [tensor.data_ptr() for tensor in network.state_dict().values()]
    assert len(pointers) == len(set(pointers))


def test_an_unknown_network_lists_the_known() -> None:
    with pytest.raises(SegtrailError, match="use one of: cascade, maskrcnn, "):
        build_network("vnet")


def test_params_know_the_same_names() -> None:
    kinds = (SemanticTrainParams, InstanceTrainParams)
    named = {name for kind in kinds for name in get_args(kind.model_fields["network"].annotation)}
    assert named == set(NETWORKS) - {"cascade"}  # that is a configuration of the others
