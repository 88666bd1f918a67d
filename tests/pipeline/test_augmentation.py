"""Augmentation by hand: quarter turns, doubling, flips; and that a draw decides everything."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.augmentation import AugmentationDraw, apply_augmentation, draw_augmentation
from pipeline.intensity_augmentation import draw_intensity
from pipeline.train_params import AugmentationParams

SHIPPED = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["train"]["unet"]["augmentation"]
CHANCES = ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")
NEVER = AugmentationParams(**{**SHIPPED, **dict.fromkeys(CHANCES, 0.0)})
PADDING = torch.tensor([-3.0])
CUBIC = (1.0, 1.0, 1.0)


@pytest.fixture
def params() -> AugmentationParams:
    return AugmentationParams(**SHIPPED)


def nothing(samples: int) -> AugmentationDraw:
    one = torch.ones(samples)
    return AugmentationDraw(
        flip=torch.zeros(samples, 3, dtype=torch.bool),
        angles=torch.zeros(samples, 3),
        scale=one,
        intensity=draw_intensity(NEVER, samples, torch.Generator()),
    )


def arrow(x: int = 9, y: int = 9, z: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """One sample with a voxel of label 2 at the end of a line of label 1 along X."""
    label = torch.zeros(1, x, y, z, dtype=torch.uint8)
    label[0, 4:7, 4, 4] = 1
    label[0, 7, 4, 4] = 2
    return label[:, None].float() * 10, label


def test_the_empty_draw_changes_nothing() -> None:
    image, label = arrow()
    new_image, new_label = apply_augmentation(image, label, PADDING, CUBIC, nothing(1))
    assert torch.equal(new_image, image)
    assert torch.equal(new_label, label)


def test_a_quarter_turn_about_z_moves_x_to_y_in_image_and_label() -> None:
    image, label = arrow()
    draw = replace(nothing(1), angles=torch.tensor([[0.0, 0.0, math.pi / 2]]))
    new_image, new_label = apply_augmentation(image, label, PADDING, CUBIC, draw)
    tips = (new_label[0] == 2).nonzero().tolist()
    assert tips in ([[4, 7, 4]], [[4, 1, 4]])
    assert torch.allclose(new_image[0, 0], new_label[0].float() * 10, atol=1e-3)


def test_a_rotation_is_rigid_on_a_box_that_is_no_cube() -> None:
    image, label = torch.zeros(1, 1, 21, 11, 5), torch.zeros(1, 21, 11, 5, dtype=torch.uint8)
    label[0, 10, 2:9, 2] = 1
    draw = replace(nothing(1), angles=torch.tensor([[0.0, 0.0, math.pi / 2]]))
    _, turned = apply_augmentation(image, label, PADDING, CUBIC, draw)
    assert turned[0, 7:14, 5, 2].tolist() == [1] * 7
    assert int(turned.sum()) == 7


def test_scale_two_makes_a_cube_eight_times_as_large() -> None:
    label = torch.zeros(1, 24, 24, 24, dtype=torch.uint8)
    label[0, 8:16, 8:16, 8:16] = 1
    draw = replace(nothing(1), scale=torch.tensor([2.0]))
    _, scaled = apply_augmentation(label[:, None].float(), label, PADDING, CUBIC, draw)
    assert int(scaled.sum()) == 16**3


def test_what_comes_in_from_outside_is_padding() -> None:
    image, label = torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    draw = replace(nothing(1), scale=torch.tensor([0.5]))
    shrunk, _ = apply_augmentation(image, label, PADDING, CUBIC, draw)
    assert shrunk[0, 0, 0, 0, 0] == pytest.approx(-3.0)
    assert shrunk[0, 0, 8, 8, 8] == pytest.approx(0.0)


def test_flip_mirrors_the_chosen_axis_of_the_chosen_sample() -> None:
    image, label = arrow(12, 9, 9)
    image, label = image.repeat(2, 1, 1, 1, 1), label.repeat(2, 1, 1, 1)
    draw = replace(nothing(2), flip=torch.tensor([[True, False, False], [False, False, False]]))
    new_image, new_label = apply_augmentation(image, label, PADDING, CUBIC, draw)
    assert torch.equal(new_label[0], label[0].flip(0))
    assert torch.equal(new_image[0], image[0].flip(1))
    assert torch.equal(new_label[1], label[1])


def test_draws_repeat_and_stay_in_range(params: AugmentationParams) -> None:
    first = draw_augmentation(params, 500, False, torch.Generator().manual_seed(3))
    second = draw_augmentation(params, 500, False, torch.Generator().manual_seed(3))
    assert torch.equal(first.angles, second.angles)
    assert float(first.angles.abs().max()) <= math.radians(params.rotation_degrees)
    assert float(first.scale.min()) >= params.scale_range[0]
    rotated = (first.angles != 0).any(dim=1).float().mean()
    assert float(rotated) == pytest.approx(params.rotation, abs=0.07)


def test_flat_patches_turn_only_in_their_plane(params: AugmentationParams) -> None:
    draw = draw_augmentation(params, 200, True, torch.Generator().manual_seed(3))
    assert not draw.flip[:, 2].any()
    assert not draw.angles[:, :2].any()
    assert draw.angles[:, 2].any()


def test_only_the_chosen_axes_are_flipped(params: AugmentationParams) -> None:
    chosen = params.model_copy(update={"flip_axes": ("x",)})
    draw = draw_augmentation(chosen, 200, False, torch.Generator().manual_seed(3))
    assert draw.flip[:, 0].any()
    assert not draw.flip[:, 1:].any()


def test_a_rotation_is_rigid_in_mm() -> None:
    # 12 mm along X are 12 voxels of 1 mm; turned to Z they are 3 slices of 4 mm.
    image, label = torch.zeros(1, 1, 20, 5, 9), torch.zeros(1, 20, 5, 9, dtype=torch.uint8)
    label[0, 4:16, 2, 4] = 1
    draw = replace(nothing(1), angles=torch.tensor([[0.0, math.pi / 2, 0.0]]))
    _, turned = apply_augmentation(image, label, PADDING, (1.0, 1.0, 4.0), draw)
    slices = turned[0].amax(dim=(0, 1)).nonzero()[:, 0].tolist()
    assert slices == [3, 4, 5]
