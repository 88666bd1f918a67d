"""The anatomy of the phantom: a thorax as distance functions in world millimetres.

Everything is a formula of the world position, so that any grid, oblique or not, samples the same body. A
distance is signed: negative inside, positive outside, exact near the surface. World axes are RAS+, so the
heart lies at negative x, the spine at negative y, and the domes of the diaphragm at negative z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Box = tuple[slice, slice, slice]

ADULT_HALF_WIDTH_MM = 170.0
AIR_HU = -1000.0


@dataclass(frozen=True)
class WorldGrid:
    """World positions of the voxel centres.

    Attributes:
        x: (X, Y, Z) mm to the right; `y` to the front and `z` to the head have the same shape.
        affine: (4, 4), voxel index to world mm.
        voxel_mm: Geometric mean of the voxel size: the width over which an edge is blurred.
    """

    x: Field
    y: Field
    z: Field
    affine: NDArray[np.float64]
    voxel_mm: float

    @cached_property
    def _inverse(self) -> NDArray[np.float64]:
        return np.asarray(np.linalg.inv(self.affine))

    def box(self, centre_mm: Sequence[float] | Field, reach_mm: Sequence[float] | Field) -> Box:
        """Voxels that a box in the world may reach; empty slices when it lies outside of the grid.

        Args:
            centre_mm: Its centre along world x, y, z.
            reach_mm: Half its size along world x, y, z.
        """
        inverse = self._inverse
        index = inverse[:3, :3] @ np.asarray(centre_mm) + inverse[:3, 3]
        reach = np.abs(inverse[:3, :3]) @ np.asarray(reach_mm)
        first = np.maximum(np.floor(index - reach), 0).astype(int)
        last = np.maximum(np.ceil(index + reach) + 1, 0).astype(int)
        return slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2])

    def crop(self, box: Box) -> WorldGrid:
        """The part of the grid in a box; its affine stays that of the whole grid."""
        return WorldGrid(self.x[box], self.y[box], self.z[box], self.affine, self.voxel_mm)


@dataclass(frozen=True)
class Thorax:
    """One patient's body; lengths in mm, `scale` 1 for an adult.

    Attributes:
        half_width: Of the body, along x; `half_depth` along y, `half_height` of the lungs along z.
        fat: Thickness under the skin.
        wall: Thickness of muscle and ribs between the fat and the lungs.
        sway: How far the spine swings to the side.
        rib_phase: Height of one rib at the spine, as a share of the distance between ribs.
        heart: Size of the heart, 1 on average.
        domes: Height of the right and the left dome of the diaphragm, as shares of `half_height`.
        lung_hu: Mean of the lungs at mid-height of the chest.
        gradient_hu: How much denser the lungs are at the back than at the front.
        bone_hu: Spongy bone.
    """

    half_width: float
    half_depth: float
    half_height: float
    fat: float
    wall: float
    sway: float
    rib_phase: float
    heart: float
    domes: tuple[float, float]
    lung_hu: float
    gradient_hu: float
    bone_hu: float

    @property
    def scale(self) -> float:
        """Size relative to an adult."""
        return self.half_width / ADULT_HALF_WIDTH_MM

    @property
    def cavity(self) -> tuple[float, float]:
        """Half-axes of the inside of the chest along x and y, mm."""
        inset = self.fat + self.wall
        return self.half_width - inset, self.half_depth - inset


def draw_thorax(rng: np.random.Generator, field_of_view_mm: tuple[float, float, float]) -> Thorax:
    """Draws a body that fills a field of view, and is never larger than an adult.

    Args:
        rng: Of the patient.
        field_of_view_mm: Along X, Y, Z.
    """
    wide, deep, high = field_of_view_mm
    ratio = rng.uniform(1.2, 1.38)
    half_width = min(0.47 * wide, 0.46 * deep * ratio, ADULT_HALF_WIDTH_MM) * rng.uniform(0.94, 1.0)
    scale = half_width / ADULT_HALF_WIDTH_MM
    return Thorax(
        half_width=half_width,
        half_depth=half_width / ratio,
        half_height=float(np.clip(0.48 * high, 0.55 * half_width, 0.95 * half_width)),
        fat=scale * rng.uniform(8.0, 20.0),
        wall=scale * rng.uniform(17.0, 22.0),
        sway=scale * rng.uniform(-5.0, 5.0),
        rib_phase=rng.uniform(0.0, 1.0),
        heart=rng.uniform(0.88, 1.08),
        domes=(rng.uniform(-0.58, -0.44), rng.uniform(-0.68, -0.54)),
        lung_hu=rng.uniform(-875.0, -825.0),
        gradient_hu=rng.uniform(25.0, 75.0),
        bone_hu=rng.uniform(140.0, 240.0),
    )


def smooth_maximum(first: Field, second: Field, width: float) -> Field:
    """Maximum of two distances with a rounded edge: the intersection of two bodies."""
    overlap = np.maximum(width - np.abs(first - second), 0.0) / width
    return np.asarray(np.maximum(first, second) + overlap * overlap * (width / 4), dtype=np.float32)


def ellipsoid_distance(
    grid: WorldGrid, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> Field:
    """Distance to an ellipsoid along the world axes; exact for a sphere, first order otherwise."""
    u, v, w = (
        (grid.x - centre[0]) / radii[0],
        (grid.y - centre[1]) / radii[1],
        (grid.z - centre[2]) / radii[2],
    )
    level = np.sqrt(u * u + v * v + w * w)
    slope = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2)
    return np.asarray(level * (level - 1) / np.maximum(slope, 1e-6), dtype=np.float32)


def column_distance(x: Field, y: Field, radius_x: float, radius_y: float) -> Field:
    """Distance to an upright elliptic cylinder around the origin."""
    u, v = x / radius_x, y / radius_y
    level = np.sqrt(u * u + v * v)
    u, v = u / radius_x, v / radius_y
    return np.asarray(level * (level - 1) / np.maximum(np.sqrt(u * u + v * v), 1e-6), dtype=np.float32)


def box_column_distance(x: Field, y: Field, radius_x: float, radius_y: float) -> Field:
    """The same with boxier corners: a superellipse of power 2.5."""
    u, v = np.abs(x) / radius_x, np.abs(y) / radius_y
    u_slope, v_slope = u * np.sqrt(u), v * np.sqrt(v)
    level = np.maximum((u * u_slope + v * v_slope) ** 0.4, 1e-4)
    slope = np.hypot(u_slope / radius_x, v_slope / radius_y) / (level * np.sqrt(level))
    return np.asarray((level - 1) / np.maximum(slope, 1e-4), dtype=np.float32)


def body_distance(thorax: Thorax, grid: WorldGrid) -> Field:
    """Distance to the skin."""
    return box_column_distance(grid.x, grid.y, thorax.half_width, thorax.half_depth)


def cavity_distance(thorax: Thorax, grid: WorldGrid) -> Field:
    """Distance to the inside of the chest wall, which closes above the tops of the lungs."""
    radius_x, radius_y = thorax.cavity
    rise = 1.25 * thorax.half_height
    u, v = grid.x / radius_x, grid.y / radius_y
    around = np.maximum(np.sqrt(u * u + v * v), 1e-4)
    u, v = u / radius_x, v / radius_y
    around_slope = np.sqrt(u * u + v * v) / around
    up = np.maximum(grid.z + 0.3 * thorax.half_height, 0.0) / rise
    level = np.maximum(np.cbrt(around * around * around + up * up * up), 1e-4)
    slope = np.hypot(around * around * around_slope, up * up / rise) / (level * level)
    return np.asarray((level - 1) / np.maximum(slope, 1e-4), dtype=np.float32)


def spine_position(thorax: Thorax, z: Field) -> tuple[Field, float]:
    """Centre of the vertebral bodies: x for each z, and y."""
    swing = np.asarray(thorax.sway * np.sin(z / (0.7 * thorax.half_height)), dtype=np.float32)
    return swing, -0.80 * thorax.cavity[1]


def heart_distance(thorax: Thorax, grid: WorldGrid) -> Field:
    """Distance to the heart with its sac, the largest bulge of the mediastinum to the left."""
    a, b, h, size = thorax.half_width, thorax.half_depth, thorax.half_height, thorax.heart
    centre = (-0.14 * a, 0.20 * b, -0.42 * h)
    return ellipsoid_distance(grid, centre, (0.35 * a * size, 0.42 * b * size, 0.46 * h * size))


def mediastinum_distance(thorax: Thorax, grid: WorldGrid) -> Field:
    """Distance to all that parts the lungs: heart, great vessels, spine, and a septum from front to back."""
    a, b, h = thorax.half_width, thorax.half_depth, thorax.half_height
    septum = np.abs(grid.x) - 0.03 * a
    pillar = column_distance(grid.x, grid.y - 0.02 * b, 0.155 * a, 0.95 * thorax.cavity[1])
    arch = ellipsoid_distance(grid, (-0.08 * a, 0.04 * b, 0.22 * h), (0.20 * a, 0.34 * b, 0.22 * h))
    swing, spine_y = spine_position(thorax, grid.z)
    spine = column_distance(grid.x - swing, grid.y - spine_y, 0.17 * a, 0.17 * a)
    aorta = column_distance(grid.x + 0.15 * a, grid.y + 0.40 * b, 0.095 * a, 0.095 * a)
    aorta = np.maximum(aorta, grid.z - 0.25 * h)
    out: Field = septum
    for part in (pillar, arch, spine, aorta, heart_distance(thorax, grid)):
        out = -smooth_maximum(-out, -part, 9.0 * thorax.scale)
    return np.asarray(out, dtype=np.float32)


def diaphragm_height(thorax: Thorax, grid: WorldGrid) -> Field:
    """Height of the diaphragm above each x, y: two domes which fall steeply to the chest wall."""
    a, b, h = thorax.half_width, thorax.half_depth, thorax.half_height
    right = ((grid.x - 0.42 * a) / (0.52 * a)) ** 2 + ((grid.y - 0.12 * b) / (0.95 * b)) ** 2
    left = ((grid.x + 0.42 * a) / (0.52 * a)) ** 2 + ((grid.y - 0.12 * b) / (0.95 * b)) ** 2
    height = np.maximum(thorax.domes[0] - 0.9 * right, thorax.domes[1] - 0.9 * left)
    return np.asarray(height * h, dtype=np.float32)


def lung_distance(thorax: Thorax, grid: WorldGrid) -> Field:
    """Distance to the pleura of the nearer lung, mm; negative inside the lungs."""
    edge = 7.0 * thorax.scale
    inside = smooth_maximum(cavity_distance(thorax, grid), -mediastinum_distance(thorax, grid), edge)
    below = np.asarray(0.85 * (diaphragm_height(thorax, grid) - grid.z), dtype=np.float32)
    return smooth_maximum(inside, below, edge)
