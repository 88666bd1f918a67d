"""Loss by hand: perfect, wrong, weighted, and the weights of the decoder stages."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.losses import DeepSupervisionLoss


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


def test_class_weights_shift_the_cost(label: torch.Tensor) -> None:
    all_background = torch.zeros(1, 2, 4, 4, 4)
    all_background[:, 0] = 3.0
    plain = DeepSupervisionLoss(0.0, 1.0, None)([all_background], label)
    weighted = DeepSupervisionLoss(0.0, 1.0, [0.5, 1.5])([all_background], label)
    assert float(weighted) > float(plain)
