"""The phantom's scanner: grids against nibabel, orientations, and noise."""

from __future__ import annotations

from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.config import PhantomParams
from pipeline.phantom_scan import SITES, draw_scan, sample_grid, smooth_noise, to_orientation
from pipeline.volume import axis_codes, spacing_mm

SMALL = PhantomParams(
    datasets=["phantom"],
    cases=10,
    seed=2026,
    shape=(64, 64, 48),
    spacing_mm=(2.0, 2.0, 3.0),
    noise_hu=35.0,
)
ALL_CODES = ["".join(c) for axes in permutations(("RL", "AP", "SI")) for c in product(*axes)]


def oblique_affine(spacing: tuple[float, float, float], degrees: float) -> NDArray[np.float64]:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", [degrees, -degrees, degrees / 2], degrees=True).as_matrix()
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = -affine[:3, :3] @ (np.array([60, 60, 40]) / 2)
    return affine


@pytest.mark.parametrize("codes", ALL_CODES)
def test_every_orientation_keeps_each_voxel_in_its_place(codes: str) -> None:
    affine = oblique_affine((1.5, 2.0, 3.0), 6.0)
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    stored, stored_affine = to_orientation(array, affine, codes)
    assert "".join(nibabel.aff2axcodes(stored_affine)) == codes
    for index in product(range(2), range(3), range(4)):
        found = np.argwhere(stored == array[index])[0]
        assert stored_affine @ [*found, 1] == pytest.approx(affine @ [*index, 1], abs=1e-4)


def test_sample_grid_lies_where_nibabel_says() -> None:
    affine = oblique_affine((1.5, 2.0, 3.0), 6.0)
    grid = sample_grid((5, 6, 7), affine)
    expected = nibabel.affines.apply_affine(affine, [4, 2, 6])
    assert [grid.x[4, 2, 6], grid.y[4, 2, 6], grid.z[4, 2, 6]] == pytest.approx(expected, abs=1e-4)
    assert grid.voxel_mm == pytest.approx((1.5 * 2.0 * 3.0) ** (1 / 3))


def test_box_holds_all_voxels_near_a_point() -> None:
    grid = sample_grid((30, 30, 20), oblique_affine((2.0, 2.0, 3.0), 8.0))
    centre = np.array([-30.0, -25.0, -30.0])
    near = (grid.x - centre[0]) ** 2 + (grid.y - centre[1]) ** 2 + (grid.z - centre[2]) ** 2 < 8.0**2
    in_box = np.zeros(grid.x.shape, dtype=bool)
    in_box[grid.box(centre, [8.0] * 3)] = True
    assert near.any()
    assert not (near & ~in_box).any()
    assert in_box.sum() < 0.2 * in_box.size
    assert grid.crop(grid.box((900.0, 0.0, 0.0), [5.0] * 3)).x.size == 0


def test_scans_vary_as_promised() -> None:
    scans = [draw_scan(np.random.default_rng(i), SMALL, 0.83 + 0.34 * i / 79, "north") for i in range(80)]
    spacings = np.array([spacing_mm(scan.affine) for scan in scans]) / SMALL.spacing_mm
    assert spacings.min() >= 0.8 - 1e-9
    assert spacings.max() <= 1.2 + 1e-9
    assert np.ptp(spacings, axis=0).min() > 0.3
    heights = [scan.shape[2] * spacing_mm(scan.affine)[2] for scan in scans]
    assert heights == pytest.approx([48 * 3.0] * 80, rel=0.02)
    oblique = [np.abs(scan.affine[:3, :3]).astype(bool).sum() > 3 for scan in scans]
    assert 8 <= sum(oblique) <= 32
    assert len({scan.orientation for scan in scans}) >= 3
    assert {axis_codes(scan.affine) for scan in scans} == {"RAS"}


def test_sites_differ_in_grain() -> None:
    def neighbour_correlation(site: str) -> float:
        noise = smooth_noise(np.random.default_rng(1), (40, 40, 40), SITES[site].grain)
        assert noise.std() == pytest.approx(1.0)
        return float((noise[1:] * noise[:-1]).mean())

    assert 0.02 < neighbour_correlation("north") < neighbour_correlation("south") < 0.7
