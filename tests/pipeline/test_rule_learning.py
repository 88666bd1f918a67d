"""Rules learned from maps whose Dice is worked out by hand, from random ones, and from real references with specks."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pipeline.io.images import load_label_map
from pipeline.metrics import count_voxels, dice
from pipeline.postprocessing_rules import Rule, apply_rules
from pipeline.rule_learning import LEAST_CASES, LEAST_GAIN, learn_rules

Map = NDArray[np.uint8]
Cases = Sequence[tuple[Map, Map]]
ONE, TWO = ("background", "organ"), ("background", "organ", "tumour")
CUBE = (slice(1, 5),) * 3  # 64 voxels


def learn(
    cases: Cases, names: Sequence[str] = ONE, spacing: tuple[float, float, float] = (1, 1, 1)
) -> list[Rule]:
    return learn_rules(lambda: iter(cases), names, spacing)


def empty() -> Map:
    return np.zeros((16, 16, 16), np.uint8)


def cube() -> Map:
    found = empty()
    found[CUBE] = 1
    return found


def with_speck(label_map: Map, index: int = 1) -> Map:
    found = label_map.copy()
    found[12, 12, 12:14] = index
    return found


def means(cases: Cases, classes: int, rules: Sequence[Rule] = ()) -> list[float]:
    """Mean Dice over cases of each class by `pipeline.metrics`, after the rules have really been applied."""
    rows = [
        [dice(count_voxels(reference == c, apply_rules(found, rules, 1.0) == c)) for c in range(1, classes)]
        for found, reference in cases
    ]
    return [
        float(np.mean(known)) if (known := [v for v in column if not math.isnan(v)]) else math.nan
        for column in zip(*rows, strict=True)
    ]


def test_specks_beside_one_organ() -> None:
    cases = [(with_speck(cube()), cube())] * 6 + [(cube(), cube())] * 2
    (rule,) = learn(cases)
    assert (rule.kind, rule.index, rule.label) == ("largest_foreground", 0, "")
    # 2 * 64 / (64 + 66) in six of eight cases, 1 in the others.
    before = (6 * 128 / 130 + 2) / 8
    assert (rule.dice_before, rule.dice_after) == (pytest.approx(before), 1.0)
    assert rule.classes["organ"].model_dump() == {"before": pytest.approx(before), "after": 1.0}
    assert (rule.cases, rule.cases_changed) == (8, 6)


def test_a_class_that_would_lose_is_cleaned_class_by_class() -> None:
    # Organ and tumour lie apart: the larger component of the whole foreground is the organ alone.
    reference = cube()
    reference[9:11, 1:5, 1:5] = 2
    found = with_speck(reference, 1)
    found[14, 1, 1] = 2
    rules = learn([(found, reference)] * 6, TWO)
    assert [(r.kind, r.index) for r in rules] == [("largest_component", 1), ("largest_component", 2)]
    assert (rules[0].classes["organ"].before, rules[0].classes["organ"].after) == (
        pytest.approx(128 / 130),
        1,
    )
    assert rules[0].classes["tumour"].before == rules[0].classes["tumour"].after == pytest.approx(64 / 65)
    assert rules[1].dice_before == rules[0].dice_after == pytest.approx((1 + 64 / 65) / 2)


def test_two_organs_and_a_speck_give_a_minimum_volume_in_mm3() -> None:
    reference = cube()
    reference[9:12, 1:5, 1:5] = 1  # a second one of 48 voxels
    (rule,) = learn([(with_speck(reference), reference)] * 6, spacing=(0.5, 1, 3))
    assert rule.kind == "minimum_volume"
    # Between 2 and 48 voxels of 1.5 mm3: the root of 3 * 72.
    assert rule.minimum_mm3 == pytest.approx(math.sqrt(3 * 72))
    assert rule.dice_before == pytest.approx(2 * 112 / (112 + 114))


def test_an_image_counts_in_mm2() -> None:
    reference = np.zeros((16, 16, 1), np.uint8)
    reference[1:5, 1:5] = reference[1:5, 9:13] = 1
    found = reference.copy()
    found[14, 14] = 1
    (rule,) = learn([(found, reference)] * 5, spacing=(0.5, 0.5, 7))
    assert rule.minimum_mm3 == pytest.approx(math.sqrt(0.25 * 4))


def test_false_alarms_in_healthy_cases_go_by_volume() -> None:
    # Where the organ is, it is alone; in five cases there is none, but a speck: Dice 0, afterwards both are empty.
    cases = [(cube(), cube())] * 3 + [(with_speck(empty()), empty())] * 5
    (rule,) = learn(cases)
    assert (rule.kind, rule.cases_changed) == ("minimum_volume", 5)
    assert (rule.dice_before, rule.dice_after) == (pytest.approx(3 / 8), 1.0)


def test_a_hole_is_learned_after_what_lies_in_it_is_gone() -> None:
    found = cube()
    found[0:7, 0:7, 0:7] = 1
    reference = found.copy()
    found[2:5, 2:5, 2:5] = 0
    found[3, 3, 3] = 2  # a false tumour in the false hole: the hole is closed once it has been removed
    reference[12, 12, 9:12] = found[12, 12, 9:12] = 2
    rules = learn([(found, reference)] * 5, TWO)
    assert [(r.kind, r.label) for r in rules] == [("largest_component", "tumour"), ("fill_holes", "organ")]
    assert rules[1].classes["organ"].before == pytest.approx(2 * 316 / (316 + 343))
    assert rules[1].dice_after == 1.0


def test_a_true_cavity_is_not_filled() -> None:
    hollow = cube()
    hollow[2:4, 2:4, 2:4] = 0
    assert learn([(hollow, hollow)] * 6) == []


def test_what_only_few_cases_say_is_refused_and_said(caplog: pytest.LogCaptureFixture) -> None:
    changed = LEAST_CASES - 1
    cases = [(with_speck(cube()), cube())] * changed + [(cube(), cube())] * 4
    with caplog.at_level(logging.INFO, "segtrail"):
        assert learn(cases) == []
    assert f"changes only {changed} of {len(cases)} cases, fewer than {LEAST_CASES}" in caplog.text


def test_a_gain_below_the_tolerance_is_no_rule() -> None:
    reference = np.zeros((24, 24, 24), np.uint8)
    reference[:14, :14, :14] = 1
    found = reference.copy()
    found[20, 20, 20:22] = 1
    lost = 1 - 2 * 14**3 / (2 * 14**3 + 2)  # 0.0004
    assert 0 < lost < LEAST_GAIN
    assert learn([(found, reference)] * 8) == []


def test_nothing_to_learn_from() -> None:
    assert learn([]) == []
    assert learn([(empty(), empty())] * 6) == []
    assert learn([(empty(), cube())] * 6) == []
    assert learn([(cube(), empty())] * 6) == []  # no rule removes the last component of a class


def test_a_rule_reads_back_from_json() -> None:
    (rule,) = learn([(with_speck(cube()), cube())] * 6)
    assert Rule.model_validate_json(rule.model_dump_json()) == rule


pairs = arrays(np.uint8, (2, 4, 4, 3), elements=st.integers(0, 2), fill=st.just(0))


@settings(deadline=None, max_examples=150)
@given(st.lists(pairs, min_size=5, max_size=9))
def test_on_the_cases_it_learned_from_no_class_loses(drawn: list[Map]) -> None:
    cases = [(pair[0], pair[1]) for pair in drawn]
    rules = learn(cases, TWO)
    for count in range(len(rules)):
        before, after = (means(cases, 3, rules[: count + more]) for more in (0, 1))
        recorded = rules[count].classes
        for name, old, new in zip(TWO[1:], before, after, strict=True):
            assert math.isnan(new) or new >= old - 1e-9
            for value, stated in ((old, recorded[name].before), (new, recorded[name].after)):
                assert (stated is None) == math.isnan(value)
                assert stated is None or stated == pytest.approx(value)
        assert np.nanmean(after) > np.nanmean(before) + LEAST_GAIN


def test_specks_beside_real_hippocampi_are_removed(shared_data: Path) -> None:
    generator = np.random.default_rng(3)
    paths = sorted((shared_data / "Task04_Hippocampus/labelsTr").glob("hippocampus_*.nii.gz"))[:40]
    references = [load_label_map(path).array.astype(np.uint8) for path in paths]
    found = []
    for reference in references:
        noisy = reference.copy()
        for index in (1, 2):
            corner = generator.integers(0, 4, 3)
            noisy[tuple(slice(c, c + 2) for c in corner)] = index
        found.append(noisy)

    def cases() -> Iterator[tuple[Map, Map]]:
        yield from zip(found, references, strict=True)

    rules = learn_rules(cases, ("background", "anterior", "posterior"), (1, 1, 1))
    assert rules[0].kind == "largest_foreground"  # anterior and posterior touch
    for noisy, reference in zip(found, references, strict=True):
        cleaned = apply_rules(noisy, rules, 1.0)
        assert dice(count_voxels(reference > 0, cleaned > 0)) > 0.9999
    assert means(list(cases()), 3, rules) == [pytest.approx(1.0, abs=1e-3)] * 2
