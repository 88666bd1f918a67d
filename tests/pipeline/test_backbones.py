"""Backbones: shapes, norms, what is trained, and weights from elsewhere, against torchvision's own network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.ops.misc import FrozenBatchNorm2d

from pipeline.errors import SegtrailError
from pipeline.models.backbones import BACKBONES, PyramidBackbone, load_backbone_weights

PARAM = r"params\.yaml: train\.detector\.backbone"
PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


def small(
    channels: int = 3, frozen_norm: bool = False, trainable_layers: int = 5, name: str = "resnet18"
) -> PyramidBackbone:
    return PyramidBackbone(name, channels, 16, frozen_norm, trainable_layers)


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """torchvision's own network; its statistics are made up, so that they matter."""
    torch.manual_seed(0)
    network = resnet18(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return network.eval()


def stages_of(classifier: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """The output of the four stages, by torchvision's forward."""
    found: list[torch.Tensor] = []
    hooks = [
        getattr(classifier, f"layer{i}").register_forward_hook(lambda _, __, output: found.append(output))
        for i in range(1, 5)
    ]
    with torch.no_grad():
        classifier(image)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", BACKBONES)
def test_four_levels_of_the_pyramid(name: str) -> None:
    backbone = small(channels=2, name=name).eval()
    with torch.no_grad():
        levels = backbone(torch.randn(1, 2, 64, 96))
    assert [tuple(level.shape) for level in levels.values()] == [
        (1, 16, 16, 24), (1, 16, 8, 12), (1, 16, 4, 6), (1, 16, 2, 3),
    ]  # fmt: skip


def test_an_unknown_backbone_lists_the_known() -> None:
    with pytest.raises(
        SegtrailError,
        match=r"unknown backbone 'vgg16'[\s\S]*train\.<model>\.backbone[\s\S]*resnet18, resnet50",
    ):
        small(name="vgg16")


def test_the_norm_does_not_depend_on_the_batch() -> None:
    backbone = small()
    kinds = {type(module) for module in backbone.modules()}
    assert nn.GroupNorm in kinds
    assert not {nn.BatchNorm2d, FrozenBatchNorm2d} & kinds
    image, other = torch.randn(1, 3, 64, 64), 100 * torch.randn(1, 3, 64, 64)
    alone, together = backbone(image), backbone(torch.cat([image, other]))
    for name in alone:
        torch.testing.assert_close(alone[name][0], together[name][0], rtol=1e-4, atol=1e-4)


def test_frozen_norm_never_changes() -> None:
    backbone = small(frozen_norm=True).train()
    kinds = {type(module) for module in backbone.modules()}
    assert FrozenBatchNorm2d in kinds
    assert not {nn.BatchNorm2d, nn.GroupNorm} & kinds
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    assert before
    assert all(torch.equal(before[name], buffer) for name, buffer in backbone.named_buffers())
    assert not {name for name, _ in backbone.named_parameters()} & set(before)


@pytest.mark.parametrize(
    ("layers", "trained"),
    [
        (0, set()),
        (1, {"layer4"}),
        (3, {"layer4", "layer3", "layer2"}),
        (4, {"layer4", "layer3", "layer2", "layer1"}),
        (5, {"layer4", "layer3", "layer2", "layer1", "conv1"}),
    ],
)
def test_what_is_trained(layers: int, trained: set[str]) -> None:
    backbone = small(frozen_norm=True, trainable_layers=layers)
    found = {name: {p.requires_grad for p in part.parameters()} for name, part in backbone.body.items()}
    with_weights = {name: grad for name, grad in found.items() if grad}
    assert set(with_weights) == {"conv1", "layer1", "layer2", "layer3", "layer4"}
    assert {name for name, grad in with_weights.items() if grad == {True}} == trained
    assert {name for name, grad in with_weights.items() if grad == {False}} == set(with_weights) - trained
    assert all(p.requires_grad for p in backbone.pyramid.parameters())


def test_without_pretrained_weights_the_norm_is_trained_too() -> None:
    assert all(parameter.requires_grad for parameter in small(trainable_layers=5).parameters())


def test_features_are_those_of_the_classifier(classifier: nn.Module) -> None:
    backbone = small(frozen_norm=True).eval()
    backbone.load_pretrained(classifier.state_dict(), "a file", unit_range=False)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = backbone.body(image)
    for ours, theirs in zip(found.values(), stages_of(classifier, image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_an_image_of_equal_channels_gives_the_same_response(classifier: nn.Module, channels: int) -> None:
    backbone = small(channels=channels, frozen_norm=True).eval()
    backbone.load_pretrained(classifier.state_dict(), "a file", unit_range=False)
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        found = backbone.body(grey.expand(1, channels, 64, 64))
    for ours, theirs in zip(found.values(), stages_of(classifier, grey.expand(1, 3, 64, 64)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_loading_leaves_the_given_tensors_alone(classifier: nn.Module) -> None:
    state = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    small(channels=9, frozen_norm=True).load_pretrained(state, "a file", unit_range=False)
    assert state.keys() == classifier.state_dict().keys()
    assert state["conv1.weight"].shape == (64, 3, 7, 7)


def test_weights_of_another_network_are_refused(classifier: nn.Module) -> None:
    state = classifier.state_dict()
    message = r"weights do not fit the backbone[\s\S]*here[\s\S]*that the key backbone names"
    with pytest.raises(SegtrailError, match=message):
        small(name="resnet50", frozen_norm=True).load_pretrained(state, "here", unit_range=False)
    missing = {name: tensor for name, tensor in state.items() if name != "layer3.0.conv1.weight"}
    with pytest.raises(SegtrailError, match=r"1 tensors differ, such as layer3\.0\.conv1\.weight"):
        small(frozen_norm=True).load_pretrained(missing, "here", unit_range=False)
    with pytest.raises(SegtrailError, match=r"1 tensors differ, such as layer9\.weight"):
        small(frozen_norm=True).load_pretrained(
            {**state, "layer9.weight": torch.zeros(1)}, "here", unit_range=False
        )


def test_a_file_of_weights(classifier: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "resnet18.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    state = load_backbone_weights(str(path), sha256, "resnet18", "train.detector")
    assert all(torch.equal(state[name], tensor) for name, tensor in classifier.state_dict().items())

    wrong = "0" * 64
    with pytest.raises(
        SegtrailError, match=rf"is {sha256}, expected {wrong}[\s\S]*{path}[\s\S]*backbone_sha256"
    ):
        load_backbone_weights(str(path), wrong, "resnet18", "train.detector")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        SegtrailError, match=rf"No such file[\s\S]*{tmp_path}/none\.safetensors \({PARAM}_weights"
    ):
        load_backbone_weights(str(tmp_path / "none.safetensors"), "0" * 64, "resnet18", "train.detector")
    with pytest.raises(SegtrailError, match="cannot be read"):
        load_backbone_weights(str(tmp_path), "0" * 64, "resnet18", "train.detector")  # a folder


def test_a_file_that_is_not_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(3)}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(SegtrailError, match=r"are not safetensors[\s\S]*weights\.pth[\s\S]*save_file"):
        load_backbone_weights(str(path), sha256, "resnet18", "train.detector")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache is an empty folder, and its server refuses at once; returns where files would lie."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    url = "http://127.0.0.1:9/resnet18-f37072fd.pth"
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", url)
    return tmp_path / "hub" / "checkpoints"


def test_imagenet_without_a_network_is_one_clear_error(offline: Path) -> None:
    with pytest.raises(SegtrailError) as caught:
        load_backbone_weights("imagenet", "", "resnet18", "train.detector")
    assert "ImageNet weights of resnet18 cannot be had" in caught.value.what
    assert "refused" in caught.value.what
    assert caught.value.where == (
        "http://127.0.0.1:9/resnet18-f37072fd.pth (params.yaml: train.detector.backbone_weights)"
    )
    assert f"put resnet18-f37072fd.pth into {offline}" in caught.value.fix
    assert "backbone_weights: none" in caught.value.fix


def test_a_damaged_file_in_the_cache_is_named_and_never_read(offline: Path) -> None:
    offline.mkdir(parents=True)
    (offline / "resnet18-f37072fd.pth").write_bytes(b"not what it was")
    with pytest.raises(SegtrailError, match=rf"{offline}/resnet18-f37072fd\.pth is damaged, remove it"):
        load_backbone_weights("imagenet", "", "resnet18", "train.detector")


def test_imagenet_weights_that_lie_in_the_cache(
    offline: Path, classifier: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline.mkdir(parents=True)
    torch.save(classifier.state_dict(), offline / "weights")
    digest = hashlib.sha256((offline / "weights").read_bytes()).hexdigest()
    name = f"resnet18-{digest[:8]}.pth"
    (offline / "weights").rename(offline / name)
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", f"http://127.0.0.1:9/{name}")
    state = load_backbone_weights("imagenet", "", "resnet18", "train.detector")
    backbone = small(frozen_norm=True)
    backbone.load_pretrained(state, "the cache", unit_range=False)
    assert torch.equal(backbone.body["conv1"].weight, classifier.conv1.weight)


def test_images_of_unit_range_are_normalised_by_the_first_convolution(classifier: nn.Module) -> None:
    """Away from the border, where padding is black in one and ImageNet's mean in the other."""
    torch.manual_seed(4)
    picture = torch.rand(1, 3, 64, 96)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (picture - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    expected = classifier.bn1(classifier.conv1(normalised))
    backbone = small(frozen_norm=True)
    backbone.load_pretrained(classifier.state_dict(), "a file", unit_range=True)
    found = backbone.body["bn1"](backbone.body["conv1"](picture))
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    assert torch.allclose(found[inner], expected[inner], atol=1e-4)
