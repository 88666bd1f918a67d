"""Random changes of the intensities of a training batch: first drawn, then applied, on any device.

Kinds, order and ranges after Isensee et al., nnU-Net (Nature Methods 18, 2021), supplement, data augmentation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from pipeline.train_params import AugmentationParams

BLUR_SIGMA = (0.5, 1.0)  # voxels
BRIGHTNESS = CONTRAST = (0.75, 1.25)
RESOLUTION = (0.5, 1.0)
GAMMA = (0.7, 1.5)
TAIL = 3.0  # sigmas after which a Gaussian is cut off


@dataclass(frozen=True)
class IntensityDraw:
    """Parameters of one batch of N samples; all channels of a sample are changed alike.

    Attributes:
        noise_std: (N,) deviation of added Gaussian noise; 0 = none.
        blur_sigma: (N,) deviation of a Gaussian blur in voxels; 0 = none.
        brightness: (N,) factor.
        contrast: (N,) factor about the mean; the range of the values is kept.
        resolution: (N,) share of the voxels an axis keeps before it is interpolated back; 1 = all.
        inverted_gamma: (N,) exponent on the negative image; 1 = none. Mean and deviation are kept.
        gamma: (N,) exponent; 1 = none. Mean and deviation are kept.
        noise_seed: Seed of the noise field.
    """

    noise_std: torch.Tensor
    blur_sigma: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    resolution: torch.Tensor
    inverted_gamma: torch.Tensor
    gamma: torch.Tensor
    noise_seed: int


def draw_intensity(params: AugmentationParams, samples: int, generator: torch.Generator) -> IntensityDraw:
    """Draws the parameters of one batch.

    Args:
        params: Probabilities.
        samples: Batch size N.
        generator: Source of chance, on the CPU.
    """

    def drawn(probability: float, low: float, high: float, otherwise: float) -> torch.Tensor:
        chosen = torch.rand(samples, generator=generator) < probability
        values = torch.rand(samples, generator=generator) * (high - low) + low
        return torch.where(chosen, values, torch.full((samples,), otherwise))

    return IntensityDraw(
        noise_std=drawn(params.noise, 0.0, params.noise_std, 0.0),
        blur_sigma=drawn(params.blur, *BLUR_SIGMA, 0.0),
        brightness=drawn(params.brightness, *BRIGHTNESS, 1.0),
        contrast=drawn(params.contrast, *CONTRAST, 1.0),
        resolution=drawn(params.low_resolution, *RESOLUTION, 1.0),
        inverted_gamma=drawn(params.inverted_gamma, *GAMMA, 1.0),
        gamma=drawn(params.gamma, *GAMMA, 1.0),
        noise_seed=int(torch.randint(2**31, (1,), generator=generator)),
    )


def change_intensity(image: torch.Tensor, draw: IntensityDraw) -> torch.Tensor:
    """Applies a draw to images (N, C, X, Y, Z); each change touches only the samples it was drawn for."""
    image = image.clone()
    for index in _chosen(draw.noise_std, 0.0):
        # A seed a sample: what one sample gets does not depend on the others.
        generator = torch.Generator(image.device).manual_seed(draw.noise_seed + index)
        noise = torch.randn(image[index].shape, generator=generator, device=image.device, dtype=image.dtype)
        image[index] += noise * float(draw.noise_std[index])
    for index in _chosen(draw.blur_sigma, 0.0):
        image[index] = blur(image[index], float(draw.blur_sigma[index]))
    for index in _chosen(draw.brightness, 1.0):
        image[index] *= float(draw.brightness[index])
    for index in _chosen(draw.contrast, 1.0):
        image[index] = _change_contrast(image[index], float(draw.contrast[index]))
    for index in _chosen(draw.resolution, 1.0):
        image[index] = _lower_resolution(image[index], float(draw.resolution[index]))
    for index in _chosen(draw.inverted_gamma, 1.0):
        image[index] = -_bend(-image[index], float(draw.inverted_gamma[index]))
    for index in _chosen(draw.gamma, 1.0):
        image[index] = _bend(image[index], float(draw.gamma[index]))
    return image


def _chosen(values: torch.Tensor, neutral: float) -> list[int]:
    indices: list[int] = (values != neutral).nonzero()[:, 0].tolist()
    return indices


def blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (C, X, Y, Z) along every axis that is longer than one voxel; edges are repeated."""
    radius = math.ceil(TAIL * sigma)
    positions = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (positions / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in range(1, 4):
        if image.shape[axis] == 1:
            continue
        lines = image.movedim(axis, -1)
        padded = functional.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
        image = functional.conv1d(padded, kernel[None, None]).view(lines.shape).movedim(-1, axis)
    return image


def _change_contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    axes = (1, 2, 3)
    mean = image.mean(dim=axes, keepdim=True)
    low, high = image.amin(dim=axes, keepdim=True), image.amax(dim=axes, keepdim=True)
    return torch.clamp((image - mean) * factor + mean, low, high)


def _lower_resolution(image: torch.Tensor, share: float) -> torch.Tensor:
    """Samples fewer voxels by nearest neighbour and interpolates them back, along axes longer than one voxel."""
    size = list(image.shape[1:])
    fewer = [max(1, round(length * share)) for length in size]
    coarse = functional.interpolate(image[None], size=fewer, mode="nearest-exact")
    return functional.interpolate(coarse, size=size, mode="trilinear", align_corners=False)[0]


def _bend(image: torch.Tensor, exponent: float) -> torch.Tensor:
    """Raises each channel, scaled to 0 to 1, to a power, then gives it its mean and deviation back."""
    axes = (1, 2, 3)
    low = image.amin(dim=axes, keepdim=True)
    span = (image.amax(dim=axes, keepdim=True) - low).clamp_min(1e-6)
    bent = ((image - low) / span) ** exponent
    deviation, mean = torch.std_mean(image, dim=axes, keepdim=True)
    bent_deviation, bent_mean = torch.std_mean(bent, dim=axes, keepdim=True)
    return (bent - bent_mean) / bent_deviation.clamp_min(1e-6) * deviation + mean
