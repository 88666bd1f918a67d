"""Nodules of the phantom: volumes by formula, and what is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.phantom_anatomy import draw_thorax
from pipeline.phantom_nodules import Nodule, draw_nodules, nodule_distance
from pipeline.phantom_scan import sample_grid
from pipeline.phantom_vessels import draw_vessels

PLAIN_NODULE = Nodule(
    centre_mm=np.array([1.3, -2.1, 0.4]),
    diameter_mm=20.0,
    kind="solid",
    place="free",
    axes=np.ones(3),
    lobes=np.zeros((0, 5)),
    spikes=np.zeros((0, 3)),
    hu=30.0,
    core_hu=0.0,
    core=0.0,
)


def oblique_affine(spacing: tuple[float, float, float], degrees: float) -> NDArray[np.float64]:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", [degrees, -degrees, degrees / 2], degrees=True).as_matrix()
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = -affine[:3, :3] @ (np.array([60, 60, 40]) / 2)
    return affine


@pytest.mark.parametrize("degrees", [0.0, 7.0])
def test_a_nodule_without_bumps_is_a_sphere_of_its_diameter(degrees: float) -> None:
    spacing = (0.6, 0.6, 0.9)
    grid = sample_grid((60, 60, 40), oblique_affine(spacing, degrees))
    volume = int((nodule_distance(PLAIN_NODULE, grid) < 0).sum()) * np.prod(spacing)
    assert volume == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.01)


def test_bumps_and_stretch_keep_the_volume() -> None:
    lobes = np.array([[1, 0, 0, 0.5, 8.0], [0, 0.6, 0.8, 0.3, 15.0], [0, -1, 0, 0.2, 4.0]])
    bumpy = replace(PLAIN_NODULE, lobes=lobes, axes=np.array([1.25, 0.8, 1.0]))
    grid = sample_grid((60, 60, 40), oblique_affine((0.6, 0.6, 0.9), 0.0))
    inside = nodule_distance(bumpy, grid) < 0
    assert int(inside.sum()) * 0.6 * 0.6 * 0.9 == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.02)
    plain = nodule_distance(PLAIN_NODULE, grid) < 0
    assert (inside != plain).sum() > 0.1 * plain.sum()


def test_numbers_and_diameters() -> None:
    drawn = []
    for number in range(40):
        rng = np.random.default_rng(number)
        thorax = draw_thorax(rng, (224.0, 192.0, 144.0))
        drawn.append(draw_nodules(rng, thorax, draw_vessels(rng, thorax, branches=20)))
    counts = [len(nodules) for nodules in drawn]
    assert min(counts) == 0
    assert max(counts) in (5, 6)
    assert 1 <= counts.count(0) <= 10
    assert sum(1 <= count <= 4 for count in counts) > 20
    diameters = [nodule.diameter_mm for nodules in drawn for nodule in nodules]
    assert min(diameters) >= 4.0
    assert max(diameters) <= 30.0
    assert 0.6 < np.mean([d >= 8 for d in diameters]) < 1.0
    nodules = [nodule for several in drawn for nodule in several]
    assert {nodule.kind for nodule in nodules} == {"solid", "part_solid", "ground_glass"}
    assert {nodule.place for nodule in nodules} == {"free", "vessel", "pleura"}
    assert all(nodule.hu > -10 for nodule in nodules if nodule.kind == "solid")
    assert all(-500 <= nodule.hu <= -250 for nodule in nodules if nodule.kind == "ground_glass")
