"""FROC and CPM: by hand, then properties, then every number of the official LUNA16 evaluation."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.froc import (
    RATES,
    Marks,
    bootstrap_sensitivity,
    froc,
    judge,
    sensitivity_at,
)
from pipeline.intervals import draw_patients

Points = Sequence[tuple[float, float]]


def scan(marks: Points = (), nodules: Points = (), ignored: Points = ()) -> Marks:
    """One case on the X axis: marks as (x, probability), findings as (x, diameter)."""

    def split(points: Points) -> tuple[Any, Any]:
        table = np.array(points, dtype=np.float64).reshape(-1, 2)
        return np.stack([table[:, 0], np.zeros(len(table)), np.zeros(len(table))], axis=1), table[:, 1]

    return Marks("a", "p", *split(marks), *split(nodules), *split(ignored))


def cpm(cases: list[Marks], cap: int = 100) -> float:
    """Mean sensitivity at the seven rates."""
    return float(sensitivity_at(froc(cases, cap)).mean())


def test_a_hit_lies_strictly_inside_the_sphere() -> None:
    for x, expected in ((1.999, [0]), (2.0, [-1]), (-1.999, [0])):
        assert judge(scan([(x, 0.9)], [(0, 4)])).best_hits.tolist() == expected
    diagonal = Marks("a", "p", *(np.array(v, dtype=float) for v in ([[1, 1, 1]], [0.9], [[0, 0, 0]], [3.4])),
                     np.empty((0, 3)), np.empty(0))  # fmt: skip
    assert judge(diagonal).best_hits.tolist() == [-1]  # sqrt(3) = 1.73 mm away


def test_the_most_probable_hit_counts_and_the_others_are_ignored() -> None:
    judged = judge(scan([(1, 0.3), (0, 0.8), (-1, 0.5), (9, 0.9)], [(0, 4)]))
    assert judged.best_hits.tolist() == [1]
    assert judged.false_alarms.tolist() == [3]
    assert (judged.repeated, judged.irrelevant) == (2, 0)


def test_a_mark_inside_two_nodules_hits_both() -> None:
    judged = judge(scan([(1, 0.9)], [(0, 4), (2, 4)]))
    assert (judged.best_hits.tolist(), judged.false_alarms.tolist(), judged.repeated) == ([0, 0], [], 0)


def test_marks_on_ignored_findings_count_neither_way() -> None:
    # 10 mm where the diameter is unknown; nodules come first.
    judged = judge(
        scan([(4.9, 0.9), (5.1, 0.8), (20, 0.7), (31, 0.6)], [(20, 4)], [(0, -1), (20, 4), (30, 4)])
    )
    assert judged.best_hits.tolist() == [2]
    assert judged.false_alarms.tolist() == [1]
    assert (judged.repeated, judged.irrelevant) == (0, 2)


def test_the_cap_keeps_what_is_more_probable_than_the_next_one() -> None:
    marks = [(100, 0.1), (101, 0.5), (102, 0.5), (103, 0.9)]
    for cap, kept in ((4, [0, 1, 2, 3]), (3, [1, 2, 3]), (2, [3]), (1, [3])):
        assert judge(scan(marks), cap).kept.tolist() == kept


def test_curve_worked_out_by_hand() -> None:
    # Ranked: hit 0.9, false 0.8, hit 0.8 (equal), false 0.5; 3 nodules, 4 scans, one of them without a mark.
    cases = [
        scan([(0, 0.9), (50, 0.8)], [(0, 4), (9, 4)]),
        scan([(0, 0.8)], [(0, 4)]),
        scan([(50, 0.5)]),
        scan(),
    ]
    curve = froc(cases)
    assert curve.thresholds.tolist() == [math.inf, 0.9, 0.8, 0.5]
    assert curve.false_positives_per_scan == pytest.approx([0, 0, 1 / 4, 2 / 4])
    assert curve.sensitivity == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3])
    # Half way up at 1/8, and level behind the last point.
    assert sensitivity_at(curve) == pytest.approx([1 / 2] + [2 / 3] * 6)
    assert cpm(cases) == pytest.approx((1 / 2 + 6 * 2 / 3) / 7)


def test_points_between_equal_steps_are_left_out() -> None:
    curve = froc([scan([(0, 0.9), (50, 0.8), (60, 0.7), (70, 0.6)], [(0, 4)])])
    assert curve.thresholds.tolist() == [math.inf, 0.9, 0.6]
    assert curve.false_positives_per_scan.tolist() == [0, 0, 3]


def test_empty_sides() -> None:
    assert math.isnan(cpm([scan([(0, 0.9)])]))  # no nodule
    assert math.isnan(cpm([scan()]))
    assert cpm([scan([], [(0, 4)])]) == 0  # no mark
    assert cpm([scan([(50, 0.9)], [(0, 4)])]) == 0  # only a false alarm
    assert cpm([scan([(0, 0.9)], [(0, 4)])]) == 1  # no false alarm
    curve = froc([scan([], [(0, 4)])])
    assert (curve.thresholds.tolist(), curve.sensitivity.tolist()) == ([math.inf], [0])


@st.composite
def scans(draw: st.DrawFn) -> Marks:
    """Up to 8 marks with many equal probabilities among up to 3 nodules and 2 ignored findings."""

    def points(largest: int, values: Sequence[float]) -> Points:
        return draw(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(values)), max_size=largest))

    return scan(points(8, [0.2, 0.5, 0.9]), points(3, [3.0, 8.0]), points(2, [-1.0, 5.0]))


@given(st.lists(scans(), min_size=1, max_size=4), st.integers(1, 8))
def test_curve_is_its_definition(cases: list[Marks], cap: int) -> None:
    """At each threshold: accept the marks above it, then count by brute force."""
    curve = froc(cases, cap)
    nodules = sum(len(c.nodules_mm) for c in cases)
    for x, y, threshold in zip(
        curve.false_positives_per_scan, curve.sensitivity, curve.thresholds, strict=True
    ):
        alarms = found = 0
        for c in cases:
            limit = sorted(c.probabilities, reverse=True)[cap] if len(c.probabilities) > cap else -1
            accepted = [
                p
                for p, q in zip(c.positions_mm[:, 0], c.probabilities, strict=True)
                if q >= threshold and q > limit
            ]
            spheres = [(n, d / 2) for n, d in zip(c.nodules_mm[:, 0], c.diameters_mm, strict=True)]
            others = [
                (n, 5 if d < 0 else d / 2)
                for n, d in zip(c.ignored_mm[:, 0], c.ignored_diameters_mm, strict=True)
            ]
            alarms += sum(all(abs(p - n) >= r for n, r in spheres + others) for p in accepted)
            found += sum(any(abs(p - n) < r for p in accepted) for n, r in spheres)
        assert x == pytest.approx(alarms / len(cases))
        assert y == pytest.approx(found / nodules if nodules else math.nan, nan_ok=True)


@given(st.lists(st.tuples(scans(), st.integers(0, 3)), min_size=1, max_size=4))
def test_weights_equal_a_list_with_repeated_cases(weighted: list[tuple[Marks, int]]) -> None:
    cases, weights = [c for c, _ in weighted], np.array([[w for _, w in weighted]])
    repeated = [c for c, w in weighted for _ in range(w)]
    expected = cpm(repeated) if repeated else math.nan
    assert bootstrap_sensitivity(cases, weights).mean(axis=1) == pytest.approx([expected], nan_ok=True)


# The official evaluation: shared/data/luna16/evaluation.

SUBMISSIONS = {
    "deeplung_dpn26": ("annotations", "submissions/deeplung_dpn26.csv.gz", 100),
    "toy_submission": ("toy", "toy/submission.csv", 100),
    "toy_submission_cap5": ("toy", "toy/submission.csv", 5),
    "toy_perfect": ("toy", "toy/perfect.csv", 100),
}
CPM = {
    "deeplung_dpn26": 0.841966,
    "toy_submission": 0.697479,
    "toy_submission_cap5": 0.621849,
    "toy_perfect": 1.0,
}


def _by_scan(path: Path, value: str) -> dict[str, Any]:
    table = pd.read_csv(path)
    columns = ["coordX", "coordY", "coordZ", value]
    return {str(name): rows[columns].to_numpy(dtype=np.float64) for name, rows in table.groupby("seriesuid")}


@cache
def _cases(folder: Path, name: str) -> list[Marks]:
    truth, submission, _ = SUBMISSIONS[name]
    nodules = _by_scan(folder / truth / "annotations.csv", "diameter_mm")
    excluded = _by_scan(folder / truth / "annotations_excluded.csv", "diameter_mm")
    marks = _by_scan(folder / submission, "probability")
    nothing = np.empty((0, 4))
    cases = []
    for scan_id in (folder / truth / "seriesuids.csv").read_text().split():
        tables = [by_scan.get(scan_id, nothing) for by_scan in (marks, nodules, excluded)]
        cases.append(Marks(scan_id, scan_id, *(part for t in tables for part in (t[:, :3], t[:, 3]))))
    return cases


@pytest.fixture
def evaluation(shared_data: Path) -> Path:
    return shared_data / "luna16" / "evaluation"


@pytest.fixture(params=SUBMISSIONS)
def submission(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _analysis(path: Path) -> dict[str, float]:
    lines = [line.split(":") for line in path.read_text().splitlines() if line.startswith("    ")]
    return {name.strip(): float(value) for name, value in lines}


def _counts(cases: list[Marks], cap: int) -> dict[str, float]:
    judged = [judge(marks, cap) for marks in cases]
    found = sum(int((j.best_hits >= 0).sum()) for j in judged)
    nodules = sum(len(j.best_hits) for j in judged)
    kept = sum(len(j.kept) for j in judged)
    return {
        "True positives": found,
        "False positives": sum(len(j.false_alarms) for j in judged),
        "False negatives": nodules - found,
        "True negatives": 0,
        "Total number of candidates": kept,
        "Total number of nodules": nodules,
        "Ignored candidates on excluded nodules": sum(j.irrelevant for j in judged),
        "Ignored candidates which were double detections on a nodule": sum(j.repeated for j in judged),
        "Sensitivity": found / nodules,
        "Average number of candidates per scan": kept / len(cases),
    }


def test_official_counts(evaluation: Path, submission: str) -> None:
    expected = json.loads((evaluation / "expected/expected_froc.json").read_text())[submission]
    ours = _counts(_cases(evaluation, submission), SUBMISSIONS[submission][2])
    assert expected["max_marks_per_scan"] == SUBMISSIONS[submission][2]
    assert ours == pytest.approx(expected["counts"], abs=1e-9)
    analysis = evaluation / f"expected/{submission}_CADAnalysis.txt"
    assert analysis.exists() == (submission != "toy_perfect")
    if analysis.exists():
        assert ours == pytest.approx(_analysis(analysis), abs=1e-9)


def test_official_sensitivities(evaluation: Path, submission: str) -> None:
    expected = json.loads((evaluation / "expected/expected_froc.json").read_text())[submission]
    cases, cap = _cases(evaluation, submission), SUBMISSIONS[submission][2]
    began = time.process_time()
    curve = froc(cases, cap)
    assert time.process_time() - began < 5
    assert RATES.tolist() == expected["fp_per_scan"]
    values = sensitivity_at(curve)
    assert values == pytest.approx(expected["sensitivity"], abs=1e-9)
    assert (values >= np.array(expected["sensitivity_lowest_at_vertical_step"]) - 1e-9).all()
    assert values == pytest.approx(expected["sensitivity_highest_at_vertical_step"], abs=1e-9)
    assert cpm(cases, cap) == pytest.approx(expected["mean_sensitivity_cpm"], abs=1e-9)
    assert cpm(cases, cap) == pytest.approx(CPM[submission], abs=5e-7)


def test_official_curve(evaluation: Path, submission: str) -> None:
    path = evaluation / f"expected/{submission}_froc_curve.csv"
    curve = froc(_cases(evaluation, submission), SUBMISSIONS[submission][2])
    if submission == "toy_perfect":
        assert not path.exists() and curve.sensitivity.tolist() == [0, 1]
        return
    expected = np.loadtxt(path, delimiter=",", skiprows=1)
    ours = np.stack([curve.false_positives_per_scan, curve.sensitivity, curve.thresholds], axis=1)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)


def test_interval_of_the_deeplung_list(evaluation: Path) -> None:
    cases = _cases(evaluation, "deeplung_dpn26")
    draws = draw_patients(len(cases), 200, seed=1)
    values = bootstrap_sensitivity(cases, draws).mean(axis=1)
    assert values.mean() == pytest.approx(CPM["deeplung_dpn26"], abs=0.004)
    binomial = math.sqrt(0.841966 * (1 - 0.841966) / 1186)  # if nodules were drawn one by one
    assert 0.8 * binomial < values.std() < 2 * binomial
    repeated = [c for c, w in zip(cases, draws[0], strict=True) for _ in range(int(w))]
    assert bootstrap_sensitivity(cases, draws[:1])[0] == pytest.approx(
        sensitivity_at(froc(repeated)), abs=1e-12
    )
