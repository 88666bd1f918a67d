"""Numbers as a reader sees them, and the tables on data, split and plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report_inputs import load_report_inputs
from pipeline.report_tables import (
    class_rows,
    format_number,
    geometry_rows,
    intensity_rows,
    moment,
    plain,
    plan_rows,
    split_rows,
    spread,
)
from tests.report_project import plan
from tests.report_scores import Recipe


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.81249, 3, "0.812"),
        (-3.26, 1, "−3.3"),
        (-0.0004, 3, "0.000"),  # never "−0.000"
        (1234567.0, 0, "1\u202f234\u202f567"),
        (0, 0, "0"),
        (None, 2, "–"),
    ],
)
def test_numbers(value: float | None, digits: int, text: str) -> None:
    assert format_number(value, digits) == text


def test_spread_is_median_and_range_or_the_only_value() -> None:
    assert spread([3, 1, 2]) == "2 (1 to 3)"
    assert spread([2.0, 2.0], 1) == "2.0"
    assert spread([]) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), ("", "–"), (True, "yes"), (7.0, "7"), (-0.012346, "−0.01235"), ([1, 2.5], "1, 2.5"),
        ({"a": None}, "a –"), ("x", "x"), (3, "3"), (1636.4, "1\u202f636"),
        (47423.7, "47\u202f424"), (3.2e12 + 0.5, "3.2e+12"),
    ],
)  # fmt: skip
def test_plain_values(value: object, text: str) -> None:
    assert plain(value) == text


def test_times_are_utc_to_the_minute() -> None:
    assert moment("2026-11-20T23:19:09+01:00") == "2026-11-20 22:19 UTC"
    assert moment("2026-11-20T23:19:09") == "2026-11-20 23:19"
    assert moment("yesterday") == "yesterday" and moment("") == "–"


def test_geometry_leaves_out_quarantined_cases(root: Path) -> None:
    rows = dict(geometry_rows(load_report_inputs(root).cases))
    assert rows["Shape (voxels)"] == ["112 (112 to 120)", "96", "48 (48 to 52)"]
    assert rows["Voxel size (mm)"] == ["2.00 (1.80 to 2.00)", "2.00", "3.00 (2.50 to 3.00)"]
    assert rows["Extent (mm)"][1] == "192"


def test_classes_count_the_cases_that_hold_them(root: Path) -> None:
    ((name, value, found, volume, _),) = class_rows(load_report_inputs(root))
    assert (name, value, found) == ("nodule", 1, "35 of 40")  # every eighth case has none
    assert volume.endswith("mm³")


def test_large_volumes_are_in_millilitres(root: Path) -> None:
    for path in (root / "data/inspected/fingerprints").iterdir():
        path.write_text(
            '{"intensity": [], "classes": {"nodule": {"voxels": 5, "volume_mm3": 1500000.0, "components": 1}}}'
        )
    inputs = load_report_inputs(root)
    assert class_rows(inputs)[0][3] == "1\u202f500.0 mL"
    assert intensity_rows(inputs) == [("CT", ["–"] * 4)]


def test_split_counts_cases_patients_and_classes(root: Path) -> None:
    rows = {row["side"]: row for row in split_rows(load_report_inputs(root))}
    assert [rows[s]["cases"] for s in ("train", "validation", "test", "all")] == [24, 8, 8, 40]
    assert rows["test"]["share"] == "20 %" and rows["all"]["classes"] == [35]


def test_plan_gives_value_and_reason() -> None:
    rows = {key: (value, reason) for _, key, value, reason in plan_rows(plan(Recipe()))}
    assert rows["patch_size"][0] == "80 × 64 × 40 voxels"
    assert rows["spacing_mm"] == ("2.00 × 2.00 × 3.00 mm", "median of 32 cases")
    assert rows["normalization"] == ("clipped to −241.5 to 163.0, less 19.8, over 62.4", "modality CT: ct")
    assert all(reason != "–" for _, reason in rows.values())
    assert "resampling" not in rows  # a plan of before there was a choice
    cubic = plan(Recipe()) | {"resampling": "cubic", "reasons": {"resampling": "near a spline"}}
    assert ("Resampling", "resampling", "cubic convolution", "near a spline") in plan_rows(cubic)


def test_other_configurations_of_the_plan_stand_with_their_reasons() -> None:
    """Only those that the plan speaks of: plans from before there were any have no such row."""
    made = plan(Recipe())
    names = {"2d", "lowres", "residual", "residual 2d", "residual lowres"}
    assert not names & {key for _, key, _, _ in plan_rows(made)}
    flat = {"dimensions": 2, "spacing_mm": [2.0, 2.0, 3.0], "patch_size": [112, 96, 1], "batch_size": 24}
    reasons = {"2d": "single slices along Z", "lowres": "none: a patch sees a quarter of the image"}
    made |= {"alternatives": {"2d": flat}, "reasons": {**made["reasons"], **reasons}}
    rows = {key: (title, value, reason) for title, key, value, reason in plan_rows(made) if key in names}
    assert rows == {
        "2d": (
            "U-Net, 2d",
            "2D, 2.00 × 2.00 × 3.00 mm, 112 × 96 × 1 voxels, 24 patches",
            "single slices along Z",
        ),
        "lowres": ("U-Net, lowres", "none", "a patch sees a quarter of the image"),
    }
