"""Mask R-CNN: axis order by hand, hard windows, and a proof that boxes and masks come out where objects are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_plan import make_plan
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from pipeline.bundle import load_bundle, save_bundle
from pipeline.config import PredictParams
from pipeline.instance_inference import find_objects
from pipeline.models.instance import to_objects
from pipeline.models.maskrcnn import LOSSES, MaskRCNN, WindowObjects
from pipeline.prediction import Predictor
from pipeline.volume import Volume

CPU = torch.device("cpu")
SETTINGS = PredictParams(
    overlap=0.5, mirror="none", memory_gb=6.0, postprocessing="learned", min_component_mm3=0.0,
    min_score=0.5, label_score=0.5, duplicate_iou=0.5, link_iou=0.3,
)  # fmt: skip


def arguments(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "channels": 1, "classes": 2, "backbone": "resnet18", "pyramid_channels": 32, "head_channels": 64,
        "anchor_sizes": ((8.0,), (16.0,), (32.0,), (64.0,)), "anchor_ratios": (0.5, 1.0, 2.0),
        "proposals": 40, "detections": 10, "window": (64, 96), "frozen_norm": False, "trainable_layers": 5,
    }  # fmt: skip
    return values | changes


@pytest.fixture
def network() -> MaskRCNN:
    torch.manual_seed(0)
    return MaskRCNN(**arguments())


def rectangles(*places: tuple[int, int, int, int], labels: tuple[int, ...] = ()) -> WindowObjects:
    """Objects of a window of 64 x 96 from half-open boxes X0, Y0, X1, Y1."""
    masks = torch.zeros((len(places), 64, 96), dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, places, strict=True):
        mask[x0:x1, y0:y1] = True
    return WindowObjects(masks, torch.tensor(labels or (1,) * len(places), dtype=torch.int64))


def draw(objects: WindowObjects) -> torch.Tensor:
    """(1, 1, X, Y): bright where there is an object, on noise."""
    generator = torch.Generator().manual_seed(1)
    noise = 0.1 * torch.randn(objects.masks.shape[1:], generator=generator)
    return (noise + objects.masks.any(dim=0).float())[None, None]


def test_a_box_by_hand() -> None:
    # Rows 3 to 7 along X, columns 20 to 30 along Y; torchvision wants Y0, X0, Y1, X1.
    mask = torch.zeros((1, 40, 60), dtype=torch.bool)
    mask[0, 3:8, 25] = True
    mask[0, 5, 20:31] = True
    assert WindowObjects(mask, torch.ones(1, dtype=torch.int64)).boxes().tolist() == [[20, 3, 31, 8]]


def test_boxes_at_the_edges() -> None:
    objects = rectangles((0, 0, 1, 1), (63, 95, 64, 96), (0, 0, 64, 96), (17, 40, 18, 41))
    assert objects.boxes().tolist() == [[0, 0, 1, 1], [95, 63, 96, 64], [0, 0, 96, 64], [40, 17, 41, 18]]
    assert objects.boxes().dtype == torch.float32
    assert rectangles().boxes().shape == (0, 4)


def test_objects_of_a_window_from_its_ids() -> None:
    ids = torch.tensor([[0, 7, 7], [0, 0, 3]], dtype=torch.int32)
    objects = to_objects(ids, torch.tensor([0, 9, 9, 2, 9, 9, 9, 1]))
    assert objects.labels.tolist() == [2, 1]  # of ids 3 and 7
    assert objects.masks.tolist() == [
        [[False, False, False], [False, False, True]],
        [[False, True, True], [False, False, False]],
    ]
    assert to_objects(torch.zeros((2, 3), dtype=torch.int32), torch.tensor([0])).masks.shape == (0, 2, 3)


def test_anchors_are_as_long_along_y_as_the_plan_says() -> None:
    network = MaskRCNN(**arguments(anchor_ratios=(4.0,)))
    network.eval()(torch.zeros(1, 1, 64, 96))
    for size, (anchor,) in zip((8, 16, 32, 64), network.proposer.anchor_generator.cell_anchors, strict=True):
        y0, x0, y1, x1 = anchor.tolist()  # of an area of size * size, 4 times as long along Y
        assert (x1 - x0, y1 - y0) == (size / 2, size * 2)


HARD = {
    "nothing": rectangles(),
    "one pixel": rectangles((30, 50, 31, 51)),
    "the whole window": rectangles((0, 0, 64, 96)),
    "overlapping": rectangles((10, 10, 30, 40), (12, 12, 28, 38), (10, 10, 30, 40)),
    "one row": rectangles((20, 0, 21, 96)),
    "hundreds": rectangles(*((4 * i, 4 * j, 4 * i + 3, 4 * j + 3) for i in range(16) for j in range(24))),
}


@pytest.mark.parametrize(
    "names", [(name,) for name in HARD] + [("nothing", "hundreds"), ("nothing", "nothing")]
)
def test_hard_windows_have_finite_losses_and_gradients(network: MaskRCNN, names: tuple[str, ...]) -> None:
    objects = [HARD[name] for name in names]
    losses = network.train().losses(torch.cat([draw(one) for one in objects]), objects)
    assert set(losses) == set(LOSSES.values())
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())
    sum(losses.values()).backward()  # type: ignore[union-attr]
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)


def test_losses_under_bfloat16(network: MaskRCNN) -> None:
    objects = [rectangles((10, 20, 30, 60)), rectangles()]
    with torch.autocast("cpu", torch.bfloat16):
        losses = network.train().losses(torch.cat([draw(one) for one in objects]), objects)
        found = network.eval()(draw(objects[0]), 0.0)
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())
    assert found[0].boxes.dtype == found[0].scores.dtype == found[0].masks.dtype == torch.float32


def test_boxes_are_exact_under_bfloat16(network: MaskRCNN) -> None:
    """bfloat16 knows no odd number above 256: a nodule of 8 pixels there would be taught a pixel off."""
    seen: list[torch.Tensor] = []
    select = network.heads.select_training_samples

    def spy(proposals: Any, targets: Any) -> Any:
        result = select(proposals, targets)
        seen.extend(result[0])
        return result

    network.heads.select_training_samples = spy
    masks = torch.zeros(1, 320, 320, dtype=torch.bool)
    masks[0, 301:309, 271:279] = True
    objects = [WindowObjects(masks, torch.ones(1, dtype=torch.int64))]
    with torch.autocast("cpu", torch.bfloat16):
        network.train().losses(torch.zeros(1, 1, 320, 320), objects)
    assert seen[0].dtype == torch.float32
    assert [271.0, 301.0, 279.0, 309.0] in seen[0].tolist()  # references are among what is sampled


def test_every_part_learns(network: MaskRCNN) -> None:
    objects = [rectangles((10, 20, 30, 60))]
    sum(network.train().losses(draw(objects[0]), objects).values()).backward()  # type: ignore[union-attr]
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_same_seed_gives_the_same_losses(network: MaskRCNN) -> None:
    objects, values = [rectangles((10, 20, 30, 60), (40, 5, 44, 9))], []
    for _ in range(2):
        torch.manual_seed(7)
        values.append(
            {name: float(loss.detach()) for name, loss in network.losses(draw(objects[0]), objects).items()}
        )
    assert values[0] == values[1]


def test_what_is_found_lies_in_the_window(network: MaskRCNN) -> None:
    (found,) = network.eval()(torch.randn(1, 1, 64, 96), 0.0)
    count = len(found.scores)
    assert 0 < count <= 10
    assert found.boxes.shape == (count, 4)
    assert found.masks.shape == (count, 28, 28)
    assert found.labels.unique().tolist() == [1]
    assert bool((found.boxes[:, :2] >= 0).all())
    assert bool((found.boxes[:, 2] <= 64).all())
    assert bool((found.boxes[:, 3] <= 96).all())
    assert bool((found.boxes[:, 3] > 64).any())  # beyond X: Y is the longer side
    assert bool((found.scores.diff() <= 0).all())
    assert bool(((found.masks >= 0) & (found.masks <= 1)).all())


def test_the_least_score_is_kept(network: MaskRCNN) -> None:
    image = torch.randn(1, 1, 64, 96)
    scores = network.eval()(image, 0.0)[0].scores
    limit = float(scores.median().detach())
    assert network(image, limit)[0].scores.tolist() == [s for s in scores.tolist() if s > limit]
    (nothing,) = network(image, 1.0)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.masks.shape == (0, 28, 28)


def test_a_larger_window_may_show_more_objects(network: MaskRCNN) -> None:
    network.eval()
    assert len(network(torch.randn(1, 1, 64, 96), 0.0)[0].scores) == 10
    assert len(network(torch.randn(1, 1, 128, 192), 0.0)[0].scores) == 40
    assert len(network(torch.randn(1, 1, 64, 96), 0.0)[0].scores) == 10


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 13, 28, 40])
def test_a_perfect_mask_head_gives_the_mask_that_it_was_taught(
    network: MaskRCNN, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torchvision teaches the mask head, given back by it, must be painted where the object is."""
    x, y = np.mgrid[:64, :96]
    radii = side / 2, side * 0.8
    shapes = [
        (x >= 11) & (x < 11 + side) & (y >= 20) & (y < 20 + side + 3),
        ((x - 11.5 - side / 2) / radii[0]) ** 2 + ((y - 50.5) / radii[1]) ** 2 <= 1,
    ]
    for shape in shapes:
        reference = WindowObjects(torch.from_numpy(shape[None]), torch.ones(1, dtype=torch.int64))
        boxes = reference.boxes()
        taught = project_masks_on_boxes(reference.masks.float(), boxes, torch.zeros(1, dtype=torch.int64), 28)
        answer = {
            "boxes": boxes,
            "scores": torch.ones(1),
            "labels": reference.labels,
            "masks": taught[:, None],
        }
        monkeypatch.setattr(network.heads, "forward", lambda *_, answer=answer: ([answer], {}))
        ids, _ = find_objects(network.eval(), torch.zeros(1, 64, 96, 1), make_plan((64, 96)), SETTINGS, CPU)
        found = ids[..., 0] == 1
        assert (found & shape).sum() / (found | shape).sum() > 0.97


