"""Distances of the phantom's anatomy, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.phantom_anatomy import column_distance, ellipsoid_distance, smooth_maximum
from pipeline.phantom_tissue import axis_distance, coverage
from pipeline.phantom_vessels import points_grid


def test_distances_worked_by_hand() -> None:
    points = points_grid(np.array([[0.0, 3.0, 12.0], [0.0, 0.0, 4.0]]))
    # |(0, 3, 12) - (0, 3, 0)| = 12 outside of radius 10; |(0, 0, 4) - (0, 3, 0)| = 5 inside.
    assert ellipsoid_distance(points, (0, 3, 0), (10, 10, 10)) == pytest.approx([2.0, -5.0])
    assert column_distance(points.x, points.y, 2.0, 2.0)[0] == pytest.approx(1.0)
    off, along = axis_distance(points, np.array([4.0, 0, 0]), np.array([4.0, 0, 8.0]))
    assert off == pytest.approx([np.sqrt(16 + 9 + 16), 4.0])  # beyond the end: to the end point
    assert along == pytest.approx([1.0, 0.5])


def test_smooth_maximum_is_the_maximum_away_from_the_edge() -> None:
    first, second = np.array([5.0, 1.0]), np.array([1.0, 1.0])
    assert smooth_maximum(first, second, 2.0) == pytest.approx([5.0, 1.5])


def test_coverage_is_half_on_the_surface() -> None:
    assert coverage(np.array([-3.0, -0.5, 0.0, 1.0]), 2.0) == pytest.approx([1.0, 0.75, 0.5, 0.0])
