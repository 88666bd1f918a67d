"""Nodules of the phantom: where they sit, their shape and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.phantom_anatomy import Field, Thorax, WorldGrid, cavity_distance, lung_distance
from pipeline.phantom_tissue import axis_distance, coverage, paint
from pipeline.phantom_vessels import Points, Vessels, points_grid, sample_lung

SMALLEST_MM, LARGEST_MM = 4.0, 30.0
COUNT_SHARES = (0.10, 0.22, 0.25, 0.20, 0.12, 0.07, 0.04)  # of patients with 0, 1, ... 6 nodules
SMALL_SHARE = 0.2  # of all but a patient's first nodule
KIND_SHARES = {"solid": 0.70, "part_solid": 0.18, "ground_glass": 0.12}
PLACE_SHARES = {"free": 0.45, "vessel": 0.30, "pleura": 0.25}


@dataclass(frozen=True)
class Nodule:
    """One nodule.

    Attributes:
        centre_mm: (3,) world position.
        diameter_mm: Of the sphere of the same volume, before the pleura cuts it.
        kind: "solid", "part_solid" or "ground_glass".
        place: "free", "vessel" or "pleura": what it touches.
        axes: (3,) stretch along x, y, z; their product is 1.
        lobes: (n, 5) unit direction, height as a share of the radius, and sharpness of each bump.
        spikes: (m, 3) vectors of the spicules, mm, from the surface outwards.
        hu: Of the body of the nodule.
        core_hu: Of the solid core (part-solid) or a calcified centre.
        core: Radius of that core as a share of the nodule's; 0 for none.
    """

    centre_mm: Points
    diameter_mm: float
    kind: str
    place: str
    axes: Points
    lobes: Points
    spikes: Points
    hu: float
    core_hu: float
    core: float

    @property
    def radius_mm(self) -> float:
        """Half the diameter."""
        return self.diameter_mm / 2


def draw_nodules(
    rng: np.random.Generator, thorax: Thorax, vessels: Vessels, count: int | None = None
) -> list[Nodule]:
    """Draws 0 to 6 nodules that neither touch nor overlap each other.

    Args:
        rng: Of the patient.
        thorax: The patient.
        vessels: Some nodules sit on one.
        count: Instead of a drawn number.
    """
    wanted = int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES)) if count is None else count
    nodules: list[Nodule] = []
    for number in range(wanted):
        # Small ones come in company: a case whose Dice hangs on ten voxels alone says little about a model.
        nodule = _draw_nodule(rng, small=number > 0 and rng.uniform() < SMALL_SHARE)
        placed = _place(rng, nodule, thorax, vessels, nodules)
        if placed is not None:
            nodules.append(placed)
    return nodules


def _draw_nodule(rng: np.random.Generator, small: bool) -> Nodule:
    """Draws shape and content of a small (4 to 8 mm) or a larger (8 to 30 mm) nodule."""
    diameter = rng.uniform(SMALLEST_MM, 8.0) if small else 8.0 + 22.0 * rng.beta(1.3, 1.9)
    kind = "solid" if small else str(rng.choice(list(KIND_SHARES), p=list(KIND_SHARES.values())))
    place = str(rng.choice(list(PLACE_SHARES), p=list(PLACE_SHARES.values())))
    axes = np.exp(rng.normal(0.0, 0.12, 3))
    lobe_count = int(rng.integers(5, 12))
    heights = rng.uniform(0.1, 0.55, lobe_count) * rng.uniform(0.3, 1.0)
    lobes = np.column_stack([_directions(rng, lobe_count), heights, rng.uniform(4.0, 20.0, lobe_count)])
    spike_count = int(rng.integers(8, 18)) if not small and rng.uniform() < 0.4 else 0
    spikes = _directions(rng, spike_count) * rng.uniform(3.0, 8.0, (spike_count, 1))
    calcified = kind == "solid" and rng.uniform() < 0.12
    hu, core_hu, core = {
        "solid": (rng.uniform(5, 60), rng.uniform(180, 380), 0.4 if calcified else 0.0),
        "part_solid": (rng.uniform(-480, -300), rng.uniform(-10, 45), rng.uniform(0.45, 0.7)),
        "ground_glass": (rng.uniform(-500, -250), 0.0, 0.0),
    }[kind]
    return Nodule(
        np.zeros(3), diameter, kind, place, axes / np.cbrt(axes.prod()), lobes, spikes, hu, core_hu, core
    )


def _directions(rng: np.random.Generator, count: int) -> Points:
    vectors = rng.normal(size=(count, 3))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _place(
    rng: np.random.Generator, nodule: Nodule, thorax: Thorax, vessels: Vessels, others: list[Nodule]
) -> Nodule | None:
    """Finds a free place; a nodule that fits nowhere becomes smaller, and at last is left out."""
    while nodule.diameter_mm >= SMALLEST_MM:
        points = np.concatenate([sample_lung(rng, thorax, side, 200) for side in (1, -1)])
        if nodule.place == "vessel":
            thin = vessels.radii[:, 1] < 1.6
            points = vessels.last[thin] + rng.normal(0.0, 0.35 * nodule.radius_mm, (int(thin.sum()), 3))
        fits = _fits(points, nodule, thorax)
        for other in others:
            apart = 1.3 * (nodule.radius_mm + other.radius_mm) + 7.0
            fits &= ((points - other.centre_mm) ** 2).sum(axis=1) > apart**2
        if fits.any():
            return replace(nodule, centre_mm=points[rng.choice(np.flatnonzero(fits))])
        nodule = replace(nodule, diameter_mm=0.85 * nodule.diameter_mm)
    return None


def _fits(points: Points, nodule: Nodule, thorax: Thorax) -> NDArray[np.bool_]:
    """Whether a centre leaves the nodule inside the lung, or just touching the chest wall."""
    radius, grid = nodule.radius_mm, points_grid(points)
    pleura, wall = lung_distance(thorax, grid), cavity_distance(thorax, grid)
    inside = points[:, 2] > -0.85 * thorax.half_height
    if nodule.place == "pleura":
        touching = (pleura < -0.65 * radius) & (pleura > -0.92 * radius)
        return np.asarray(touching & (np.abs(wall - pleura) < 0.15 * radius) & inside)
    return np.asarray((pleura < -1.25 * radius - 2.5) & inside)


def nodule_distance(nodule: Nodule, grid: WorldGrid) -> Field:
    """Distance to the surface of a nodule, mm: a stretched sphere with bumps, of the volume drawn for it."""
    offset = np.stack([grid.x, grid.y, grid.z], axis=-1) - nodule.centre_mm
    offset = np.asarray(offset / nodule.axes, dtype=np.float32)
    length = np.sqrt((offset**2).sum(axis=-1))
    surface = _surface(nodule, offset / np.maximum(length, 1e-6)[..., None])
    # Mean of the cubed radius over the sphere: dividing by its root keeps the volume.
    mean_cube = float((_surface(nodule, _even_directions()) ** 3).mean())
    return np.asarray(length - nodule.radius_mm * surface / np.cbrt(mean_cube), dtype=np.float32)


def _surface(nodule: Nodule, directions: Field) -> Field:
    """Radius in each direction (..., 3), as a share of the plain sphere's."""
    out: Field = np.ones(directions.shape[:-1], dtype=directions.dtype)
    for x, y, z, height, sharpness in nodule.lobes:
        cosine = directions @ np.array([x, y, z], dtype=directions.dtype)
        out += height * np.exp(sharpness * (cosine - 1))
    return out


