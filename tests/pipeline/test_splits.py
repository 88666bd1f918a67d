"""Sides by hand (sha256sum of coreutils), then the properties that the design promises."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cases import QUARANTINED, CaseRecord
from pipeline.config import SplitParams
from pipeline.errors import SegtrailError
from pipeline.splits import (
    SIDES,
    SplitRow,
    assign,
    choose_side,
    draw_unit,
    load_rows,
    load_splits,
    save_splits,
)

PARAMS = SplitParams(salt="segtrail", test_fraction=0.2, validation_fraction=0.1)
# printf segtrail:p22 | sha256sum begins with 34133f3527ab57a5, and 0x3413 / 0x10000 = 0.2034
TEST_PATIENT, VALIDATION_PATIENT, TRAIN_PATIENT = "p2", "p22", "p13"
BASE = [TEST_PATIENT, VALIDATION_PATIENT, TRAIN_PATIENT]
HEADER = "case_id,patient_id,split\n"


def make_case(case_id: str, patient_id: str = "", verdict: str = "ok") -> CaseRecord:
    return CaseRecord(case_id, patient_id or case_id, "", (f"{case_id}.nii.gz",), "", "", verdict=verdict)


def sides_of(rows: list[SplitRow]) -> dict[str, str]:
    return {row.case_id: row.split for row in rows}


@pytest.mark.parametrize(
    ("patient", "digest"),
    [("p2", "320b7c493e5e6709"), ("p22", "34133f3527ab57a5"), ("p13", "5af23c576bc7c097")],
)
def test_draw_is_the_hash_as_a_fraction(patient: str, digest: str) -> None:
    assert draw_unit("segtrail", patient) == pytest.approx(int(digest, 16) / 2**64, abs=2**-53)


def test_sides_by_hand() -> None:
    # 0x320b = 0.1955 < 0.2; 0x3413 = 0.2034 < 0.3; 0x5af2 = 0.3553
    rows = assign([make_case(name) for name in BASE], PARAMS)
    assert rows == [
        SplitRow("p13", "p13", "train"),
        SplitRow("p2", "p2", "test"),
        SplitRow("p22", "p22", "validation"),
    ]


def test_another_salt_gives_another_split() -> None:
    other = PARAMS.model_copy(update={"salt": "other"})
    names = [f"patient {number}" for number in range(100)]
    assert [choose_side(n, PARAMS) for n in names] != [choose_side(n, other) for n in names]


def test_a_larger_validation_share_leaves_the_test_set_alone() -> None:
    other = PARAMS.model_copy(update={"validation_fraction": 0.4})
    names = [f"patient {number}" for number in range(300)]
    test = {name for name in names if choose_side(name, PARAMS) == "test"}
    assert test == {name for name in names if choose_side(name, other) == "test"}


def test_fractions_are_roughly_right_for_2000_patients() -> None:
    cases = [make_case(f"patient_{number:04d}") for number in range(2000)]
    sides = [row.split for row in assign(cases, PARAMS)]
    # Binomial with n = 2000: standard deviation 18 (test), 13 (validation); five of them
    assert abs(sides.count("test") - 400) < 90
    assert abs(sides.count("validation") - 200) < 67
    assert len(sides) == 2000


patients = st.sets(st.text(min_size=1, max_size=12), max_size=40)


@settings(deadline=None, max_examples=60)
@given(before=patients, added=patients, removed=st.randoms())
def test_a_case_keeps_its_side_when_others_come_and_go(
    before: set[str], added: set[str], removed: random.Random
) -> None:
    old = sides_of(assign([make_case(name) for name in sorted(before | set(BASE))], PARAMS))
    kept = {name for name in sorted(before) if removed.random() < 0.5}
    new = sides_of(assign([make_case(name) for name in sorted(kept | added | set(BASE))], PARAMS))
    assert {name: new[name] for name in kept} == {name: old[name] for name in kept}


@settings(deadline=None, max_examples=60)
@given(names=patients, numbers=st.randoms())
def test_order_does_not_matter(names: set[str], numbers: random.Random) -> None:
    cases = [make_case(name) for name in names | set(BASE)]
    shuffled = list(cases)
    numbers.shuffle(shuffled)
    assert assign(shuffled, PARAMS) == assign(cases, PARAMS)


@settings(deadline=None, max_examples=60)
@given(owners=st.lists(st.integers(0, 15), max_size=60))
def test_all_cases_of_a_patient_stand_together(owners: list[int]) -> None:
    cases = [make_case(f"case_{i}", f"patient_{owner}") for i, owner in enumerate(owners)]
    rows = assign([*cases, *(make_case(name) for name in BASE)], PARAMS)
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row.patient_id, set()).add(row.split)
    assert all(len(found) == 1 for found in sides.values())
    assert len(rows) == len(cases) + len(BASE)


def test_quarantined_cases_are_left_out() -> None:
    cases = [*(make_case(name) for name in BASE), make_case("bad", verdict=QUARANTINED)]
    assert "bad" not in sides_of(assign(cases, PARAMS))


def test_an_empty_side_is_an_error_with_counts_and_a_salt_that_works() -> None:
    cases = [
        make_case(name) for name in ("p2", "p9", "p13", "p17")
    ]  # 0.195, 0.182: test; 0.355, 0.411: train
    with pytest.raises(SegtrailError) as caught:
        assign(cases, PARAMS)
    assert "no patient on side validation" in caught.value.what
    assert "4 patient(s) give 2 train, 0 validation, 2 test" in caught.value.what
    assert "split.salt" in caught.value.where
    salt = caught.value.fix.split("split.salt to ")[1].split()[0]
    assert set(sides_of(assign(cases, PARAMS.model_copy(update={"salt": salt}))).values()) == set(SIDES)


def test_too_few_patients_ask_for_more_cases() -> None:
    with pytest.raises(SegtrailError, match="no patient on side train and validation and test") as caught:
        assign([], PARAMS)
    assert "at least 3 patients" in caught.value.fix
    with pytest.raises(SegtrailError) as caught:
        assign([make_case("a", "p2"), make_case("b", "p2")], PARAMS)
    assert "1 patient(s)" in caught.value.what


def test_cases_without_patient_are_listed() -> None:
    nameless = [CaseRecord(name, "", "", (), "", "") for name in ("a", "b")]
    with pytest.raises(SegtrailError, match=r"2 case.s. without patient_id.*: a, b"):
        assign([*nameless, *(make_case(name) for name in BASE)], PARAMS)


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    rows = assign([make_case(name) for name in BASE], PARAMS)
    save_splits(reversed(rows), path)
    assert path.read_text() == HEADER + "p13,p13,train\np2,p2,test\np22,p22,validation\n"
    assert load_rows(path) == rows
    assert load_splits(path) == {"p13": "train", "p2": "test", "p22": "validation"}


def test_a_file_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_bytes("\ufeffcase_id,patient_id,split\r\na,a, test \r\n\r\n".encode())
    assert load_splits(path) == {"a": "test"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns are"),
        ("case_id;patient_id;split\na;a;test\n", "columns are .'case_id;patient_id;split'"),
        (HEADER + "a,a\n", "columns are .'a', 'a'., expected"),
        (HEADER + "a,a,tset\nb,b,valid\n", "2 problems"),
        (HEADER + "a,a,test\na,a,test\n", "the case has 2 rows"),
        (HEADER + "a,x,test\nb,x,train\n", "one patient on two sides: a in test, b in train"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(SegtrailError, match=message):
        load_splits(path)


def test_an_unknown_side_lists_the_legal_ones(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_text(HEADER + "a,a,tset\n")
    with pytest.raises(SegtrailError, match="unknown side 'tset'") as caught:
        load_splits(path)
    assert caught.value.fix == "use one of: test, train, validation"
    assert "a in " in caught.value.where


def test_a_missing_file_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(SegtrailError) as caught:
        load_splits(tmp_path / "splits.csv")
    assert caught.value.fix == "dvc repro split"
