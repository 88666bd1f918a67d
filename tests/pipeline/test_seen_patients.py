"""Who has taught the weights that a training begins with, worked out by hand."""

from __future__ import annotations

from pathlib import Path

from pipeline.closing_validation import ClassScore, save_table
from pipeline.seen_patients import Judges, SeenPatients, collect_judges, find_leaks, load_seen
from pipeline.splits import SplitRow, save_splits

# Ana has two cases.
ROWS = [
    SplitRow("ana_1", "ana", "train"), SplitRow("ana_2", "ana", "train"), SplitRow("bob_1", "bob", "train"),
    SplitRow("cid_1", "cid", "validation"), SplitRow("dan_1", "dan", "test"),
]  # fmt: skip


def names(*patients: str) -> frozenset[str]:
    return frozenset(patients)


def test_one_network_has_learned_from_the_training_side(tmp_path: Path) -> None:
    save_splits(ROWS, tmp_path / "splits.csv")
    seen = load_seen(tmp_path / "splits.csv", tmp_path, 1)
    assert seen == SeenPatients((names("ana", "bob"),), names("ana", "bob", "cid"))


def test_a_network_of_a_fold_has_learned_from_the_others(tmp_path: Path) -> None:
    save_splits(ROWS, tmp_path / "splits.csv")
    folds = {"ana_1": 0, "ana_2": 0, "bob_1": 1, "cid_1": 1}
    save_table([ClassScore(c, f, "x", 0.5) for c, f in folds.items()], tmp_path / "validation.csv")
    seen = load_seen(tmp_path / "splits.csv", tmp_path, 2)
    assert seen == SeenPatients((names("bob", "cid"), names("ana")), names("ana", "bob", "cid"))


def test_judges_are_patients(tmp_path: Path) -> None:
    save_splits(ROWS, tmp_path / "splits.csv")
    judges = collect_judges(tmp_path / "splits.csv", [("ana_1", "ana_2"), ("bob_1", "cid_1")])
    assert judges == Judges((names("ana"), names("bob", "cid")), names("dan"))


def test_new_patients_on_any_side_are_no_leak() -> None:
    seen = SeenPatients((names("ana", "bob"),), names("ana", "bob", "cid"))
    assert find_leaks(Judges((names("cid", "new"),), names("dan", "newer")), [seen]) == []


def test_a_patient_who_changed_sides_is_one() -> None:
    seen = SeenPatients((names("ana", "bob"),), names("ana", "bob", "cid"))
    (validation,) = find_leaks(Judges((names("bob"),), names("dan")), [seen])
    assert validation.startswith("1 patient(s) of the validation cases")
    # Who chose the weights may go on choosing, but may not be tested on.
    (test,) = find_leaks(Judges((names("cid"),), names("cid", "ana")), [seen])
    assert test.startswith("2 patient(s) of the test cases")


def test_weights_keep_what_a_grandparent_has_learned() -> None:
    grandparent = SeenPatients((names("ana", "eve"),), names("ana", "eve"))
    parent = SeenPatients((names("ana"),), names("ana"))
    judges = Judges((names("eve"),), names("dan"))
    assert find_leaks(judges, [parent]) == []
    assert len(find_leaks(judges, [parent, grandparent])) == 1


def test_each_fold_is_held_to_its_own_network() -> None:
    seen = SeenPatients((names("bob"), names("ana")), names("ana", "bob"))
    assert find_leaks(Judges((names("ana"), names("bob")), names()), [seen]) == []
    assert len(find_leaks(Judges((names("bob"), names("ana")), names()), [seen])) == 1
