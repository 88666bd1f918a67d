"""Average precision and recall over cases: by hand, then properties of the weighted form."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detection import (
    RECALLS,
    average_precision,
    average_recall,
    bootstrap_average_precision,
    bootstrap_average_recall,
    precision_recall_curve,
)
from pipeline.intervals import draw_patients
from pipeline.matching import Matches


def case(scores: Sequence[float], marks: str | Sequence[str], references: int) -> Matches:
    """One case; a mark a prediction, and a string of marks a threshold.

    `+` is a hit, `-` a false alarm, `.` ignored without and `o` ignored with a partner.
    """
    rows = [marks] if isinstance(marks, str) else list(marks)
    letters = np.array([list(row) for row in rows], dtype="U1").reshape(len(rows), len(scores))
    return Matches(
        case_id="a",
        patient_id="p",
        predictions=np.arange(len(scores)),
        scores=np.array(scores, dtype=np.float64),
        partners=np.where(np.isin(letters, ["+", "o"]), np.arange(len(scores)), -1),
        ignored=np.isin(letters, [".", "o"]),
        references=references,
    )


def test_two_objects_of_which_one_is_found() -> None:
    # Recall 0.5 at precision 1: the recalls 0, 0.01, ... 0.50 have precision 1, the other 50 have 0.
    assert average_precision([case([0.9], "+", 2)]) == pytest.approx([51 / 101], abs=1e-15)
    assert average_recall([case([0.9], "+", 2)]) == pytest.approx([0.5])


def test_precision_is_the_best_at_this_recall_or_a_higher_one() -> None:
    # Precision 0, 1/2, 2/3 at recall 0, 1/2, 1: the envelope is 2/3 everywhere.
    assert average_precision([case([0.9, 0.8, 0.7], "-++", 2)]) == pytest.approx([2 / 3])
    # Precision 1 up to recall 1/2, then 2/3.
    assert average_precision([case([0.9, 0.8, 0.7], "+-+", 2)]) == pytest.approx([(51 + 50 * 2 / 3) / 101])


def test_predictions_of_all_cases_are_ranked_together() -> None:
    # By score: hit (a), false alarm (b), hit (b), of 4 objects: precision 1 to recall 1/4, 2/3 to recall 1/2.
    pooled = average_precision([case([0.9], "+", 1), case([0.8, 0.7], "-+", 3)])
    assert pooled == pytest.approx([(26 + 25 * 2 / 3) / 101])


def test_equal_scores_are_ranked_by_case_and_then_as_given() -> None:
    first, second = case([0.5], "+", 1), case([0.5], "-", 1)
    assert average_precision([first, second]) == pytest.approx([51 / 101])
    assert average_precision([second, first]) == pytest.approx([51 / 2 / 101])


def test_ignored_predictions_count_neither_way() -> None:
    assert average_precision([case([0.9, 0.8, 0.7], ".o+", 1)]) == pytest.approx([1.0])
    assert average_recall([case([0.9, 0.8, 0.7], ".o+", 2)]) == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("scores", "marks", "references", "expected"),
    [
        ([], "", 0, math.nan),  # nothing at all
        ([0.9], "-", 0, math.nan),  # no reference
        ([0.9], ".", 0, math.nan),  # everything ignored
        ([], "", 3, 0.0),  # no detection
        ([0.9], "-", 3, 0.0),  # none that hits
        ([0.9], "o", 3, 0.0),  # only an ignored one
    ],
)
def test_empty_sides(scores: list[float], marks: str, references: int, expected: float) -> None:
    matches = [case(scores, marks, references)]
    for value in (average_precision(matches)[0], average_recall(matches)[0]):
        assert value == pytest.approx(expected, nan_ok=True)


def test_a_case_without_objects_adds_nothing_and_one_without_references_only_false_alarms() -> None:
    found, empty, alarm = case([0.9], "+", 1), case([], "", 0), case([0.95], "-", 0)
    assert average_precision([found, empty]) == pytest.approx([1.0])
    assert average_precision([found, alarm]) == pytest.approx([0.5])
    assert average_recall([found, alarm]) == pytest.approx([1.0])


def test_each_threshold_has_its_own_value() -> None:
    matches = [case([0.9, 0.8], ["++", "+-", "-.", "o+"], 2)]
    assert average_precision(matches) == pytest.approx([1, 51 / 101, 0, 51 / 101])
    assert average_recall(matches) == pytest.approx([1, 0.5, 0, 0.5])


def test_weights_worked_out_by_hand() -> None:
    first, second = case([0.9], "+", 1), case([0.8, 0.7], "-+", 3)
    matches = [first, second]
    # Case a three times: hit hit hit, false alarm, hit, of 6 objects: 1 to recall 1/2, 4/5 to 2/3.
    assert average_precision(matches, np.array([3, 1])) == pytest.approx([(51 + 16 * 4 / 5) / 101])
    assert average_recall(matches, np.array([3, 1])) == pytest.approx([4 / 6])
    assert average_precision(matches, np.array([0, 1])) == pytest.approx(average_precision([second]))
    assert np.isnan(average_precision(matches, np.array([0, 0]))).all()


def test_curve_worked_out_by_hand() -> None:
    recall, precision, score = precision_recall_curve([case([0.9, 0.8, 0.7], ["...", "+-+"], 4)], 1)
    assert (recall == RECALLS).all()
    # 1 to recall 1/4, 2/3 to recall 1/2, nothing beyond.
    assert precision == pytest.approx([1] * 26 + [2 / 3] * 25 + [0] * 50)
    assert score == pytest.approx([0.9] * 26 + [0.7] * 25 + [math.nan] * 50, nan_ok=True)
    _, precision, score = precision_recall_curve([case([0.9], "-", 0)], 0)
    assert np.isnan(precision).all() and np.isnan(score).all()


@st.composite
def cases(draw: st.DrawFn) -> Matches:
    """Up to 6 predictions with many equal scores, at two thresholds."""
    count = draw(st.integers(0, 6))
    scores = sorted(
        draw(st.lists(st.sampled_from([0.1, 0.5, 0.9, 1.0]), min_size=count, max_size=count)), reverse=True
    )
    rows = draw(st.lists(st.text("++--.o", min_size=count, max_size=count), min_size=2, max_size=2))
    return case(scores, rows, draw(st.integers(0, 4)) + max(row.count("+") for row in rows))


def _by_definition(matches: Sequence[Matches], t: int) -> float:
    """Average precision in exact fractions, from the definition."""
    ranked = sorted(
        ((-score, i, j) for i, m in enumerate(matches) for j, score in enumerate(m.scores)),
    )
    total = sum(m.references for m in matches)
    hits = accepted = 0
    points = []
    for _, i, j in ranked:
        accepted += not matches[i].ignored[t, j]
        hits += bool(matches[i].hits[t, j])
        if accepted:
            points.append((Fraction(hits, total), Fraction(hits, accepted)))
    heights = [max((p for r, p in points if r >= Fraction(k, 100)), default=Fraction(0)) for k in range(101)]
    return float(sum(heights) / 101)


@given(st.lists(cases(), min_size=1, max_size=4))
def test_average_precision_is_its_definition(matches: list[Matches]) -> None:
    values = average_precision(matches)
    for t, value in enumerate(values):
        if sum(m.references for m in matches):
            assert value == pytest.approx(_by_definition(matches, t), abs=1e-12)
            assert 0 <= value <= average_recall(matches)[t] + 1 / 101
        else:
            assert math.isnan(value)


@given(st.lists(st.tuples(cases(), st.integers(0, 3)), min_size=1, max_size=4))
def test_weights_equal_a_list_with_repeated_cases(weighted: list[tuple[Matches, int]]) -> None:
    matches, weights = [m for m, _ in weighted], np.array([w for _, w in weighted])
    repeated = [m for m, w in weighted for _ in range(w)]
    for measure in (average_precision, average_recall):
        expected = measure(repeated) if repeated else np.full(2, np.nan)
        assert measure(matches, weights) == pytest.approx(expected, abs=1e-15, nan_ok=True)


@given(st.lists(cases(), min_size=3, max_size=3))
def test_a_bootstrap_is_one_row_a_draw(matches: list[Matches]) -> None:
    draws = draw_patients(3, 20, seed=1)
    for bootstrap, measure in (
        (bootstrap_average_precision, average_precision),
        (bootstrap_average_recall, average_recall),
    ):
        rows = np.stack([measure(matches, draw) for draw in draws])
        np.testing.assert_array_equal(bootstrap(matches, draws), rows)


@given(st.lists(cases(), min_size=1, max_size=4))
def test_only_the_order_of_the_scores_counts(matches: list[Matches]) -> None:
    squared = [case(m.scores**2, ["".join(_letters(m, t)) for t in range(2)], m.references) for m in matches]
    np.testing.assert_array_equal(average_precision(squared), average_precision(matches))


def _letters(matches: Matches, t: int) -> list[str]:
    names = {(True, False): "+", (False, False): "-", (False, True): ".", (True, True): "o"}
    return [
        names[bool(p >= 0), bool(i)] for p, i in zip(matches.partners[t], matches.ignored[t], strict=True)
    ]


@pytest.mark.slow
def test_two_thousand_resamples_take_seconds() -> None:
    rng = np.random.default_rng(0)
    matches = [
        case(
            np.sort(rng.random(200).round(3))[::-1],
            ["".join(rng.choice(list("+-"), 200)) for _ in range(10)],
            210,
        )
        for _ in range(50)
    ]
    began = time.process_time()
    values = bootstrap_average_precision(matches, draw_patients(50, 2000, seed=1))
    assert time.process_time() - began < 15
    assert values.mean(axis=0) == pytest.approx(average_precision(matches), abs=0.01)
