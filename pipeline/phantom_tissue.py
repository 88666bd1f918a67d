"""Hounsfield units of the phantom's body, without what lies inside the lungs."""

from __future__ import annotations

import numpy as np

from pipeline.phantom_anatomy import (
    AIR_HU,
    Box,
    Field,
    Thorax,
    WorldGrid,
    body_distance,
    box_column_distance,
    cavity_distance,
    column_distance,
    diaphragm_height,
    ellipsoid_distance,
    heart_distance,
    lung_distance,
    spine_position,
)

FAT_HU, MUSCLE_HU, BLOOD_HU, CORTEX_HU = -95.0, 52.0, 42.0, 480.0


def coverage(distance: Field, width_mm: float) -> Field:
    """Share of a voxel that lies inside a surface: the partial volume effect.

    Args:
        distance: Signed distance of the voxel's centre to the surface, mm.
        width_mm: Size of the voxel.
    """
    return np.asarray(np.clip(0.5 - distance / width_mm, 0.0, 1.0), dtype=np.float32)


def paint(hu: Field, share: Field, value: Field | float) -> None:
    """Mixes a tissue into `hu` in place, `share` of each voxel."""
    hu += share * (value - hu)


def draw_body(thorax: Thorax, grid: WorldGrid, texture: Field) -> tuple[Field, Field]:
    """Draws the whole body with empty lungs.

    Args:
        thorax: The patient.
        grid: Where to sample.
        texture: (X, Y, Z) smooth noise of mean 0 and standard deviation 1.

    Returns:
        HU, and the distance to the pleura in mm; both (X, Y, Z).
    """
    voxel = grid.voxel_mm
    hu = np.full(grid.x.shape, AIR_HU, dtype=np.float32)
    skin = body_distance(thorax, grid)
    cavity = cavity_distance(thorax, grid)
    _draw_couch(hu, thorax, grid)
    paint(hu, coverage(skin, voxel), 30.0)
    paint(hu, coverage(skin + 2.0 * thorax.scale, voxel), FAT_HU + 8 * texture)
    _draw_wall(hu, thorax, grid, skin, texture)
    middle = _middle(thorax, grid)
    _draw_mediastinum(hu[middle], thorax, grid.crop(middle), cavity[middle], texture[middle])
    _draw_abdomen(hu, thorax, grid, cavity, texture)
    _draw_ribs(hu, thorax, grid, cavity)
    _draw_spine(hu[middle], thorax, grid.crop(middle), texture[middle])
    pleura = lung_distance(thorax, grid)
    paint(hu, coverage(pleura, voxel), _parenchyma(thorax, grid, pleura, texture))
    _draw_airways(hu[middle], thorax, grid.crop(middle))
    return hu, pleura


def _middle(thorax: Thorax, grid: WorldGrid) -> Box:
    """The part of the grid with heart, spine and windpipe: drawing there alone is three times faster."""
    return grid.box((0.0, 0.0, 0.0), (0.56 * thorax.half_width, thorax.half_depth, 1e4))


def _draw_couch(hu: Field, thorax: Thorax, grid: WorldGrid) -> None:
    """The table below the patient: a thin bent shell outside of the body."""
    sag = 0.12 * thorax.half_depth * (grid.x / thorax.half_width) ** 2
    below = grid.y + 1.06 * thorax.half_depth - sag
    paint(hu, coverage(np.abs(below) - 1.2, grid.voxel_mm), -350.0)


def _draw_wall(hu: Field, thorax: Thorax, grid: WorldGrid, skin: Field, texture: Field) -> None:
    """Muscles with streaks of fat, thicker fat at the sides, and the shoulder blades."""
    sideways = (grid.x / thorax.half_width) ** 2
    depth = thorax.fat * (0.75 + 0.5 * sideways)
    paint(hu, coverage(skin + depth, grid.voxel_mm), MUSCLE_HU + 10 * texture)
    between = np.abs(skin + depth + 0.45 * thorax.wall) - 0.8 * thorax.scale
    paint(hu, coverage(between, grid.voxel_mm) * np.clip(texture, 0, 1), FAT_HU)
    around = np.arctan2(np.abs(grid.x) / thorax.half_width, -grid.y / thorax.half_depth)
    plate = np.maximum(np.abs(skin + depth + 4.0 * thorax.scale) - 2.2 * thorax.scale, 0)
    ends = thorax.half_width * np.maximum(np.abs(around - 0.85) - 0.3, 0.1 - grid.z / thorax.half_height)
    paint(hu, coverage(np.maximum(plate - 0.3, ends), grid.voxel_mm), 380.0)