def _even_directions(count: int = 400) -> Points:
    """Unit vectors that cover the sphere evenly (Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    height, turn = 1 - 2 * index / count, index * np.pi * (1 + 5**0.5)
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=-1)


def paint_nodule(hu: Field, nodule: Nodule, grid: WorldGrid, pleura: Field, texture: Field) -> None:
    """Draws a nodule into `hu`, in place, as far as it lies in the lung.

    Args:
        hu: (X, Y, Z).
        nodule: What to draw.
        grid: Of `hu`.
        pleura: (X, Y, Z) distance to the pleura, mm.
        texture: (X, Y, Z) smooth noise of standard deviation 1.
    """
    box = grid.box(nodule.centre_mm, [1.8 * nodule.radius_mm + 8.0] * 3)
    part, width = grid.crop(box), grid.voxel_mm
    distance = nodule_distance(nodule, part)
    in_lung = coverage(pleura[box], width)
    spread = 24.0 if nodule.kind == "solid" else 60.0
    for spike in nodule.spikes:
        outwards = spike / np.linalg.norm(spike)
        root = nodule.centre_mm + 0.8 * nodule.radius_mm * outwards
        off, along = axis_distance(part, root, root + spike + 0.35 * nodule.radius_mm * outwards)
        share = np.clip(0.5 + (1.3 * (1 - along) - off) / width, 0, 1) * 0.8
        paint(hu[box], share * in_lung, min(nodule.hu, -100.0))
    edge = width if nodule.kind == "solid" else width + 0.15 * nodule.radius_mm
    paint(hu[box], coverage(distance, edge) * in_lung, nodule.hu + spread * texture[box])
    if nodule.core > 0:
        core = distance + (1 - nodule.core) * nodule.radius_mm
        paint(hu[box], coverage(core, width) * in_lung, nodule.core_hu + 20.0 * texture[box])
