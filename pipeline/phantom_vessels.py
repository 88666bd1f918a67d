"""Vessels of the phantom's lungs: trees that branch from the hila and taper to the pleura."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.phantom_anatomy import Field, Thorax, WorldGrid, lung_distance
from pipeline.phantom_tissue import axis_distance

Points = NDArray[np.float64]

LEAF_RADIUS_MM, ROOT_RADIUS_MM = 0.9, 3.0


@dataclass(frozen=True)
class Vessels:
    """Straight pieces of tube.

    Attributes:
        first: (n, 3) world mm of the end nearer to the heart; `last` of the other end.
        radii: (n, 2) mm at both ends.
    """

    first: Points
    last: Points
    radii: Points


def points_grid(points: Points) -> WorldGrid:
    """Single world points (n, 3) as a grid, so that distances can be asked there."""
    x, y, z = np.asarray(points, dtype=np.float32).T
    return WorldGrid(x, y, z, np.eye(4), 1.0)


def sample_lung(rng: np.random.Generator, thorax: Thorax, side: int, count: int) -> Points:
    """Draws points (n <= count, 3) evenly in one lung.

    Args:
        rng: Of the patient.
        thorax: The patient.
        side: 1 right, -1 left.
        count: Points before those outside of the lung are dropped.
    """
    radius_x, radius_y = thorax.cavity
    low = np.array([0.0, -radius_y, -1.2 * thorax.half_height])
    high = np.array([radius_x, radius_y, 1.05 * thorax.half_height])
    points = rng.uniform(low, high, (count, 3)) * (side, 1, 1)
    return points[lung_distance(thorax, points_grid(points)) < 0]


def draw_vessels(rng: np.random.Generator, thorax: Thorax, branches: int = 75) -> Vessels:
    """Grows an arterial and a venous tree in each lung.

    Args:
        rng: Of the patient.
        thorax: The patient.
        branches: Twigs a tree.
    """
    a, b, h = thorax.half_width, thorax.half_depth, thorax.half_height
    trees = []
    for side in (1, -1):
        for height, depth in ((0.04, -0.02), (-0.10, -0.12)):
            root = np.array([side * 0.20 * a, depth * b, height * h])
            trees.append(_grow_tree(rng, thorax, root, side, branches))
    return Vessels(
        np.concatenate([t.first for t in trees]),
        np.concatenate([t.last for t in trees]),
        np.concatenate([t.radii for t in trees]),
    )


def _grow_tree(rng: np.random.Generator, thorax: Thorax, root: Points, side: int, branches: int) -> Vessels:
    """Connects twig ends, nearest first, to the cheapest place of the tree; thickness follows Murray's law.

    Source: C. D. Murray, PNAS 12:207 (1926): the cubes of the radii add up where vessels join.
    """
    ends = sample_lung(rng, thorax, side, 12 * branches)[:branches]
    ends = ends[np.argsort(((ends - root) ** 2).sum(axis=1))]
    nodes, parents, lengths = [root], [-1], [0.0]
    for end in ends:
        tree = np.array(nodes)
        reach = np.sqrt(((tree - end) ** 2).sum(axis=1))
        # A little of the way back to the heart counts too: no zigzag from twig to twig.
        parent = int(np.argmin(reach + 0.45 * np.array(lengths)))
        pieces = max(1, round(float(reach[parent]) / 9.0))
        start, total = tree[parent], float(reach[parent])
        bend = rng.normal(0.0, 0.10 * total, 3)
        for step in range(1, pieces + 1):
            t = step / pieces
            nodes.append(start + t * (end - start) + np.sin(np.pi * t) * bend)
            lengths.append(lengths[parent] + float(np.linalg.norm(nodes[-1] - nodes[parent])))
            parents.append(parent)
            parent = len(nodes) - 1
    return _as_tubes(np.array(nodes), parents)


def _as_tubes(nodes: Points, parents: list[int]) -> Vessels:
    """Gives each piece its radii: leaves are thinnest, cubes add up towards the root, which is limited."""
    cubes = np.zeros(len(nodes))
    joined = np.bincount([p for p in parents if p >= 0], minlength=len(nodes))
    cubes[joined == 0] = LEAF_RADIUS_MM**3
    for node in range(len(nodes) - 1, 0, -1):
        cubes[parents[node]] += cubes[node]
    radii = np.minimum(np.cbrt(cubes), ROOT_RADIUS_MM)
    last = np.arange(1, len(nodes))
    first = np.array(parents[1:])
    # The near end of a twig has its own radius, not that of the trunk it leaves.
    near = np.minimum(radii[first], 1.25 * radii[last])
    return Vessels(nodes[first], nodes[last], np.stack([near, radii[last]], axis=1))


def vessel_share(vessels: Vessels, grid: WorldGrid) -> Field:
    """Share of each voxel that is vessel, 0 to 1.

    A tube thinner than a voxel never fills it: its share falls with the square root of its cross-section.
    """
    share = np.zeros(grid.x.shape, dtype=np.float32)
    width = grid.voxel_mm
    for first, last, (near, far) in zip(vessels.first, vessels.last, vessels.radii.tolist(), strict=True):
        reach = np.abs(last - first) / 2 + max(near, far) + width
        box = grid.box((first + last) / 2, reach)
        part = grid.crop(box)
        if part.x.size == 0:
            continue
        off, along = axis_distance(part, first, last)
        radius = near + along * (far - near)
        inside = np.minimum(np.maximum(0.5 + (radius - off) / width, 0), 1)
        share[box] = np.maximum(share[box], inside * np.minimum(1.0, 2 * radius / width))
    return share
