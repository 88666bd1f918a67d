"""Leakage of a hand-edited split: every way, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.cases import QUARANTINED, CaseRecord
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.inspection import inspect_case, inspect_set
from pipeline.io.sources import DatasetFacts
from pipeline.leakage import check_leakage, find_linked_patients
from pipeline.splits import SplitRow

if TYPE_CHECKING:
    from conftest import CaseFolder


def make_case(case_id: str, patient_id: str, sha256: str = "") -> CaseRecord:
    return CaseRecord(case_id, patient_id, "", (), "", "", sha256=sha256 or f"hash of {case_id}")


CASES = [
    make_case("a1", "anna"),
    make_case("a2", "anna"),
    make_case("b1", "bert"),
    make_case("c1", "cleo"),
    replace(make_case("x1", "xeno"), verdict=QUARANTINED, code="truncated"),
]
ROWS = [
    SplitRow("a1", "anna", "train"),
    SplitRow("a2", "anna", "train"),
    SplitRow("b1", "bert", "validation"),
    SplitRow("c1", "cleo", "test"),
]


def problem_of(rows: list[SplitRow], cases: list[CaseRecord]) -> str:
    with pytest.raises(SegtrailError) as caught:
        check_leakage(rows, cases)
    return f"{caught.value.what} | {caught.value.where}"


def test_a_clean_split_passes() -> None:
    check_leakage(ROWS, CASES)
    check_leakage([], [])


def test_linked_patients() -> None:
    """cleo has anna's files, dora the voxels of cleo's case, and xeno those of bert's: two groups."""
    copies = [
        make_case("c2", "cleo", "hash of a2"),
        replace(make_case("d1", "dora"), code="low_contrast;duplicate_of:c1"),
        replace(CASES[-1], code="truncated;duplicate_of:b1"),
        make_case("e1", "emil"),
    ]
    wanted = {"anna": "anna", "cleo": "anna", "dora": "anna", "bert": "bert", "xeno": "bert"}
    for cases in ([*CASES[:-1], *copies], [*copies, *CASES[:-1]][::-1]):
        assert find_linked_patients(cases) == wanted
    assert find_linked_patients(CASES) == find_linked_patients([]) == {}


def test_a_patient_on_two_sides() -> None:
    text = problem_of([*ROWS[:1], SplitRow("a2", "anna", "test"), *ROWS[2:]], CASES)
    assert "one patient on two sides: a1 in train, a2 in test" in text
    assert "patient anna" in text


def test_a_patient_id_edited_to_hide_it() -> None:
    text = problem_of([*ROWS[:1], SplitRow("a2", "other", "test"), *ROWS[2:]], CASES)
    assert "patient_id is 'other', expected 'anna'" in text
    assert "one patient on two sides: a1 in train, a2 in test" in text


def test_the_same_files_under_two_patients() -> None:
    cases = [*CASES[:2], replace(CASES[2], sha256="same"), replace(CASES[3], sha256="same"), CASES[4]]
    text = problem_of(ROWS, cases)
    assert "same images on two sides: b1 in validation (patient bert), c1 in test (patient cleo)" in text


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("duplicate_of:b1", ""),
        ("empty_label;duplicate_of:b1", "no voxel of any class; the image has the same voxels as b1"),
    ],
)
def test_a_copy_that_the_inspection_found(code: str, reason: str) -> None:
    cases = [*CASES[:3], replace(CASES[3], verdict="warn", code=code, reason=reason), CASES[4]]
    assert "b1 in validation (patient bert), c1 in test (patient cleo)" in problem_of(ROWS, cases)


def test_copies_as_the_inspection_marks_them(case_folder: CaseFolder) -> None:
    voxels = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    facts = DatasetFacts("small", ("MRI",), {"background": 0, "organ": 1})
    params = load_params(Path("params.yaml")).inspect
    results = []
    for number, name in enumerate(("b1", "c1")):
        label = np.zeros(voxels.shape, np.uint8)
        label[2:4, 2:4, 2 : 4 + number] = 1  # another label: the files as a whole differ, the images do not
        image = case_folder.write(name, voxels, label)
        path = f"data/raw/small/labelsTr/{name}.nii.gz"
        record = CaseRecord(name, f"patient of {name}", "", (image.as_posix(),), path, "")
        results.append(inspect_case(record, facts, params))
    cases = [result.record for result in inspect_set(results, params)]
    rows = [
        SplitRow(case.case_id, case.patient_id, side)
        for case, side in zip(cases, ("train", "test"), strict=True)
    ]
    assert cases[0].sha256 != cases[1].sha256
    assert "b1 in train (patient patient of b1), c1 in test" in problem_of(rows, cases)


def test_two_copies_of_a_case_that_is_quarantined_itself() -> None:
    copies = [replace(case, verdict="warn", code="duplicate_of:x1") for case in CASES[2:4]]
    assert "b1 in validation" in problem_of(ROWS, [*CASES[:2], *copies, CASES[4]])


def test_copies_on_one_side_are_no_leak() -> None:
    cases = [
        replace(CASES[0], sha256="same"),
        replace(CASES[1], sha256="same", code="duplicate_of:a1"),
        *CASES[2:],
    ]
    check_leakage(ROWS, cases)


def test_rows_that_do_not_fit_the_cases() -> None:
    rows = [*ROWS[:3], ROWS[0], SplitRow("x1", "xeno", "test"), SplitRow("z9", "zoe", "test")]
    text = problem_of(rows, CASES)
    assert "5 problems" not in text
    assert "4 problems" in text
    assert "a1 in splits.csv: the case has 2 rows" in text
    assert "x1 in splits.csv: the case is quarantined (truncated)" in text
    assert "z9 in splits.csv: the case is not in cases.csv" in text
    assert "c1 in splits.csv: the case has no row" in text


def test_everything_is_listed_at_once() -> None:
    cases = [replace(CASES[0], sha256="same"), CASES[1], replace(CASES[2], sha256="same"), CASES[3], CASES[4]]
    rows = [ROWS[0], SplitRow("a2", "anna", "test"), ROWS[2], ROWS[3]]
    text = problem_of(rows, cases)
    assert "2 problems" in text
    assert "patient leakage" in text
    assert "voxel leakage" in text
