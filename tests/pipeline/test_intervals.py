"""Means with intervals, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.intervals import Estimate, draw_patients, estimate

NAN = math.nan


def test_draws_hold_as_many_patients_as_there_are() -> None:
    draws = draw_patients(7, 500, seed=1)
    assert draws.shape == (500, 7)
    assert set(draws.sum(axis=1)) == {7.0}
    assert draws.mean() == 1.0
    # Each patient is left out of a share of (6/7)^7 of the resamples.
    assert (draws == 0).mean() == pytest.approx((6 / 7) ** 7, abs=0.03)
    assert (draw_patients(7, 500, seed=1) == draws).all()
    assert (draw_patients(7, 500, seed=2) != draws).any()


def test_means_and_ends_worked_out_by_hand() -> None:
    # Patient 0 has the cases 1 and 3, patient 1 the case 8. The three resamples: both, 0 twice, 1 twice.
    values = np.array([[1.0], [3.0], [8.0]])
    draws = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    overall, (only,) = estimate(values, np.array([0, 0, 1]), draws)
    # Means 4, 2 and 8; the percentiles lie 5 % of the way from the end to the middle one.
    assert only == Estimate(pytest.approx(4.0), pytest.approx(2.1), pytest.approx(7.8), 3)
    assert overall == only


def test_undefined_values_are_left_out_and_counted() -> None:
    values = np.array([[0.5, NAN, NAN], [0.7, 0.2, NAN], [NAN, NAN, NAN]])
    overall, (first, second, third) = estimate(values, np.array([0, 1, 2]), draw_patients(3, 200, seed=1))
    assert (first.mean, first.n) == (pytest.approx(0.6), 2)
    assert (first.low, first.high) == (0.5, 0.7)
    assert second == Estimate(0.2, None, None, 1)
    assert third == Estimate(None, None, None, 0)
    assert (overall.mean, overall.n) == (pytest.approx(0.4), 2)


def test_without_cases_nothing_is_defined() -> None:
    overall, classes = estimate(np.empty((0, 1)), np.empty(0, dtype=np.intp), draw_patients(0, 100, seed=1))
    assert overall == classes[0] == Estimate(None, None, None, 0)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_interval_lies_within_the_values(values: list[float]) -> None:
    column, owner = np.array(values)[:, None], np.arange(len(values))
    overall, _ = estimate(column, owner, draw_patients(len(values), 100, seed=1))
    assert overall.mean is not None and overall.low is not None and overall.high is not None
    assert min(values) - 1e-9 <= overall.low <= overall.high <= max(values) + 1e-9
    assert overall.mean == pytest.approx(sum(values) / len(values), abs=1e-12)
