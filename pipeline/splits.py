"""Which side of the split a case stands on: by patient, the same however others come and go.

Why nothing but a hash can do this, and what follows from it: `docs/explanation/splits.md`.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from pipeline.cases import CaseRecord, usable_cases
from pipeline.config import SplitParams
from pipeline.errors import SegtrailError, collect, unknown_name

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SIDES = (TRAIN, VALIDATION, TEST)
SALTS_TRIED = 200  # for the hint in the error when a side is empty


@dataclass(frozen=True)
class SplitRow:
    """One row of `data/splits/splits.csv`.

    Attributes:
        case_id: Name of a usable case.
        patient_id: Its patient, who stands on one side with all cases.
        split: "train", "validation" or "test".
    """

    case_id: str
    patient_id: str
    split: str


def draw_unit(salt: str, patient_id: str) -> float:
    """Uniform number in [0, 1) that depends on nothing but the two texts.

    The upper 53 bits of a SHA-256, so every value is exact in a float and 1.0 cannot come out.
    """
    digest = hashlib.sha256(f"{salt}:{patient_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2.0**53


def choose_side(patient_id: str, params: SplitParams) -> str:
    """The side of a patient, a pure function of the patient and the params.

    Test comes first, so a changed validation_fraction leaves the frozen test set alone.
    """
    drawn = draw_unit(params.salt, patient_id)
    if drawn < params.test_fraction:
        return TEST
    return VALIDATION if drawn < params.test_fraction + params.validation_fraction else TRAIN


def assign(cases: Sequence[CaseRecord], params: SplitParams) -> list[SplitRow]:
    """Gives every usable case its side.

    Args:
        cases: The whole table, in any order; quarantined cases are left out.
        params: Salt and fractions.

    Returns:
        One row a usable case, sorted by case_id.

    Raises:
        SegtrailError: A case has no patient_id, or a side would stay without a patient.
    """
    nameless = sorted(case.case_id for case in usable_cases(cases) if not case.patient_id)
    if nameless:
        raise SegtrailError(
            f"{len(nameless)} case(s) without patient_id, so leakage cannot be ruled out: {', '.join(nameless)}",
            "data/inspected/cases.csv",
            "give each a patient_id in the raw data set (the case_id, when each patient has one case)",
        )
    patients = {case.patient_id: choose_side(case.patient_id, params) for case in usable_cases(cases)}
    counts = Counter(patients.values())
    if any(counts[side] == 0 for side in SIDES):
        raise _empty_side(patients, params, counts)
    rows = [SplitRow(c.case_id, c.patient_id, patients[c.patient_id]) for c in usable_cases(cases)]
    return sorted(rows, key=lambda row: row.case_id)


def _empty_side(patients: Collection[str], params: SplitParams, counts: Mapping[str, int]) -> SegtrailError:
    empty = " and ".join(side for side in SIDES if not counts.get(side))
    numbers = ", ".join(f"{counts.get(side, 0)} {side}" for side in SIDES)
    salt = _better_salt(patients, params)
    if len(patients) < len(SIDES):
        fix = f"add cases: at least {len(SIDES)} patients are needed, some tens give useful numbers"
    elif salt:
        fix = f"add cases, or set split.salt to {salt} (no side is empty with it), or raise the fraction"
    else:
        fix = "add cases, or raise split.test_fraction or split.validation_fraction"
    return SegtrailError(
        f"no patient on side {empty}: {len(patients)} patient(s) give {numbers}, expected at least 1 on each",
        "split.salt, split.test_fraction, split.validation_fraction in params.yaml",
        fix,
    )


def _better_salt(patients: Collection[str], params: SplitParams) -> str:
    """The salt, of some tried, whose counts are closest to the fractions with no side empty; "" if none."""
    wanted = {TEST: params.test_fraction, VALIDATION: params.validation_fraction}
    wanted[TRAIN] = 1 - params.test_fraction - params.validation_fraction
    best: tuple[float, str] = (float("inf"), "")
    for number in range(1, SALTS_TRIED + 1):
        tried = params.model_copy(update={"salt": f"{params.salt}-{number}"})
        counts = Counter(choose_side(patient, tried) for patient in patients)
        distance = sum(abs(counts[side] - wanted[side] * len(patients)) for side in SIDES)
        if all(counts[side] for side in SIDES) and distance < best[0]:
            best = (distance, tried.salt)
    return best[1]


def save_splits(rows: Iterable[SplitRow], path: Path) -> None:
    """Writes the split as CSV, sorted by case_id."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(f.name for f in fields(SplitRow))
        writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: row.case_id))


def load_rows(path: Path) -> list[SplitRow]:
    """Reads the rows of a split, also one that a person has edited.

    Raises:
        SegtrailError: The file is missing, has other columns, or names a side that does not exist.
    """
    names = [f.name for f in fields(SplitRow)]
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:  # a spreadsheet may add a mark
            lines = [line for line in csv.reader(stream) if line]
    except FileNotFoundError as error:
        raise SegtrailError("the split is missing", str(path), "dvc repro split") from error
    if not lines or lines[0] != names or any(len(line) != len(names) for line in lines):
        seen = next((line for line in lines if len(line) != len(names)), lines[0] if lines else [])
        raise SegtrailError(f"columns are {seen}, expected {names}", str(path), "dvc repro --force split")
    rows = [SplitRow(*(text.strip() for text in line)) for line in lines[1:]]
    wrong = [
        unknown_name("side", row.split, SIDES, f"{row.case_id} in {path}")
        for row in rows
        if row.split not in SIDES
    ]
    if wrong:
        raise collect(wrong)
    return rows


def load_splits(path: Path) -> dict[str, str]:
    """Reads the side of each case.

    Returns:
        case_id -> "train", "validation" or "test".

    Raises:
        SegtrailError: As `load_rows`, or a case has two rows, or a patient stands on two sides.
    """
    rows = load_rows(path)
    errors = [*find_repeated_cases(rows), *find_split_patients(rows)]
    if errors:
        raise collect(errors)
    return {row.case_id: row.split for row in rows}


def find_repeated_cases(rows: Iterable[SplitRow]) -> list[SegtrailError]:
    """One error a case that has more than one row."""
    times = Counter(row.case_id for row in rows)
    return [
        SegtrailError(f"the case has {number} rows, expected 1", f"{name} in splits.csv", "keep one row")
        for name, number in sorted(times.items())
        if number > 1
    ]


def find_split_patients(rows: Iterable[SplitRow], cases: Iterable[CaseRecord] = ()) -> list[SegtrailError]:
    """One error a patient on two sides, by the split's own column as well as by the table of cases."""
    patient_of = {case.case_id: case.patient_id for case in cases}
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        for patient in {row.patient_id, patient_of.get(row.case_id, row.patient_id)}:
            groups[patient][row.case_id] = row.split
    return [
        SegtrailError(
            f"patient leakage: one patient on two sides: {list_sides(group)}",
            f"patient {patient} in splits.csv",
            "put all cases of the patient on one side, or dvc repro -f split to have it made anew",
        )
        for patient, group in sorted(groups.items())
        if len(set(group.values())) > 1
    ]


def list_sides(sides: Mapping[str, str]) -> str:
    """Text of some names and their sides: "case_1 in test, case_2 in train"."""
    return ", ".join(f"{name} in {side}" for name, side in sorted(sides.items()))
