"""Which fold a case is in: a partition by patient that does not change when others come."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SegtrailError
from pipeline.folds import Draw, assign_folds, choose_fold, load_draw, save_draw

NAMES = st.text(min_size=1, max_size=8)
PATIENTS = st.dictionaries(NAMES, NAMES, min_size=1, max_size=40)
COUNTS = st.integers(2, 10)


def filled(patients: dict[str, str], salt: str, folds: int) -> bool:
    return len({choose_fold(patient, salt, folds) for patient in patients.values()}) == folds


@given(NAMES, NAMES, COUNTS)
def test_the_rule_by_another_road(patient: str, salt: str, folds: int) -> None:
    digest = hashlib.sha256(f"{salt}:fold:{patient}".encode()).hexdigest()
    assert choose_fold(patient, salt, folds) == (int(digest[:16], 16) >> 11) * folds >> 53


@given(PATIENTS, NAMES, COUNTS)
def test_a_partition_by_patient(patients: dict[str, str], salt: str, folds: int) -> None:
    if not filled(patients, salt, folds):
        with pytest.raises(SegtrailError, match="no labelled case in fold"):
            assign_folds(patients, Draw(salt), folds, "train.unet.folds")
        return
    found = assign_folds(patients, Draw(salt), folds, "train.unet.folds")
    assert sorted(case for fold in found for case in fold.validation_cases) == sorted(patients)
    for fold in found:
        assert sorted(fold.training_cases + fold.validation_cases) == sorted(patients)
        learned, judged = (
            {patients[case] for case in side} for side in (fold.training_cases, fold.validation_cases)
        )
        assert learned & judged == set()


@given(PATIENTS, PATIENTS, NAMES)
def test_nobody_moves_when_others_come(few: dict[str, str], more: dict[str, str], salt: str) -> None:
    many = {**more, **few}
    if filled(few, salt, 2):
        before, after = (assign_folds(cases, Draw(salt), 2, "") for cases in (few, many))
        for old, new in zip(before, after, strict=True):
            assert set(old.validation_cases) <= set(new.validation_cases)


def test_folds_are_about_equal_and_not_those_of_the_sides() -> None:
    """Of 3000 patients 1000 each, standard deviation 26; also of those whose side is drawn below 0.5."""
    from pipeline.splits import draw_unit

    people = [f"patient_{i}" for i in range(3000)]
    low = [p for p in people if draw_unit("salt", p) < 0.5]
    for some in (people, low):
        counts = [sum(choose_fold(p, "salt", 3) == fold for p in some) for fold in range(3)]
        assert all(abs(count - len(some) / 3) < 4 * (len(some) * 2 / 9) ** 0.5 for count in counts)


@given(PATIENTS, NAMES, COUNTS)
def test_copies_stand_in_the_fold_of_their_first_patient(
    patients: dict[str, str], salt: str, folds: int
) -> None:
    """Every second patient has a copy of an image of the first one; the others stay where they were."""
    people = sorted(set(patients.values()))
    linked = dict.fromkeys(people[::2], people[0])
    if filled({**patients, **{c: linked.get(p, p) for c, p in patients.items()}}, salt, folds):
        found = assign_folds(patients, Draw(salt, linked), folds, "")
        for number, fold in enumerate(found):
            for case_id in fold.validation_cases:
                patient = patients[case_id]
                assert number == choose_fold(linked.get(patient, patient), salt, folds)


def test_the_draw_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    for draw in (Draw("ä: 1"), Draw("x", {"ü": "a", "a": "a"})):
        save_draw(draw, path)
        assert load_draw(path) == draw
    path.write_text('{"salt": "of before"}')
    assert load_draw(path) == Draw("of before")
    path.write_text('["salt"]')
    for damaged in (path, tmp_path / "other.json"):
        with pytest.raises(SegtrailError, match="salt of the split"):
            load_draw(damaged)
