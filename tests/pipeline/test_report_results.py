"""Metric tables: rows, the best of a row, the gate's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report_inputs import CaseRow, ModelInputs, Numbers, load_report_inputs
from pipeline.report_results import case_means, gate_rows, result_groups, sources
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
