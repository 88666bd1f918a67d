"""Metric tables: rows, the best of a row, the gate's numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.report_inputs import CaseRow, ModelInputs, Numbers, load_report_inputs
from pipeline.report_results import case_means, evidence, gate_rows, result_groups, sources, uneven_metrics
from tests.report_project import build_project
from tests.report_scores import METRICS, Recipe


def model(name: str, **metrics: float | None) -> ModelInputs:
    numbers: Numbers = {key.replace("__", "/"): value for key, value in metrics.items()}
    return ModelInputs(name, numbers, {}, 1, 1, (), (), (), (), {}, {}, (), {}, {})


def best(first: float | None, second: float | None, metric: str) -> list[bool]:
    models = [model("a", **{f"test__x__{metric}": first}), model("b", **{f"test__x__{metric}": second})]
    return [cell["best"] for cell in result_groups(models, ["x"])[0]["rows"][0]["cells"]]


@pytest.mark.parametrize(
    ("first", "second", "metric", "expected"),
    [
        (0.8, 0.7, "dice", [True, False]),
        (3.0, 2.0, "hd95_mm", [False, True]),
        (-50.0, 80.0, "volume_error_mm3", [True, False]),
        (0.5, 0.5, "dice", [False, False]),
        (None, 0.1, "dice", [False, True]),
        (None, None, "dice", [False, False]),
        (0.8, None, "reader_dice", [False, False]),  # of the readers, not of a model
    ],
)
def test_best_of_a_row(first: float | None, second: float | None, metric: str, expected: list[bool]) -> None:
    assert best(first, second, metric) == expected


def test_a_single_class_needs_no_mean_and_every_metric_has_a_row(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe())
    models = load_report_inputs(tmp_path).models
    (group,) = result_groups(models, ["nodule"])
    assert {row["metric"] for row in group["rows"]} == set(METRICS)
    assert [title for title, _, _ in sources(models)] == ["unet", "Baseline: Otsu in the lungs"]


def test_case_means_leave_out_what_is_not_defined() -> None:
    rows = [
        CaseRow("a", "p", "x", {"dice": 0.2}), CaseRow("a", "p", "y", {"dice": 0.6}),
        CaseRow("b", "p", "x", {"dice": None}), CaseRow("b", "p", "y", {"dice": 0.5}),
        CaseRow("c", "p", "x", {"dice": None}),
    ]  # fmt: skip
    assert case_means(rows, "dice") == pytest.approx({"a": 0.4, "b": 0.5})
    assert case_means(rows, "dice", "x") == {"a": 0.2}


def test_overlaps_of_regions_are_averaged_without_the_classes() -> None:
    rows = [
        CaseRow("a", "p", "whole", {"dice": 0.9, "cpm": None}, region=True),
        CaseRow("a", "p", "tip", {"dice": 0.5, "cpm": None}, region=True),
        CaseRow("a", "p", "core", {"dice": 0.1, "cpm": 0.3}),
    ]
    assert case_means(rows, "dice") == pytest.approx({"a": 0.7})
    assert case_means(rows, "dice", "core") == {"a": 0.1}
    assert case_means(rows, "cpm") == {"a": 0.3}
    one = replace(model("a", test__dice=0.7), cases=tuple(rows))
    titles = [group["title"] for group in result_groups([one], ["whole", "tip", "core"])]
    assert titles == ["Mean over regions", "whole", "tip", "core"]
    assert evidence(replace(one, cases=(rows[2],)), "test/dice") == (1, 1)
    assert evidence(replace(one, cases=(replace(rows[0], values={"dice": None}), rows[2])), "test/dice") == (
        0,
        0,
    )


def test_metrics_whose_columns_are_over_different_cases_are_named_once() -> None:
    """One model has a false alarm in the eighth case, which holds no object; no model has a distance there."""
    first = {"test__dice": 0.8, "test__dice_n": 7.0, "test__x__dice": 0.8, "test__x__dice_n": 7.0}
    first |= {"test__hd95_mm": 2.0, "test__hd95_mm_n": 7.0}
    second = first | {"test__dice_n": 8.0, "test__x__dice_n": 8.0}
    groups = result_groups([model("a", **first), model("b", **second)], ["x", "y"])
    assert uneven_metrics(groups) == ["Dice"]
    assert uneven_metrics(result_groups([model("a", **first), model("b", **first)], ["x", "y"])) == []
    undefined = first | {"test__dice": None, "test__dice_n": 0.0, "test__x__dice_n": 7.0}
    assert uneven_metrics(result_groups([model("a", **first), model("b", **undefined)], ["x", "y"])) == []


def test_gate_rows_join_value_and_interval() -> None:
    numbers = {
        "n_cases": 7.0, "improvement": -0.0312, "improvement_ci_low": -0.05, "improvement_ci_high": 0.01,
        "left/improvement": 0.2,
    }  # fmt: skip
    assert gate_rows(numbers, "Dice") == [
        ("Cases", "7", "–"),
        ("Improvement in Dice", "−0.0312", "−0.0500 to 0.0100"),
        ("Improvement in Dice, left", "0.2000", "–"),
    ]
