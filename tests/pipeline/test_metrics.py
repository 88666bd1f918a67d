"""Metrics of a mask pair: by hand and by properties; `test_metrics_real` has other implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from pipeline import metrics
from pipeline.metrics import Counts, Mask

NAN = math.nan
COUNTED = ("dice", "jaccard", "precision", "recall", "specificity", "f1", "accuracy", "relative_volume_error")


def box(shape: tuple[int, ...], start: tuple[int, ...], stop: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def sphere(shape: tuple[int, ...], spacing: tuple[float, ...], radius_mm: float) -> Mask:
    middle = [n // 2 for n in shape]
    steps = [(np.arange(n) - m) * s for n, m, s in zip(shape, middle, spacing, strict=True)]
    x, y, z = np.meshgrid(*steps, indexing="ij")
    return np.asarray(x**2 + y**2 + z**2 <= radius_mm**2)


def test_two_cubes_two_mm_apart() -> None:
    # Cubes of 4 voxels a side, 64 voxels and 56 on the boundary each, 2 mm apart along x: 32 in common.
    # Of a cube's boundary, the outer face (16) lies 2 mm from the other surface; the ring behind it (12) and
    # the middle of the inner face (4) 1 mm; the rest (24) on it.
    first, second = box((12, 8, 8), (2, 2, 2), (6, 6, 6)), box((12, 8, 8), (4, 2, 2), (8, 6, 6))
    counts = metrics.count_voxels(first, second)
    assert counts == Counts(32, 32, 32, 12 * 8 * 8 - 96)
    assert metrics.dice(counts) == 0.5
    assert metrics.jaccard(counts) == pytest.approx(1 / 3)
    assert (metrics.precision(counts), metrics.recall(counts), metrics.f1(counts)) == (0.5, 0.5, 0.5)
    assert metrics.specificity(counts) == pytest.approx(672 / 704)
    assert metrics.accuracy(counts) == pytest.approx(704 / 768)
    assert metrics.volume_error_mm3(counts, (1, 1, 1)) == 0
    distances = metrics.surface_distances(first, second, (1, 1, 1))
    assert sorted(distances.reference_to_prediction) == [0.0] * 24 + [1.0] * 16 + [2.0] * 16
    assert metrics.hd95_mm(distances) == 2.0
    assert metrics.assd_mm(distances) == pytest.approx(48 / 56)
    shares = [metrics.surface_dice(distances, tolerance) for tolerance in (0.5, 1, 2)]
    assert shares == pytest.approx([24 / 56, 40 / 56, 1.0])


def test_sphere_of_known_volume() -> None:
    shape, spacing = (50, 50, 26), (0.5, 0.5, 1.0)
    small, large = sphere(shape, spacing, 9), sphere(shape, spacing, 10)
    counts = metrics.count_voxels(large, small)
    volume, shell = 4 / 3 * math.pi * 10**3, 4 / 3 * math.pi * (10**3 - 9**3)
    assert counts.reference * 0.25 == pytest.approx(volume, rel=0.01)
    assert metrics.volume_error_mm3(counts, spacing) == pytest.approx(-shell, rel=0.03)
    assert metrics.relative_volume_error(counts) == pytest.approx(-shell / volume, rel=0.03)
    distances = metrics.surface_distances(large, small, spacing)
    assert metrics.assd_mm(distances) == pytest.approx(1.0, abs=0.15)
    assert metrics.hd95_mm(distances) == pytest.approx(1.0, abs=0.5)


def test_distances_follow_anisotropic_spacing() -> None:
    first, second = box((5, 5, 9), (2, 2, 2), (3, 3, 3)), box((5, 5, 9), (3, 2, 6), (4, 3, 7))
    distances = metrics.surface_distances(first, second, (3.0, 0.5, 1.0))
    assert metrics.hd95_mm(distances) == 5.0  # 1 x 3 mm and 4 x 1 mm
    assert metrics.assd_mm(distances) == 5.0
    assert metrics.volume_error_mm3(metrics.count_voxels(first, ~first), (3.0, 0.5, 1.0)) == 1.5 * 223


def test_hd95_is_the_larger_direction_and_assd_counts_voxels() -> None:
    # Reference: 1 voxel; prediction: that one and one 10 mm away. Directed percentiles: 0 and 9.5.
    one = box((12, 3, 3), (0, 0, 0), (1, 1, 1))
    two = one | box((12, 3, 3), (10, 0, 0), (11, 1, 1))
    distances = metrics.surface_distances(one, two, (1, 1, 1))
    assert metrics.hd95_mm(distances) == pytest.approx(9.5)
    assert metrics.assd_mm(distances) == pytest.approx(10 / 3)  # not (0 + 5) / 2


NOTHING = np.zeros((4, 4, 4), dtype=bool)
SOME = box((4, 4, 4), (1, 1, 1), (3, 3, 3))  # 8 of 64 voxels


@pytest.mark.parametrize(
    ("reference", "prediction", "counted", "volume_error", "distance", "surface_dice"),
    [
        pytest.param(NOTHING, NOTHING, (NAN,) * 8, 0, NAN, NAN, id="both empty"),
        pytest.param(SOME, NOTHING, (0, 0, 0, 0, 1, 0, 56 / 64, -1), -16, NAN, 0, id="prediction empty"),
        pytest.param(NOTHING, SOME, (0, 0, 0, 0, 56 / 64, 0, 56 / 64, NAN), 16, NAN, 0, id="reference empty"),
        pytest.param(SOME, SOME, (1, 1, 1, 1, 1, 1, 1, 0), 0, 0, 1, id="equal"),
        pytest.param(~NOTHING, ~NOTHING, (1, 1, 1, 1, NAN, 1, 1, 0), 0, 0, 1, id="all foreground"),
    ],
)
def test_empty_masks(
    reference: Mask,
    prediction: Mask,
    counted: tuple[float, ...],
    volume_error: float,
    distance: float,
    surface_dice: float,
) -> None:
    counts = metrics.count_voxels(reference, prediction)
    values = {name: getattr(metrics, name)(counts) for name in COUNTED}
    assert values == pytest.approx(dict(zip(COUNTED, counted, strict=True)), nan_ok=True)
    assert metrics.volume_error_mm3(counts, (1, 1, 2)) == volume_error
    distances = metrics.surface_distances(reference, prediction, (1, 1, 2))
    found = [metrics.hd95_mm(distances), metrics.assd_mm(distances), metrics.surface_dice(distances, 1.0)]
    assert found == pytest.approx([distance, distance, surface_dice], nan_ok=True)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_is_measured_by_its_contour(axis: int) -> None:
    square = np.expand_dims(np.pad(np.ones((6, 6), dtype=bool), 3), axis)
    moved = np.roll(square, 2, axis=(axis + 1) % 3)
    distances = metrics.surface_distances(square, moved, (1, 1, 1))
    assert len(distances.reference_to_prediction) == 20  # of 36 pixels
    assert metrics.hd95_mm(distances) == 2.0


def test_tolerance_forgives_the_rounding_of_headers() -> None:
    step = float(np.float32(0.4)) * (1 + 1e-7)  # 5 steps: a little more than 2 mm
    first, second = box((9, 3, 3), (1, 1, 1), (2, 2, 2)), box((9, 3, 3), (6, 1, 1), (7, 2, 2))
    distances = metrics.surface_distances(first, second, (step, 1, 1))
    assert metrics.hd95_mm(distances) > 2.0
    assert metrics.surface_dice(distances, 2.0) == 1.0
    assert metrics.surface_dice(distances, 1.99) == 0.0


masks = st.integers(0, 2**32 - 1).map(
    lambda seed: (
        np.random.default_rng(seed).random((2, 5, 6, 7)) < np.random.default_rng(seed + 1).random() ** 2
    )
)
spacings = st.tuples(*[st.sampled_from([0.4, 0.7, 1.0, 3.3])] * 3)


def full_grid_distances(first: Mask, second: Mask, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """The slow road: distance transform of the whole grid, without cropping or trees."""
    edge = [np.pad(m, 1) & ~ndimage.binary_erosion(np.pad(m, 1)) for m in (first, second)]
    distance = ndimage.distance_transform_edt(~edge[1], sampling=spacing)
    return np.asarray(distance[edge[0]])


@settings(max_examples=60, deadline=None)
@given(pair=masks, spacing=spacings)
def test_distances_equal_a_distance_transform_of_the_whole_grid(
    pair: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> None:
    first, second = pair
    found = metrics.surface_distances(first, second, spacing)
    if found.defined:
        expected = full_grid_distances(first, second, spacing)
        np.testing.assert_allclose(found.reference_to_prediction, expected, rtol=1e-12)
        expected = full_grid_distances(second, first, spacing)
        np.testing.assert_allclose(found.prediction_to_reference, expected, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(pair=masks, spacing=spacings, axis=st.integers(0, 2))
def test_symmetry_flips_and_identities(
    pair: NDArray[np.bool_], spacing: tuple[float, float, float], axis: int
) -> None:
    first, second = pair
    here, swapped = metrics.count_voxels(first, second), metrics.count_voxels(second, first)
    assert metrics.f1(here) == pytest.approx(metrics.dice(here), nan_ok=True)
    assert metrics.precision(here) == pytest.approx(metrics.recall(swapped), nan_ok=True)
    assert metrics.volume_error_mm3(here, spacing) == -metrics.volume_error_mm3(swapped, spacing)
    if not here.both_empty:
        assert metrics.jaccard(here) == pytest.approx(metrics.dice(here) / (2 - metrics.dice(here)))
    surfaces = [
        metrics.surface_distances(first, second, spacing),
        metrics.surface_distances(second, first, spacing),
        metrics.surface_distances(np.flip(first, axis), np.flip(second, axis), spacing),
    ]
    for measure in (metrics.hd95_mm, metrics.assd_mm, lambda d: metrics.surface_dice(d, 1.0)):
        values = [measure(distances) for distances in surfaces]
        assert values == pytest.approx([values[0]] * 3, nan_ok=True)
