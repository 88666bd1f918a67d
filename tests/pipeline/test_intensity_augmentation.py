"""Each change of the intensities by a fact that can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.intensity_augmentation import IntensityDraw, blur, change_intensity, draw_intensity
from pipeline.train_params import AugmentationParams

CHANCES = ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")
NEUTRAL = {"noise_std": 0.0, "blur_sigma": 0.0}  # 1 for all others


@pytest.fixture
def draw() -> Callable[..., IntensityDraw]:
    def build(samples: int = 1, **values: list[float]) -> IntensityDraw:
        names = ("noise_std", "blur_sigma", "brightness", "contrast", "resolution", "inverted_gamma", "gamma")
        tensors = {name: torch.tensor(values.get(name, [NEUTRAL.get(name, 1.0)] * samples)) for name in names}
        return IntensityDraw(**tensors, noise_seed=7)

    return build


def noise_image(samples: int = 1, edge: int = 12) -> torch.Tensor:
    return torch.rand(samples, 2, edge, edge, edge, generator=torch.Generator().manual_seed(1))


def test_the_empty_draw_changes_nothing(draw: Callable[..., IntensityDraw]) -> None:
    image = noise_image()
    assert torch.equal(change_intensity(image, draw()), image)


@pytest.mark.parametrize(
    "changes", ["noise_std", "blur_sigma", "brightness", "contrast", "resolution", "inverted_gamma", "gamma"]
)
def test_only_the_drawn_sample_changes_and_the_input_stays(
    draw: Callable[..., IntensityDraw], changes: str
) -> None:
    image = noise_image(2)
    before = image.clone()
    neutral = NEUTRAL.get(changes, 1.0)
    changed = change_intensity(image, draw(2, **{changes: [neutral, 0.7]}))
    assert torch.equal(image, before)
    assert torch.equal(changed[0], image[0])
    assert not torch.allclose(changed[1], image[1])


def test_noise_has_the_drawn_deviation_and_repeats(draw: Callable[..., IntensityDraw]) -> None:
    image = torch.zeros(2, 1, 24, 24, 24)
    first, second = (change_intensity(image, draw(2, noise_std=[0.0, 0.5])) for _ in range(2))
    assert torch.equal(first, second)
    assert float(first[1].std()) == pytest.approx(0.5, rel=0.02)


def test_blur_spreads_a_point_like_a_gaussian() -> None:
    image = torch.zeros(1, 11, 11, 11)
    image[0, 5, 5, 5] = 1
    spread = blur(image, 1.0)
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-5)
    # A step of one voxel along any axis: exp(-1/2); along two: exp(-1).
    assert float(spread[0, 6, 5, 5] / spread[0, 5, 5, 5]) == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert float(spread[0, 5, 4, 6] / spread[0, 5, 5, 5]) == pytest.approx(math.exp(-1.0), rel=1e-4)


def test_blur_of_a_slice_stays_in_its_plane_and_keeps_a_constant() -> None:
    constant = torch.full((2, 9, 7, 1), 3.0)
    torch.testing.assert_close(blur(constant, 0.8), constant)


def test_brightness_is_a_factor(draw: Callable[..., IntensityDraw]) -> None:
    image = noise_image()
    torch.testing.assert_close(change_intensity(image, draw(brightness=[1.25])), image * 1.25)


def test_contrast_moves_values_from_the_mean_and_keeps_the_range(draw: Callable[..., IntensityDraw]) -> None:
    image = torch.tensor([0.0, 4.0, 6.0, 10.0]).view(1, 1, 4, 1, 1)  # mean 5
    found = change_intensity(image, draw(contrast=[1.2])).flatten().tolist()
    assert found == pytest.approx([0.0, 3.8, 6.2, 10.0])
    weaker = change_intensity(image, draw(contrast=[0.8])).flatten().tolist()
    assert weaker == pytest.approx([1.0, 4.2, 5.8, 9.0])


def test_half_the_resolution_cannot_show_a_checkerboard(draw: Callable[..., IntensityDraw]) -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(16)] * 3, indexing="ij")).sum(0) % 2
    coarse = change_intensity(grid.float()[None, None], draw(resolution=[0.5]))
    assert float(coarse.std()) < 1e-5
    ramp = torch.linspace(0, 15, 16).view(1, 1, 16, 1, 1).expand(1, 1, 16, 16, 16)
    kept = change_intensity(ramp, draw(resolution=[0.5]))
    assert float((kept - ramp).abs().max()) <= 1.0  # half a coarse voxel


def test_gamma_keeps_mean_deviation_and_order(draw: Callable[..., IntensityDraw]) -> None:
    image = noise_image() * 5 - 2
    for name in ("gamma", "inverted_gamma"):
        bent = change_intensity(image, draw(**{name: [1.5]}))
        torch.testing.assert_close(bent.mean(dim=(2, 3, 4)), image.mean(dim=(2, 3, 4)), rtol=0, atol=1e-4)
        torch.testing.assert_close(bent.std(dim=(2, 3, 4)), image.std(dim=(2, 3, 4)), rtol=1e-3, atol=0)
        values, order = image[0, 0].flatten().sort()
        assert bool((bent[0, 0].flatten()[order].diff() >= -1e-5).all())
    # An exponent above 1 stretches the bright end; on the negative it stretches the dark end.
    line = torch.linspace(0, 1, 101).view(1, 1, 101, 1, 1)
    steps = change_intensity(line, draw(gamma=[1.5])).flatten().diff()
    assert steps[-1] > steps[0]
    steps = change_intensity(line, draw(inverted_gamma=[1.5])).flatten().diff()
    assert steps[-1] < steps[0]


def test_a_constant_image_stays_finite(draw: Callable[..., IntensityDraw]) -> None:
    image = torch.full((1, 1, 6, 6, 6), -2.0)
    every = draw(
        blur_sigma=[1.0],
        contrast=[1.2],
        resolution=[0.5],
        inverted_gamma=[1.3],
        gamma=[0.7],
        brightness=[1.1],
    )
    torch.testing.assert_close(change_intensity(image, every), image * 1.1, rtol=1e-4, atol=1e-4)


def test_draws_come_as_often_as_params_say_and_repeat() -> None:
    shipped = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["train"]["unet"]["augmentation"]
    params = AugmentationParams(**{**shipped, **dict.fromkeys(CHANCES, 0.25)})
    first, second = (draw_intensity(params, 2000, torch.Generator().manual_seed(3)) for _ in range(2))
    for name in (
        "noise_std",
        "blur_sigma",
        "brightness",
        "contrast",
        "resolution",
        "inverted_gamma",
        "gamma",
    ):
        values = getattr(first, name)
        assert torch.equal(values, getattr(second, name))
        share = (values != NEUTRAL.get(name, 1.0)).float().mean()
        assert float(share) == pytest.approx(0.25, abs=0.04), name
    assert float(first.blur_sigma[first.blur_sigma > 0].min()) >= 0.5
    assert float(first.gamma.max()) <= 1.5
