"""Several networks as one: the mean of their logits, wherever a network may stand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_bundle import write_cascade_bundle
from torch import nn
from training_jobs import cube_plan

from pipeline.bundle import load_bundle, save_bundle
from pipeline.inference import predict_logits
from pipeline.models.ensemble import Ensemble, join_weights, member_weights
from pipeline.models.networks import build_network

CPU = torch.device("cpu")


class Times(nn.Module):
    """Logits (background, x) that are the image times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image), self.factor * image], dim=1)


def test_the_mean_of_two_known_networks() -> None:
    image = torch.randn(2, 1, 4, 4, 4)
    ensemble = Ensemble([Times(1.0), Times(4.0)])
    expected = torch.cat([torch.zeros_like(image), 2.5 * image], dim=1)
    torch.testing.assert_close(ensemble(image), expected)
    torch.testing.assert_close(ensemble(image), expected)  # nothing is left over of the first time


def test_windows_and_mirrors_of_an_ensemble() -> None:
    """Windows are weighted in place: the output must be a new tensor each time."""
    image = torch.randn(1, 24, 20, 18)
    logits = predict_logits(Ensemble([Times(1.0), Times(4.0)]), image, cube_plan(), 0.5, "xyz")
    torch.testing.assert_close(logits[1], 2.5 * image[0], rtol=1e-4, atol=1e-5)


def test_weights_of_members_come_apart_again() -> None:
    first, second = ({"a.b": torch.tensor([value])} for value in (1.0, 2.0))
    joint = join_weights([first, second])
    assert list(joint) == ["0.a.b", "1.a.b"]
    assert member_weights(joint, 1) == second


@pytest.mark.parametrize("members", [2, 3])
def test_a_bundle_of_members_is_their_mean(tmp_path: Path, members: int) -> None:
    plan = cube_plan()
    arguments = {
        "channels": 1, "classes": 2, "features": plan.features, "strides": plan.strides,
        "kernels": plan.kernels, "dimensions": 3,
    }  # fmt: skip
    networks = [build_network("unet", **arguments).eval() for _ in range(members)]
    save_bundle(
        tmp_path, join_weights(network.state_dict() for network in networks), model="unet", network="unet",
        network_arguments=arguments, plan=plan, params={}, provenance={}, members=members,
        validation_metric="validation_dice", validation_score=None,
    )  # fmt: skip
    bundle = load_bundle(tmp_path)
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        expected = torch.stack([network(image) for network in networks]).mean(dim=0)
        torch.testing.assert_close(bundle.build(CPU)(image), expected)
    one = sum(parameter.nbytes for parameter in networks[0].state_dict().values())
    assert bundle.further_bytes == 2 * (members - 1) * one


@pytest.mark.parametrize("members", [1, 2])
def test_all_networks_of_a_cascade_but_one_are_further_ones(tmp_path: Path, members: int) -> None:
    """A cascade is two networks: of two members there are four, and three of them are held beside the one."""
    bundle = load_bundle(write_cascade_bundle(tmp_path / "one"))
    low, full = (
        sum(tensor.nbytes for name, tensor in bundle.weights.items() if name.startswith(part))
        for part in ("low.", "full.")
    )
    assert low > 0
    assert full > low  # it sees the labels too
    if members == 2:
        fields = bundle.metadata.model_dump(exclude={"weights_sha256", "members"})
        copied = {name: tensor.clone() for name, tensor in bundle.weights.items()}
        save_bundle(tmp_path, join_weights([bundle.weights, copied]), members=2, **fields)
        bundle = load_bundle(tmp_path)
    assert bundle.further_bytes == 2 * (members * low + (members - 1) * full)