@pytest.mark.slow
def test_a_few_steps_teach_where_objects_are() -> None:
    """Boxes, masks and axis order from end to end: neither axes nor windows are alike."""
    places = [
        ((4, 6, 20, 14), (30, 40, 40, 70), (50, 10, 60, 34)),
        ((6, 60, 30, 72), (40, 4, 50, 30), (34, 70, 62, 84)),
    ]
    objects = [rectangles(*of_window) for of_window in places]
    images = torch.cat([draw(one) for one in objects])
    torch.manual_seed(0)
    network, steps = MaskRCNN(**arguments()).train(), 150
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.001)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.002 * min((step + 1) / 10, math.cos(math.pi / 2 * step / steps))
        optimizer.zero_grad()
        torch.stack(list(network.losses(images, objects).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
    for image, one in zip(images, objects, strict=True):
        ids, found = find_objects(network.eval(), image[..., None], make_plan((64, 96)), SETTINGS, CPU)
        assert len(found) == 3
        assert {item.label for item in found} == {1}
        for mask in one.masks.numpy():
            overlaps = [
                (mask & (ids[..., 0] == n)).sum() / (mask | (ids[..., 0] == n)).sum() for n in (1, 2, 3)
            ]
            assert max(overlaps) > 0.5


@pytest.mark.parametrize(
    ("backbone", "pyramid_channels", "head_channels"),
    [
        ("resnet18", 16, 16),
        ("resnet50", 16, 16),
        pytest.param("resnext101_32x8d", 256, 1024, marks=pytest.mark.slow),
    ],
)
def test_each_backbone_from_training_to_prediction(
    tmp_path: Path, backbone: str, pyramid_channels: int, head_channels: int
) -> None:
    made = arguments(
        backbone=backbone, channels=3, pyramid_channels=pyramid_channels, head_channels=head_channels
    )
    plan = make_plan((64, 96), slices=3)
    torch.manual_seed(0)
    network = MaskRCNN(**made).train()
    objects = [rectangles((10, 20, 30, 60)), rectangles()]
    losses = network.losses(torch.randn(2, 3, 64, 96), objects)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in network.parameters())

    save_bundle(
        tmp_path, network.state_dict(), model="maskrcnn", network="maskrcnn", network_arguments=made, plan=plan,
        params={}, provenance={}, validation_metric="validation_mask_map_10_50", validation_score=None,
    )  # fmt: skip
    settings = SETTINGS.model_copy(update={"min_score": 0.0, "label_score": 0.0})
    predictor = Predictor(load_bundle(tmp_path), settings, CPU, {})
    assert all(torch.equal(a, b) for a, b in zip(
        predictor.network.state_dict().values(), network.state_dict().values(), strict=True
    ))  # fmt: skip
    image = np.random.default_rng(0).random((1, 40, 50, 2))
    prediction = predictor.predict(Volume(image, np.diag([-1.0, 1, 1, 1])), "case")
    assert prediction.label_map.array.shape == prediction.instances.array.shape == (40, 50, 2)
    np.testing.assert_array_equal(prediction.instances.array > 0, prediction.label_map.array > 0)
    assert len(prediction.instances.items) == prediction.instances.array.max()
