"""The scanner of the phantom: voxel grid, blur, noise, and the axes a case is stored with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pipeline.config import PhantomParams
from pipeline.phantom_anatomy import Field, WorldGrid
from pipeline.volume import Affine, from_canonical, spacing_mm

LOWEST_HU, HIGHEST_HU = -1024, 3071
ORIENTATIONS = {"RAS": 0.40, "LPS": 0.35, "LAS": 0.15, "PIR": 0.10}


@dataclass(frozen=True)
class Site:
    """A scanner.

    Attributes:
        blur_mm: Standard deviation of its point spread.
        noise: Its noise as a multiple of `phantom.noise_hu`.
        grain: How many voxels wide the grain of the noise is, a standard deviation.
    """

    blur_mm: float
    noise: float
    grain: float


SITES = {
    "north": Site(blur_mm=0.8, noise=1.1, grain=0.40),
    "south": Site(blur_mm=1.2, noise=0.85, grain=0.60),
}


@dataclass(frozen=True)
class Scan:
    """How one case is taken: `shape` and `affine` of a grid near RAS+, and the axis codes it is stored in."""

    shape: tuple[int, int, int]
    affine: Affine
    orientation: str
    site: str


def draw_scan(rng: np.random.Generator, params: PhantomParams, zoom: float, site: str) -> Scan:
    """Voxel size, obliqueness and orientation; the slices cover the same height whatever they are apart."""
    in_plane, apart = zoom * rng.uniform(0.98, 1.02), rng.uniform(0.8, 1.2)
    spacing = np.array(params.spacing_mm) * (in_plane, in_plane, apart)
    shape = (params.shape[0], params.shape[1], round(params.shape[2] / apart))
    angles = rng.uniform(-8.0, 8.0, 3) * (rng.uniform() < 0.25)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = rng.uniform(-3.0, 3.0, 3) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    orientation = str(rng.choice(list(ORIENTATIONS), p=list(ORIENTATIONS.values())))
    return Scan(shape, affine, orientation, site)


def sample_grid(shape: tuple[int, int, int], affine: Affine) -> WorldGrid:
    """World positions of the voxel centres of a grid.

    Args:
        shape: Voxels along its axes.
        affine: (4, 4), voxel index to world mm.
    """
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    x, y, z = (
        np.asarray(affine[w, 0] * i + affine[w, 1] * j + affine[w, 2] * k + affine[w, 3], dtype=np.float32)
        for w in range(3)
    )
    return WorldGrid(x, y, z, affine, float(np.cbrt(abs(np.linalg.det(affine[:3, :3])))))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> Field:
    """Gaussian noise of mean 0 and standard deviation 1 whose grain is `width` voxels wide."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), width, mode="wrap")
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float32)


def acquire(rng: np.random.Generator, hu: Field, scan: Scan, noise_hu: float) -> Field:
    """Blur and noise of the scanner, in whole HU."""
    site = SITES[scan.site]
    blurred = ndimage.gaussian_filter(hu, [site.blur_mm / s for s in spacing_mm(scan.affine)], mode="nearest")
    noise = smooth_noise(rng, hu.shape, site.grain) * (noise_hu * site.noise)
    return np.asarray(np.clip(np.rint(blurred + noise), LOWEST_HU, HIGHEST_HU), dtype=np.float32)


def to_orientation(array: NDArray[Any], affine: Affine, codes: str) -> tuple[NDArray[Any], Affine]:
    """Stores a grid near RAS+ with other axes: each voxel keeps its value and its place in the world.

    Args:
        array: (..., X, Y, Z) along R, A, S.
        affine: (4, 4) of `array`.
        codes: Direction of each stored axis, such as "LPS" or "PIR".
    """
    stored = affine.copy()
    for axis, code in enumerate(codes):
        world = next(w for w, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        flipped = code in "LPI"
        stored[:3, axis] = affine[:3, world] * (-1 if flipped else 1)
        if flipped:
            stored[:3, 3] += affine[:3, world] * (array.shape[array.ndim - 3 + world] - 1)
    # NIfTI keeps single precision: rounded here, the affine in memory is the one in the file.
    stored = stored.astype(np.float32).astype(np.float64)
    return np.ascontiguousarray(from_canonical(array, stored)), stored
