"""Counts of each side, by hand."""

from __future__ import annotations

import logging

import pytest

from pipeline.balance import (
    SideCounts,
    count_sides,
    describe_small_validation,
    format_sides,
    warn_absent_classes,
)
from pipeline.cases import CaseRecord
from pipeline.splits import SplitRow

ROWS = [
    SplitRow("a1", "anna", "train"),
    SplitRow("a2", "anna", "train"),
    SplitRow("b1", "bert", "train"),
    SplitRow("c1", "cleo", "validation"),
    SplitRow("d1", "dora", "test"),
]
CLASSES = {"a1": ("liver", "tumour"), "a2": ("liver",), "b1": ("liver",), "c1": ("liver",), "d1": ("liver",)}


def make_cases(*sites: str) -> list[CaseRecord]:
    return [
        CaseRecord(row.case_id, row.patient_id, site, (), "", "")
        for row, site in zip(ROWS, sites, strict=True)
    ]


def test_counts_by_hand() -> None:
    assert count_sides(ROWS, make_cases("X", "X", "Y", "Y", ""), CLASSES) == [
        SideCounts("train", 3, 2, {"X": 2, "Y": 1}, {"liver": 3, "tumour": 1}),
        SideCounts("validation", 1, 1, {"X": 0, "Y": 1}, {"liver": 1, "tumour": 0}),
        SideCounts("test", 1, 1, {"X": 0, "Y": 0}, {"liver": 1, "tumour": 0}),
    ]


def test_nothing_known_of_sites_and_classes() -> None:
    counts = count_sides(ROWS, make_cases("", "", "", "", ""), {})
    assert [(side.sites, side.classes) for side in counts] == [({}, {})] * 3


def test_table_as_printed() -> None:
    lines = format_sides(count_sides(ROWS, make_cases("X", "X", "X", "X", "X"), CLASSES))
    assert lines == [
        "side        cases  patients  site X  liver  tumour",
        "train           3         2       3      3       1",
        "validation      1         1       1      1       0",
        "test            1         1       1      1       0",
    ]


def test_a_class_absent_on_a_side_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    warn_absent_classes(count_sides(ROWS, make_cases(*"XXXXX"), CLASSES))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "no validation case holds class tumour" in caplog.text
    assert "no test case holds class tumour" in caplog.text
    assert "liver" not in caplog.text


@pytest.mark.parametrize(
    ("patients", "labels", "start"),
    [
        ("abcd", "llll", ""),
        ("abcde", "lllll", ""),
        ("abc", "lll", "only 3 labelled patients in validation"),
        ("abccc", "lllll", "only 3 labelled patients in validation"),  # three scans of one patient
        ("abcd", "lll-", "only 3 labelled patients in validation"),
        ("a", "l", "only 1 labelled patient in validation"),
    ],
)
def test_few_labelled_patients_in_validation(patients: str, labels: str, start: str) -> None:
    cases = [
        CaseRecord(f"{i}{patient}", patient, "", (), "" if label == "-" else "label.nii.gz", "")
        for i, (patient, label) in enumerate(zip(patients, labels, strict=True))
    ]
    others = [CaseRecord(f"other_{i}", f"other_{i}", "", (), "label.nii.gz", "") for i in range(9)]
    sides = dict.fromkeys((case.case_id for case in cases), "validation")
    sides |= {case.case_id: "train" if i % 2 else "test" for i, case in enumerate(others)}
    found = describe_small_validation(sides, [*cases, *others])
    assert found.startswith(start) and bool(found) == bool(start)