def _draw_mediastinum(hu: Field, thorax: Thorax, grid: WorldGrid, cavity: Field, texture: Field) -> None:
    """Fat with the heart, the great vessels and the gullet in it."""
    a, b, h, voxel = thorax.half_width, thorax.half_depth, thorax.half_height, grid.voxel_mm
    paint(hu, coverage(cavity + 2.0 * thorax.scale, voxel), -25.0 + 45 * texture)
    heart = heart_distance(thorax, grid)
    paint(hu, coverage(heart + 5.0 * thorax.scale, voxel), BLOOD_HU + 4 * texture)
    upper = grid.z > -0.1 * h
    for x, y, radius in ((0.10, 0.22, 0.075), (-0.04, 0.30, 0.09), (0.06, 0.50, 0.05), (-0.13, 0.14, 0.06)):
        tube = column_distance(grid.x - x * a, grid.y - y * b, radius * a, radius * a)
        paint(hu, coverage(tube, voxel) * upper, BLOOD_HU)
    arch = ellipsoid_distance(grid, (-0.10 * a, 0.02 * b, 0.24 * h), (0.12 * a, 0.34 * b, 0.10 * h))
    trunk = ellipsoid_distance(grid, (-0.10 * a, 0.20 * b, 0.02 * h), (0.15 * a, 0.14 * b, 0.12 * h))
    aorta = column_distance(grid.x + 0.15 * a, grid.y + 0.40 * b, 0.08 * a, 0.08 * a)
    gullet = column_distance(grid.x + 0.03 * a, grid.y + 0.30 * b, 0.05 * a, 0.035 * a)
    paint(hu, coverage(arch, voxel), BLOOD_HU + 3)
    paint(hu, coverage(trunk, voxel), BLOOD_HU + 3)
    paint(hu, coverage(aorta, voxel) * (grid.z < 0.28 * h), BLOOD_HU + 3)
    paint(hu, coverage(gullet, voxel), 30.0)


def _draw_abdomen(hu: Field, thorax: Thorax, grid: WorldGrid, cavity: Field, texture: Field) -> None:
    """Below the diaphragm: liver on the right, spleen and fat on the left."""
    a, b, h, voxel = thorax.half_width, thorax.half_depth, thorax.half_height, grid.voxel_mm
    depth = grid.z - diaphragm_height(thorax, grid)
    below = coverage(np.maximum(depth, cavity + 2.0 * thorax.scale), voxel)
    paint(hu, below, FAT_HU + 12 * texture)
    liver = np.maximum(-0.30 * a - grid.x, depth + 3.0 * thorax.scale)
    paint(hu, below * coverage(liver, voxel), 58.0 + 5 * texture)
    spleen = ellipsoid_distance(grid, (-0.52 * a, -0.36 * b, -0.95 * h), (0.24 * a, 0.34 * b, 0.36 * h))
    paint(hu, below * coverage(spleen, voxel), 48.0)
    stomach = ellipsoid_distance(grid, (-0.42 * a, 0.28 * b, -1.0 * h), (0.26 * a, 0.34 * b, 0.30 * h))
    paint(hu, below * coverage(stomach, voxel), 25.0 + 15 * texture)


def _draw_ribs(hu: Field, thorax: Thorax, grid: WorldGrid, cavity: Field) -> None:
    """Curved tubes outside of the pleura which fall from spine to front, where they turn to cartilage."""
    radius_x, radius_y = thorax.cavity
    size = thorax.scale
    apart = 34.0 * size
    around = np.arctan2(np.abs(grid.x) / radius_x, -grid.y / radius_y) / np.pi
    height = grid.z + 0.75 * radius_x * around - thorax.rib_phase * apart
    from_axis = np.mod(height + apart / 2, apart) - apart / 2
    tube = np.hypot(cavity - 6.5 * size, from_axis / 1.35)
    bony = coverage(10.0 * (around - 0.80) * radius_x, grid.voxel_mm)
    front = coverage(radius_x * 3.0 * (around - 0.93), grid.voxel_mm)
    paint(hu, coverage(tube - 5.2 * size, grid.voxel_mm) * front, 95.0 + bony * (CORTEX_HU - 95.0))
    paint(hu, coverage(tube - 2.6 * size, grid.voxel_mm) * bony, thorax.bone_hu)
    sternum = box_column_distance(grid.x, grid.y - radius_y - 7.0 * size, 19.0 * size, 6.0 * size)
    paint(hu, coverage(sternum, grid.voxel_mm), 330.0)
    paint(hu, coverage(sternum + 2.5 * size, grid.voxel_mm), thorax.bone_hu - 40)


