"""Case records, means and intervals."""

from __future__ import annotations

import csv
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.config import EvaluateParams
from pipeline.errors import SegtrailError
from pipeline.evaluation import (
    METRICS,
    CaseMetrics,
    case_dice,
    describe_protocol,
    evaluate_case,
    save_case_metrics,
    save_record,
    summarise,
)
from pipeline.scores import load_scores
from pipeline.volume import LabelMap

PARAMS = EvaluateParams(
    surface_tolerance_mm=2.0,
    bootstrap_samples=2000,
    seed=1,
    baseline="none",
    max_detections=100,
    max_marks=100,
)
NAN = math.nan


def row(case_id: str, patient_id: str, label: str, dice: float, hd95_mm: float = 1.0) -> CaseMetrics:
    """A record whose other metrics do not matter."""
    rest = dict.fromkeys(METRICS, 0.5) | {"dice": dice, "hd95_mm": hd95_mm}
    return CaseMetrics(case_id, patient_id, label, **rest, reference_voxels=3, prediction_voxels=4)


def label_map(values: dict[int, slice], spacing: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> LabelMap:
    array = np.zeros((10, 4, 4), dtype=np.uint8)
    for value, where in values.items():
        array[where, 1:3, 1:3] = value
    return LabelMap(array, np.diag([*spacing, 1.0]))


def test_one_record_a_class() -> None:
    reference = label_map({1: slice(0, 4), 2: slice(4, 8)})
    prediction = label_map({1: slice(0, 4), 2: slice(6, 8)})
    first, second, third = evaluate_case(
        reference, prediction, {"core": 1, "edema": 2, "absent": 3}, 1.0, "case_1", "patient_1"
    )
    assert (first.case_id, first.patient_id, first.label) == ("case_1", "patient_1", "core")
    assert (first.dice, first.hd95_mm, first.surface_dice) == (1.0, 0.0, 1.0)
    # Class 2: 16 reference voxels, 8 of them predicted, each of 6 mm3.
    assert (second.reference_voxels, second.prediction_voxels) == (16, 8)
    assert second.dice == pytest.approx(16 / 24)
    assert (second.precision, second.recall) == (1.0, 0.5)
    assert (second.volume_error_mm3, second.relative_volume_error) == (-48.0, -0.5)
    # All voxels are boundary; the two missing slices lie 1 and 2 mm away.
    assert second.assd_mm == pytest.approx((4 * 1 + 4 * 2) / 24)
    assert second.surface_dice == pytest.approx(20 / 24)
    assert math.isnan(third.dice)
    assert math.isnan(third.hd95_mm)


def test_regions_are_unions_of_classes_and_come_first() -> None:
    reference = label_map({1: slice(0, 4), 2: slice(4, 8)})
    prediction = label_map({1: slice(0, 2), 2: slice(2, 8)})
    rows = evaluate_case(
        reference, prediction, {"core": 1, "edema": 2}, 1.0, "c", "p", {"whole": (1, 2), "core_region": (1,)}
    )
    assert [(row.label, row.kind) for row in rows] == [
        ("whole", "region"), ("core_region", "region"), ("core", "class"), ("edema", "class"),
    ]  # fmt: skip
    # Two slices of core are called edema: the whole does not mind.
    assert [row.dice for row in rows] == pytest.approx(
        [1.0, 2 * 2 / (4 + 2), 2 * 2 / (4 + 2), 2 * 4 / (4 + 6)]
    )
    assert [row.reference_voxels for row in rows] == [32, 16, 16, 16]


def test_with_regions_the_mean_is_over_regions_alone(tmp_path: Path) -> None:
    def region(case_id: str, label: str, dice: float) -> CaseMetrics:
        return replace(row(case_id, case_id, label, dice), kind="region")

    rows = [
        region("a", "whole", 0.9), region("a", "tip", NAN), row("a", "a", "core", 0.1),
        region("b", "whole", 0.7), region("b", "tip", 0.2), row("b", "b", "core", 0.3),
        region("c", "whole", NAN), region("c", "tip", NAN), row("c", "c", "core", 0.5),
    ]  # fmt: skip
    numbers = summarise(rows, PARAMS)
    assert numbers["test/whole/dice"] == pytest.approx(0.8)
    assert numbers["test/tip/dice"] == pytest.approx(0.2)
    assert numbers["test/core/dice"] == pytest.approx(0.3)
    assert numbers["test/dice"] == pytest.approx((0.8 + 0.2) / 2)
    assert (numbers["test/dice_n"], numbers["test/core/dice_n"]) == (2, 3)
    # All classes and regions alone have the intervals that they have beside each other.
    alone = summarise([r for r in rows if r.kind == "region"], PARAMS)
    assert {name: numbers[name] for name in alone} == alone
    assert case_dice(rows) == pytest.approx({"a": 0.9, "b": 0.45})
    assert "regions" in describe_protocol(PARAMS, ["whole", "tip"])
    assert "regions" not in describe_protocol(PARAMS)
    save_case_metrics(rows, tmp_path / "cases.csv")
    table = tmp_path / "cases.csv"
    assert {(s.label, s.case_id) for s in load_scores(table, "test/dice")} == {
        (label, case) for label in ("whole", "tip") for case in "abc"
    }
    assert {s.label for s in load_scores(table, "test/core/dice")} == {"whole", "tip", "core"}


def test_grids_must_agree() -> None:
    reference = label_map({1: slice(0, 4)})
    shorter = LabelMap(reference.array[:-1], reference.affine)
    moved = LabelMap(reference.array, reference.affine + np.eye(4, k=3) * 1.5)
    with pytest.raises(SegtrailError, match=r"\(10, 4, 4\), the prediction \(9, 4, 4\)"):
        evaluate_case(reference, shorter, {"a": 1}, 1.0, "case_7", "p")
    with pytest.raises(SegtrailError, match=r"1\.5 mm apart") as error:
        evaluate_case(reference, moved, {"a": 1}, 1.0, "case_7", "p")
    assert "case_7" in error.value.where


def test_means_over_cases_then_classes() -> None:
    rows = [
        row("a", "p1", "liver", 0.9, 2.0),
        row("a", "p1", "spleen", NAN, NAN),
        row("b", "p2", "liver", 0.7, 4.0),
        row("b", "p2", "spleen", 0.0, NAN),
        row("c", "p3", "liver", 0.2, 6.0),
        row("c", "p3", "spleen", 0.6, 3.0),
        row("d", "p4", "liver", NAN, NAN),
        row("d", "p4", "spleen", NAN, NAN),
    ]
    numbers = summarise(rows, PARAMS)
    assert numbers["test/liver/dice"] == pytest.approx(0.6)
    assert numbers["test/spleen/dice"] == pytest.approx(0.3)
    assert numbers["test/dice"] == pytest.approx(0.45)  # not the mean of all five values, 0.48
    assert (numbers["test/liver/dice_n"], numbers["test/spleen/dice_n"], numbers["test/dice_n"]) == (3, 2, 3)
    assert numbers["test/hd95_mm"] == pytest.approx((4 + 3) / 2)
    assert (numbers["test/spleen/hd95_mm_n"], numbers["test/hd95_mm_n"]) == (1, 3)
    assert numbers["test/spleen/hd95_mm_ci_low"] is None  # one patient
    # Two patients with 0.0 and 0.6: every interval end is one of the means that can be drawn.
    assert (numbers["test/spleen/dice_ci_low"], numbers["test/spleen/dice_ci_high"]) == (0.0, 0.6)
    ends = ("", "_ci_low", "_ci_high", "_n")
    prefixes = ("test/", "test/liver/", "test/spleen/")
    names = {f"{prefix}{metric}{end}" for prefix in prefixes for metric in METRICS for end in ends}
    assert set(numbers) == names
    assert case_dice(rows) == pytest.approx({"a": 0.9, "b": 0.35, "c": 0.4})


def test_undefined_class_is_null_and_does_not_spoil_the_mean() -> None:
    rows = [
        row("a", "p1", "x", 0.5),
        row("a", "p1", "y", NAN),
        row("b", "p2", "x", 0.7),
        row("b", "p2", "y", NAN),
    ]
    numbers = summarise(rows, PARAMS, "baseline_otsu_lung")
    assert numbers["baseline_otsu_lung/y/dice"] is None
    assert numbers["baseline_otsu_lung/y/dice_ci_high"] is None
    assert numbers["baseline_otsu_lung/y/dice_n"] == 0
    assert numbers["baseline_otsu_lung/dice"] == pytest.approx(0.6)


def test_interval_equals_scipy() -> None:
    dice = np.random.default_rng(3).beta(8, 2, 60)
    numbers = summarise([row(f"c{i}", f"p{i}", "x", d) for i, d in enumerate(dice)], PARAMS)
    expected = stats.bootstrap(
        (dice,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = expected.high - expected.low
    for name in ("test/dice", "test/x/dice"):
        assert numbers[f"{name}_ci_low"] == pytest.approx(expected.low, abs=0.05 * width)
        assert numbers[f"{name}_ci_high"] == pytest.approx(expected.high, abs=0.05 * width)


def test_interval_draws_patients_not_cases() -> None:
    # 20 patients with 4 equal cases each: the width must be that of 20 values, not of 80.
    by_patient = np.random.default_rng(5).uniform(0.2, 1.0, 20)
    rows = [row(f"c{i}_{k}", f"p{i}", "x", d) for i, d in enumerate(by_patient) for k in range(4)]
    numbers = summarise(rows, PARAMS)
    one, four = (
        stats.bootstrap((v,), np.mean, n_resamples=9999, method="percentile", rng=0).confidence_interval
        for v in (by_patient, np.repeat(by_patient, 4))
    )
    low, high = numbers["test/dice_ci_low"], numbers["test/dice_ci_high"]
    assert low is not None and high is not None
    assert high - low == pytest.approx(one.high - one.low, rel=0.06)
    assert high - low > 1.7 * (four.high - four.low)


def test_interval_of_unequal_patients_and_missing_values_equals_scipy() -> None:
    random = np.random.default_rng(8)
    cases = random.integers(1, 5, 40)
    rows, sums, counts = [], np.zeros(40), np.zeros(40)
    for i, number in enumerate(cases):
        for k in range(number):
            dice = NAN if random.random() < 0.2 else random.random()
            rows.append(row(f"c{i}_{k}", f"p{i}", "x", dice))
            sums[i] += 0 if math.isnan(dice) else dice
            counts[i] += not math.isnan(dice)
    expected = stats.bootstrap(
        (sums, counts),
        lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=1,
    ).confidence_interval
    numbers = summarise(rows, PARAMS)
    found = [numbers["test/x/dice_ci_low"], numbers["test/x/dice_ci_high"]]
    assert found == pytest.approx([expected.low, expected.high], abs=0.06 * (expected.high - expected.low))


def test_summary_depends_on_the_seed_alone() -> None:
    rows = [row(f"c{i}", f"p{i}", "x", math.sqrt(i / 10)) for i in range(10)]
    assert summarise(rows, PARAMS) == summarise(rows, PARAMS)
    assert summarise(rows[::-1], PARAMS)["test/dice_ci_low"] == summarise(rows, PARAMS)["test/dice_ci_low"]
    other = summarise(rows, PARAMS.model_copy(update={"seed": 2}))
    assert other["test/dice"] == summarise(rows, PARAMS)["test/dice"]
    assert other["test/dice_ci_low"] != summarise(rows, PARAMS)["test/dice_ci_low"]


def test_hundreds_of_cases_take_seconds() -> None:
    rows = [row(f"c{i}", f"p{i // 2}", f"class_{k}", 0.5) for i in range(400) for k in range(5)]
    started = time.process_time()
    summarise(rows, PARAMS)
    assert time.process_time() - started < 4  # 0.3 s on a quiet machine


def test_table_with_further_columns(tmp_path: Path) -> None:
    rows = [row("a", "p1", "x", 1 / 3, NAN), replace(row("b, c", "p2", "ö", NAN), reference_voxels=0)]
    more = {("a", "x"): {"cpm": 0.5, "ap_dsb": NAN}, ("b, c", "ö"): {"cpm": NAN, "ap_dsb": 1.0}}
    save_case_metrics(rows, tmp_path / "cases.csv", more)
    text = (tmp_path / "cases.csv").read_text(encoding="utf-8")
    assert text.startswith("case_id,patient_id,label,dice,jaccard,precision,recall,specificity,f1,accuracy,")
    assert "nan" not in text
    with (tmp_path / "cases.csv").open(encoding="utf-8", newline="") as stream:
        first, second = csv.DictReader(stream)
    assert list(first)[-4:] == ["prediction_voxels", "kind", "cpm", "ap_dsb"]
    assert (first["dice"], first["hd95_mm"], first["cpm"], first["ap_dsb"]) == (str(1 / 3), "", "0.5", "")
    assert [second[key] for key in ("case_id", "label", "dice", "reference_voxels")] == ["b, c", "ö", "", "0"]
    save_case_metrics(rows, tmp_path / "overlap.csv")
    assert "cpm" not in (tmp_path / "overlap.csv").read_text(encoding="utf-8")


def test_record_holds_null_for_undefined(tmp_path: Path) -> None:
    numbers = summarise([row("a", "p1", "x", NAN)], PARAMS)
    save_record({"metrics": numbers, "protocol": describe_protocol(PARAMS)}, tmp_path / "metrics.json")
    record = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert record["metrics"] == numbers
    assert record["metrics"]["test/dice"] is None
    assert "2000 resamples, seed 1" in record["protocol"]["interval"]
    assert "2 mm" in record["protocol"]["surface"]
