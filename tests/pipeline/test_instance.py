"""The module that trains Mask R-CNN: validation by hand, and objects that move with their image."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_plan import make_plan
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18
from training_jobs import read_params

from pipeline.errors import SegtrailError
from pipeline.models.instance import InstanceModule, to_detections
from pipeline.slices import WindowDetections
from pipeline.train_params import InstanceTrainParams

STILL = {
    "flip": 0.0, "flip_axes": ["x", "y"], "rotation": 0.0, "rotation_degrees": 0.0, "scale": 0.0,
    "scale_range": [1.0, 1.0], "noise": 0.0, "noise_std": 0.0, "blur": 0.0, "brightness": 0.0,
    "contrast": 0.0, "low_resolution": 0.0, "inverted_gamma": 0.0, "gamma": 0.0,
}  # fmt: skip


def make_params(**changes: Any) -> InstanceTrainParams:
    params = read_params("maskrcnn", **changes)
    assert isinstance(params, InstanceTrainParams)
    return params


class KnownAnswer(nn.Module):
    """Finds the same full rectangles in every window: (box, score, class), best first."""

    def __init__(self, *rows: tuple[tuple[float, ...], float, int]) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, images: torch.Tensor, min_score: float) -> list[WindowDetections]:
        answer = WindowDetections(
            boxes=torch.tensor([row[0] for row in self.rows], dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor([row[1] for row in self.rows]),
            labels=torch.tensor([row[2] for row in self.rows], dtype=torch.int64),
            masks=torch.ones(len(self.rows), 28, 28),
        )
        return [answer] * len(images)


def validate(
    references: list[dict[tuple[int, int, int, int], int]],
    answer: KnownAnswer,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, float]:
    """What is logged after a validation of cases whose objects (box: class) are given."""
    module = InstanceModule("maskrcnn", make_plan((64, 96), classes=("a", "b")), make_params())
    monkeypatch.setattr(module, "network", answer)
    logged: dict[str, float] = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: float(value)}))
    for number, objects in enumerate(references):
        ids = torch.zeros((64, 96, 1), dtype=torch.int32)
        for index, (x0, y0, x1, y1) in enumerate(objects, 1):
            ids[x0:x1, y0:y1] = index
        classes = torch.tensor([0, *objects.values()], dtype=torch.uint8)
        batch = {
            "image": torch.zeros(1, 64, 96, 1), "instances": ids, "instance_labels": classes,
            "case_id": f"case_{number}",
        }  # fmt: skip
        module.validation_step(batch, number)
    module.on_validation_epoch_end()
    assert module.validated == []
    return logged


A, B, C = (4, 4, 14, 24), (30, 40, 50, 44), (30, 60, 40, 90)


def test_what_is_found_exactly_has_a_precision_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = validate([{A: 1, B: 2}], KnownAnswer((A, 0.9, 1), (B, 0.6, 2)), monkeypatch)
    assert logged == {
        "validation_mask_map_10_50": pytest.approx(1.0),
        "validation_mask_map_50": pytest.approx(1.0),
    }


def test_validation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Class a: the surer of two finds is one of two objects; precision is 1 at recalls 0 to 0.5, 51 of 101.
    # Class b: one object, nothing found. The mean of both.
    logged = validate([{A: 1, C: 1, B: 2}], KnownAnswer((A, 0.9, 1), ((50, 4, 60, 14), 0.8, 1)), monkeypatch)
    assert logged["validation_mask_map_50"] == pytest.approx(51 / 101 / 2)
    assert logged["validation_mask_map_10_50"] == pytest.approx(51 / 101 / 2)


def test_a_class_without_objects_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = validate([{A: 1}, {A: 1}], KnownAnswer((A, 0.9, 1), (B, 0.9, 2)), monkeypatch)
    assert logged["validation_mask_map_50"] == pytest.approx(1.0)


def test_precision_is_pooled_over_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two wrong finds are surer than the right one, that of the other case too; its own case alone would give 1/2.
    logged = validate([{}, {A: 1}], KnownAnswer((C, 0.9, 1), (A, 0.8, 1)), monkeypatch)
    assert 0.25 - 1e-6 < logged["validation_mask_map_50"] < 1 / 3 + 1e-6


def test_half_an_object_counts_at_low_overlaps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # 64 of 200 voxels: an overlap of 0.32, enough at 0.10, 0.15, ... 0.30 of the nine thresholds.
    logged = validate([{A: 1}], KnownAnswer(((4, 4, 12, 12), 0.9, 1)), monkeypatch)
    assert logged["validation_mask_map_50"] == 0
    assert logged["validation_mask_map_10_50"] == pytest.approx(5 / 9)


def test_without_any_object_there_is_nothing_to_judge_by(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = validate([{}], KnownAnswer((A, 0.9, 1)), monkeypatch)
    assert all(np.isnan(value) for value in logged.values())


def test_records_of_each_class() -> None:
    ids = np.zeros((6, 4, 1), np.int32)
    ids[0:2], ids[2:4], ids[4:5] = 1, 2, 3
    reference = np.zeros((6, 4, 1), np.int32)
    reference[0:2], reference[3:5] = 5, 7
    of_reference = np.array([0, 0, 0, 0, 0, 2, 0, 1])
    scores = np.array([0.9, 0.8, 0.7])
    first, second = to_detections(ids, np.array([2, 1, 1]), scores, reference, of_reference, 3, "case")
    # Class 1: finds 2 and 3 against object 7 (rows 3 and 4): one row of three, one row of two.
    assert first.scores.tolist() == [0.8, 0.7]
    assert first.overlaps.toarray() == pytest.approx(np.array([[1 / 3], [1 / 2]]))
    assert first.reference_sizes.tolist() == [8]
    assert second.scores.tolist() == [0.9]
    assert second.overlaps.toarray() == pytest.approx(np.array([[1.0]]))
    assert second.prediction_sizes.tolist() == [8]


def move(batch: dict[str, Any], slices: int = 1, **augmentation: Any) -> dict[str, Any]:
    plan = make_plan((64, 96), slices=slices)
    module = InstanceModule("maskrcnn", plan, make_params(augmentation={**STILL, **augmentation}))
    return module.train().on_after_batch_transfer(batch, 0)


def window_batch(slices: int = 1) -> dict[str, Any]:
    ids = torch.zeros((4, 64, 96), dtype=torch.int32)
    ids[:, 10:30, 20:60], ids[:, 40:44, 5:9] = 300, 65535
    image = (ids > 0).float()[:, None].repeat(1, slices, 1, 1)
    return {"image": image, "instances": ids, "labels": [torch.zeros(65536)] * 4, "step": torch.tensor(3)}


def test_objects_move_with_their_image() -> None:
    batch = window_batch(slices=3)
    moved = move(batch, 3, flip=0.5, rotation=1.0, rotation_degrees=40.0, scale=1.0, scale_range=[0.8, 1.3])
    assert moved["image"].shape == (4, 3, 64, 96)
    assert moved["instances"].dtype == torch.int32
    assert set(moved["instances"].unique().tolist()) == {0, 300, 65535}
    assert not torch.equal(moved["instances"], batch["instances"])
    # Bilinear image and nearest ids: they may differ along the edges of the objects.
    different = (moved["image"] > 0.5) != (moved["instances"] > 0)[:, None]
    assert float(different.float().mean()) < 0.01
    assert moved["labels"] is batch["labels"]


def test_a_step_is_augmented_the_same_each_time() -> None:
    first, second = (
        move(window_batch(), rotation=1.0, rotation_degrees=40.0, noise=1.0, noise_std=0.3) for _ in "ab"
    )
    assert torch.equal(first["image"], second["image"])
    other = move({**window_batch(), "step": torch.tensor(4)}, rotation=1.0, rotation_degrees=40.0)
    assert not torch.equal(first["instances"], other["instances"])


def test_validation_is_not_augmented() -> None:
    module = InstanceModule("maskrcnn", make_plan((64, 96)), make_params())
    batch = {"image": torch.zeros(1, 64, 96, 1), "case_id": "x"}
    assert module.eval().on_after_batch_transfer(batch, 0) is batch


def test_weights_that_do_not_fit_stop_the_training_before_it_begins(tmp_path: Path) -> None:
    params = make_params(backbone_weights=str(tmp_path / "none.safetensors"), backbone_sha256="0" * 64)
    with pytest.raises(
        SegtrailError, match=r"none\.safetensors \(params\.yaml: train\.maskrcnn\.backbone_weights"
    ):
        InstanceModule("maskrcnn", make_plan(), params)


def test_pretrained_weights_from_a_file_end_to_end(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {name: tensor.contiguous() for name, tensor in resnet18(weights=None).state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    sha256 = hashlib.sha256((tmp_path / "weights.safetensors").read_bytes()).hexdigest()
    params = make_params(
        backbone_weights=str(tmp_path / "weights.safetensors"), backbone_sha256=sha256, trainable_layers=2
    )
    module = InstanceModule("maskrcnn", make_plan(slices=3), params)
    assert module.network_arguments["frozen_norm"] is True
    body = module.network.backbone.body
    # The plan's window makes images 0 to 1: ImageNet's deviations go into the first convolution.
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    assert torch.allclose(body["conv1"].weight, state["conv1.weight"] / deviation)
    assert torch.equal(body["layer4"][1].conv2.weight, state["layer4.1.conv2.weight"])
    frozen = {name.split(".")[3] for name, p in module.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1", "layer2"}
    optimized = module.configure_optimizers().param_groups[0]["params"]
    assert all(parameter.requires_grad for parameter in optimized)
    assert not any(parameter is body["conv1"].weight for parameter in optimized)
