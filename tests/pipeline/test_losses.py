"""Loss by hand: perfect, wrong, weighted, and the weights of the decoder stages."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.losses import DeepSupervisionLoss
from pipeline.plan import RegionPlan


def logits_of(label: torch.Tensor, confidence: float) -> torch.Tensor:
    one_hot = torch.nn.functional.one_hot(label.long(), 2).movedim(-1, 1).float()
    return one_hot * confidence


@pytest.fixture
def label() -> torch.Tensor:
    label = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    label[:, :2] = 1
    return label


def test_a_perfect_answer_costs_nothing(label: torch.Tensor) -> None:
    loss = DeepSupervisionLoss(1.0, 1.0, None)
    assert float(loss([logits_of(label, 50.0)], label)) == pytest.approx(0.0, abs=1e-4)


def test_the_lightest_weight_leaves_a_loss_where_nothing_else_is_seen(label: torch.Tensor) -> None:
    flat, lightest = torch.zeros(1, 2, 4, 4, 4), [0.001, 1.0]
    loss = DeepSupervisionLoss(0.0, 1.0, lightest)([flat], torch.zeros_like(label))
    assert float(loss) == pytest.approx(math.log(2), rel=1e-5)


def test_undecided_answer_by_hand(label: torch.Tensor) -> None:
    # Probability one half everywhere, half of the voxels foreground: cross-entropy ln 2;
    # soft Dice 2 * 16 / (32 + 32) = 0.5.
    flat = torch.zeros(1, 2, 4, 4, 4)
    assert float(DeepSupervisionLoss(0.0, 1.0, None)([flat], label)) == pytest.approx(math.log(2), rel=1e-5)
    assert float(DeepSupervisionLoss(1.0, 0.0, None)([flat], label)) == pytest.approx(0.5, rel=1e-4)


def test_stages_weigh_one_and_a_half(label: torch.Tensor) -> None:
    loss = DeepSupervisionLoss(0.0, 1.0, None)
    right, flat = logits_of(label, 50.0), torch.zeros(1, 2, 2, 2, 2)
    # Weights 2/3 and 1/3: only the coarse stage errs, by ln 2.
    assert float(loss([right, flat], label)) == pytest.approx(math.log(2) / 3, rel=1e-4)


def test_class_weights_by_hand(label: torch.Tensor) -> None:
    all_background = torch.zeros(1, 2, 4, 4, 4)
    all_background[:, 0] = 3.0
    right, wrong = math.log(1 + math.exp(-3)), math.log(1 + math.exp(3))
    plain = DeepSupervisionLoss(0.0, 1.0, None)([all_background], label)
    assert float(plain) == pytest.approx((right + wrong) / 2, rel=1e-5)
    # Half of the voxels are of each class; the cross-entropy is a weighted mean, weights 1 : 3.
    weighted = DeepSupervisionLoss(0.0, 1.0, [0.5, 1.5])([all_background], label)
    assert float(weighted) == pytest.approx((0.5 * right + 1.5 * wrong) / 2, rel=1e-5)
    # The Dice of one foreground class has no weight.
    of_one = [
        DeepSupervisionLoss(1.0, 0.0, weights)([all_background], label) for weights in (None, [0.5, 7.0])
    ]
    assert float(of_one[0]) == float(of_one[1]) > 0
    # Undecided between three classes, a quarter of the voxels of class 2: the Dice of the foreground classes is
    # 2 * 16 / 3 / (64 / 3 + 16), that of either times its weight.
    label[:, 3:] = 2
    dice = DeepSupervisionLoss(1.0, 0.0, [0.5, 1.0, 3.0])([torch.zeros(1, 3, 4, 4, 4)], label)
    one, two = (1 - 2 * n / 3 / (64 / 3 + n) for n in (32, 16))
    assert float(dice) == pytest.approx((1.0 * one + 3.0 * two) / 2, rel=1e-4)


# Three voxels in a row: oedema (1), core (2), background. The whole is both classes.
REGIONS = (
    RegionPlan(name="whole", labels=(1, 2), paint=1),
    RegionPlan(name="core", labels=(2,), paint=2),
)
THREE = torch.tensor([1, 2, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
INSIDE = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]).reshape(1, 2, 3, 1, 1)


def test_right_regions_cost_nothing() -> None:
    logits = (INSIDE * 2 - 1) * 50
    assert float(DeepSupervisionLoss(1.0, 1.0, None, REGIONS)([logits], THREE)) == pytest.approx(0, abs=1e-4)


def test_undecided_regions_by_hand() -> None:
    flat = torch.zeros(1, 2, 3, 1, 1)
    entropy = DeepSupervisionLoss(0.0, 1.0, None, REGIONS)([flat], THREE)
    assert float(entropy) == pytest.approx(math.log(2), rel=1e-5)
    # Probability one half in three voxels: the whole has 2 * 1 / (1.5 + 2), the core 2 * 0.5 / (1.5 + 1).
    dice = DeepSupervisionLoss(1.0, 0.0, None, REGIONS)([flat], THREE)
    assert float(dice) == pytest.approx(1 - (2 / 3.5 + 1 / 2.5) / 2, rel=1e-4)
    # Weights are factors of both parts, mean over the regions.
    weighted = DeepSupervisionLoss(1.0, 1.0, [3.0, 1.0], REGIONS)([flat], THREE)
    by_hand = (3 * (1 - 2 / 3.5) + (1 - 1 / 2.5)) / 2 + (3 + 1) / 2 * math.log(2)
    assert float(weighted) == pytest.approx(by_hand, rel=1e-4)


def test_coarse_stages_of_regions_see_the_regions_of_the_coarse_label_map() -> None:
    label = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    label[:, :2], label[:, 2:, :2] = 1, 2
    coarse = label[:, ::2, ::2, ::2]
    right = torch.stack([coarse > 0, coarse == 2], dim=1).float()
    fine = torch.stack([label > 0, label == 2], dim=1).float()
    loss = DeepSupervisionLoss(1.0, 1.0, None, REGIONS)
    assert float(loss([fine * 100 - 50, right * 100 - 50], label)) == pytest.approx(0, abs=1e-4)
    assert float(loss([fine * 100 - 50, 50 - right * 100], label)) > 1


def test_regions_take_their_weights_along_to_the_device() -> None:
    module = DeepSupervisionLoss(1.0, 1.0, [1.0, 2.0], REGIONS)
    assert [tuple(buffer.tolist()) for buffer in module.buffers()] == [(1.0, 2.0)]
    assert not module.state_dict()  # what a bundle or a checkpoint holds does not depend on them


def with_ignored(label: torch.Tensor) -> torch.Tensor:
    """The same voxels, and as many again along the last axis that nobody labelled."""
    return torch.cat([label, torch.full_like(label, 255)], dim=-1)


def with_nonsense(logits: torch.Tensor) -> torch.Tensor:
    return torch.cat(
        [logits, 1000 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))], -1
    )


def test_ignored_voxels_by_hand() -> None:
    # Foreground, background, unknown, undecided: cross-entropy ln 2, soft Dice 2 * 0.5 / (1 + 1), each over two voxels.
    label = torch.tensor([1, 0, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    flat = torch.zeros(1, 2, 3, 1, 1)
    flat[:, 1, 2] = 9.0
    entropy = DeepSupervisionLoss(0.0, 1.0, None, sparse=True)([flat], label)
    assert float(entropy) == pytest.approx(math.log(2), rel=1e-5)
    assert float(DeepSupervisionLoss(1.0, 0.0, None, sparse=True)([flat], label)) == pytest.approx(
        0.5, rel=1e-4
    )
    # The weighted mean goes by the weights of labelled voxels: both logits say background, by 3.
    flat[:, 0] = 3.0
    flat[:, 1] = 0.0
    right, wrong = math.log(1 + math.exp(-3)), math.log(1 + math.exp(3))
    weighted = DeepSupervisionLoss(0.0, 1.0, [0.5, 1.5], sparse=True)([flat], label)
    assert float(weighted) == pytest.approx((0.5 * right + 1.5 * wrong) / 2, rel=1e-5)


@pytest.mark.parametrize("regions", [(), REGIONS])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_that_of_the_labelled_part(regions: tuple[RegionPlan, ...], weighted: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    outputs = 2 if regions else 3
    weights = [0.3, 2.0, 1.1][:outputs] if weighted else None
    label = torch.randint(0, 3, (2, 4, 4, 4), generator=generator, dtype=torch.uint8)
    pyramid = [torch.randn(2, outputs, size, size, size, generator=generator) for size in (4, 2)]
    plain = DeepSupervisionLoss(0.7, 1.3, weights, regions)(pyramid, label)
    sparse = DeepSupervisionLoss(0.7, 1.3, weights, regions, sparse=True)
    assert float(sparse(pyramid, label)) == pytest.approx(float(plain), rel=1e-5)
    wider = [with_nonsense(logits) for logits in pyramid]
    assert float(sparse(wider, with_ignored(label))) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("regions", [(), REGIONS])
def test_ignored_voxels_have_no_gradient_at_any_stage(regions: tuple[RegionPlan, ...]) -> None:
    label = with_ignored(torch.randint(0, 3, (1, 4, 4, 4), generator=torch.Generator().manual_seed(3)))
    outputs = 2 if regions else 3
    pyramid = [torch.randn(1, outputs, size, size, 2 * size, requires_grad=True) for size in (4, 2)]
    loss = DeepSupervisionLoss(1.0, 1.0, None, regions, sparse=True)
    loss(pyramid, label).backward()
    for logits in pyramid:
        assert logits.grad is not None
        known, ignored = logits.grad.chunk(2, dim=-1)
        assert (known != 0).any(dim=1).all() and (ignored == 0).all()
    nothing = torch.randn(1, outputs, 4, 4, 4, requires_grad=True)
    cost = loss([nothing], torch.full((1, 4, 4, 4), 255))
    cost.backward()
    assert float(cost.detach()) == 0 and nothing.grad is not None and (nothing.grad == 0).all()