def _draw_spine(hu: Field, thorax: Thorax, grid: WorldGrid, texture: Field) -> None:
    """Vertebral bodies with discs between them, the canal, and the processes behind it."""
    size, voxel = thorax.scale, grid.voxel_mm
    swing, spine_y = spine_position(thorax, grid.z)
    x, y = grid.x - swing, grid.y - spine_y
    apart = 34.0 * size
    in_disc = np.abs(np.mod(grid.z + thorax.rib_phase * apart, apart) - apart / 2) - 3.5 * size
    arch = column_distance(np.abs(x) - 14.0 * size, y + 23.0 * size, 15.0 * size, 7.5 * size)
    thorn = column_distance(x, y + 36.0 * size, 4.5 * size, 14.0 * size)
    behind = np.minimum(arch, thorn)
    bone = coverage(-in_disc, voxel)
    paint(hu, coverage(behind, voxel) * (0.45 + 0.55 * bone), 400.0)
    paint(hu, coverage(behind + 4.0 * size, voxel), thorax.bone_hu)
    body = box_column_distance(x, y, 19.5 * size, 16.0 * size)
    paint(hu, coverage(body, voxel), 85.0 + bone * 290.0)
    inner = coverage(np.maximum(body + 3.0 * size, 2.0 * size - in_disc), voxel)
    paint(hu, inner, thorax.bone_hu + 22 * texture)
    canal = column_distance(x, y + 24.0 * size, 10.5 * size, 8.5 * size)
    paint(hu, coverage(canal, voxel), 15.0)
    paint(hu, coverage(canal + 4.0 * size, voxel), 38.0)


def _parenchyma(thorax: Thorax, grid: WorldGrid, pleura: Field, texture: Field) -> Field:
    """Air and fine tissue: denser at the back, where the lungs rest, with one oblique fissure a side."""
    back = -grid.y / thorax.cavity[1]
    dependent = 110.0 * np.clip(1 + pleura / (6.0 * thorax.scale), 0, 1) * np.clip(back - 0.45, 0, 1)
    fissure = np.abs(0.75 * grid.y - 0.65 * grid.z - 0.12 * thorax.half_depth) - 0.25
    line = 90.0 * coverage(np.asarray(fissure, dtype=np.float32), grid.voxel_mm)
    hu = thorax.lung_hu + thorax.gradient_hu * back + 22.0 * texture + dependent + line
    return np.asarray(hu, dtype=np.float32)


def _draw_airways(hu: Field, thorax: Thorax, grid: WorldGrid) -> None:
    """Windpipe and main bronchi: tubes of air with a thin wall."""
    a, b, h = thorax.half_width, thorax.half_depth, thorax.half_height
    fork = np.array([0.0, -0.06 * b, 0.10 * h])
    ends = {
        0.058: np.array([0.0, -0.02 * b, 2.0 * h]),
        0.046: np.array([0.27 * a, -0.10 * b, -0.12 * h]),
        0.042: np.array([-0.30 * a, -0.10 * b, -0.10 * h]),
    }
    tubes = [(axis_distance(grid, fork, end)[0] - radius * a, end) for radius, end in ends.items()]
    for tube, _ in tubes:
        paint(hu, coverage(tube - 1.8 * thorax.scale, grid.voxel_mm), 20.0)
    for tube, _ in tubes:
        paint(hu, coverage(tube, grid.voxel_mm), -985.0)


def axis_distance(grid: WorldGrid, first: Field, last: Field) -> tuple[Field, Field]:
    """Distance to a straight piece of line, mm, and where along it the nearest point lies, 0 to 1."""
    # Plain floats: a float64 scalar of NumPy would widen the whole grid.
    x0, y0, z0 = (float(v) for v in first)
    dx, dy, dz = (float(v) for v in last - first)
    x, y, z = grid.x - x0, grid.y - y0, grid.z - z0
    share = (x * dx + y * dy + z * dz) / max(dx * dx + dy * dy + dz * dz, 1e-6)
    share = np.minimum(np.maximum(share, 0), 1)
    x, y, z = x - share * dx, y - share * dy, z - share * dz
    return np.sqrt(x * x + y * y + z * z), share
