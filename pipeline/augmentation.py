"""Random changes of a training batch: first drawn, then applied, on any device.

What is drawn is a plain record, so that a transform can be tested and repeated without a seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from pipeline.intensity_augmentation import IntensityDraw, change_intensity, draw_intensity
from pipeline.train_params import AugmentationParams


@dataclass(frozen=True)
class AugmentationDraw:
    """Parameters of one batch of N samples.

    Attributes:
        flip: (N, 3) bool, along X, Y, Z.
        angles: (N, 3) radians about X, Y, Z; 0 = no rotation.
        scale: (N,) zoom factor; 1 = none, above 1 makes objects larger.
        intensity: Changes of the intensities.
    """

    flip: torch.Tensor
    angles: torch.Tensor
    scale: torch.Tensor
    intensity: IntensityDraw


def draw_augmentation(
    params: AugmentationParams, samples: int, flat: bool, generator: torch.Generator
) -> AugmentationDraw:
    """Draws the parameters of one batch.

    Args:
        params: Probabilities and ranges.
        samples: Batch size N.
        flat: Patches of one slice: rotation about Z only, no flip along Z.
        generator: Source of chance, on the CPU.
    """

    def chosen(probability: float, *shape: int) -> torch.Tensor:
        return torch.rand(samples, *shape, generator=generator) < probability

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(samples, *shape, generator=generator) * (high - low) + low

    flip = chosen(params.flip, 3) & torch.tensor([axis in params.flip_axes for axis in "xyz"])
    limit = math.radians(params.rotation_degrees)
    angles = between(-limit, limit, 3) * chosen(params.rotation, 1)
    if flat:
        flip[:, 2] = False
        angles[:, :2] = 0
    one = torch.ones(samples)
    return AugmentationDraw(
        flip=flip,
        angles=angles,
        scale=torch.where(chosen(params.scale), between(*params.scale_range), one),
        intensity=draw_intensity(params, samples, generator),
    )


def apply_augmentation(
    image: torch.Tensor,
    label: torch.Tensor,
    padding: torch.Tensor,
    spacing_mm: tuple[float, float, float],
    draw: AugmentationDraw,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Applies a draw.

    Args:
        image: (N, C, X, Y, Z) normalised float.
        label: (N, X, Y, Z) integer.
        padding: (C,) value of the image outside its field of view.
        spacing_mm: Voxel size along X, Y, Z: a rotation is rigid in mm.
        draw: From `draw_augmentation`.

    Returns:
        Image and label of the same shapes. Labels are moved by nearest neighbour.
    """
    image, label = _rotate_and_scale(image, label, padding, spacing_mm, draw)
    image, label = _flip(image, label, draw)
    return change_intensity(image, draw.intensity), label


def _rotation_matrices(angles: torch.Tensor) -> torch.Tensor:
    """(N, 3, 3) rotations about X, then Y, then Z."""
    cosines, sines = angles.cos(), angles.sin()
    result = torch.eye(3).expand(len(angles), 3, 3)
    for axis, (a, b) in enumerate(((1, 2), (0, 2), (0, 1))):
        one = torch.eye(3).repeat(len(angles), 1, 1)
        one[:, a, a] = one[:, b, b] = cosines[:, axis]
        one[:, a, b], one[:, b, a] = -sines[:, axis], sines[:, axis]
        result = one @ result
    return result


def _rotate_and_scale(
    image: torch.Tensor,
    label: torch.Tensor,
    padding: torch.Tensor,
    spacing_mm: tuple[float, float, float],
    draw: AugmentationDraw,
) -> tuple[torch.Tensor, torch.Tensor]:
    moved = ((draw.angles != 0).any(dim=1) | (draw.scale != 1)).nonzero()[:, 0]
    if len(moved) == 0:
        return image, label
    size = torch.tensor(image.shape[2:], dtype=torch.float32) * torch.tensor(spacing_mm)
    # In mm the grid is rigid; grid_sample counts in half extents and in the order Z, Y, X.
    matrix = _rotation_matrices(draw.angles[moved]) / draw.scale[moved, None, None]
    matrix = matrix * size[None, None, :] / size[None, :, None]
    theta = torch.zeros(len(moved), 3, 4)
    theta[:, :, :3] = matrix.flip(1, 2)
    shape = [len(moved), 1, *image.shape[2:]]
    grid = functional.affine_grid(theta.to(image.device), shape, align_corners=False)
    where = moved.to(image.device)
    offset = padding.to(image).view(1, -1, 1, 1, 1)
    image, label = image.clone(), label.clone()
    image[where] = functional.grid_sample(image[where] - offset, grid, align_corners=False) + offset
    moved_label = functional.grid_sample(
        label[where][:, None].to(grid.dtype), grid, mode="nearest", align_corners=False
    )
    label[where] = moved_label[:, 0].to(label.dtype)
    return image, label


def _flip(
    image: torch.Tensor, label: torch.Tensor, draw: AugmentationDraw
) -> tuple[torch.Tensor, torch.Tensor]:
    axes = [[axis for axis in range(3) if draw.flip[n, axis]] for n in range(len(image))]
    flipped = torch.stack([x.flip([1 + a for a in own]) for x, own in zip(image, axes, strict=True)])
    return flipped, torch.stack([x.flip(own) for x, own in zip(label, axes, strict=True)])
