"""Leakage: what must never stand on two sides of a split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from pipeline.cases import CaseRecord, usable_cases
from pipeline.errors import SegtrailError, collect
from pipeline.splits import SplitRow, find_repeated_cases, find_split_patients, list_sides


def check_leakage(rows: Sequence[SplitRow], cases: Sequence[CaseRecord]) -> None:
    """Refuses a split, its own or one edited by hand, that does not fit the cases or leaks.

    Args:
        rows: The split.
        cases: The whole table of cases.

    Raises:
        SegtrailError: Lists every case that is missing, unknown, quarantined or named twice, every patient
            on two sides, and every group of cases with the same voxels on two sides.
    """
    errors = [*_wrong_rows(rows, cases), *find_split_patients(rows, cases), *_split_voxels(rows, cases)]
    if errors:
        raise collect(errors)


def _wrong_rows(rows: Sequence[SplitRow], cases: Sequence[CaseRecord]) -> list[SegtrailError]:
    known = {case.case_id: case for case in cases}
    errors = find_repeated_cases(rows)
    for row in rows:
        case = known.get(row.case_id)
        if case is None:
            what, fix = "the case is not in cases.csv", "take the row out, or add the case to the raw data"
        elif not case.usable:
            what, fix = f"the case is quarantined ({case.code})", "take the row out"
        elif case.patient_id != row.patient_id:
            what = f"patient_id is {row.patient_id!r}, expected {case.patient_id!r} as in cases.csv"
            fix = "write the patient_id of cases.csv"
        else:
            continue
        errors.append(SegtrailError(what, f"{row.case_id} in splits.csv", fix))
    named = {row.case_id for row in rows}
    for case in usable_cases(cases):
        if case.case_id not in named:
            fix = "add a row, or dvc repro -f split"
            errors.append(SegtrailError("the case has no row", f"{case.case_id} in splits.csv", fix))
    return errors


def _split_voxels(rows: Sequence[SplitRow], cases: Sequence[CaseRecord]) -> list[SegtrailError]:
    side_of = {row.case_id: row.split for row in rows}
    known = {case.case_id: case for case in cases}
    errors = []
    for group in sorted({frozenset(names & side_of.keys()) for names in _alike(cases)}, key=sorted):
        sides = {name: side_of[name] for name in group}
        if len(set(sides.values())) > 1:
            patients = {name: f"{side} (patient {known[name].patient_id})" for name, side in sides.items()}
            errors.append(
                SegtrailError(
                    f"voxel leakage: the same images on two sides: {list_sides(patients)}",
                    f"{', '.join(sorted(group))} in data/inspected/cases.csv",
                    "give them one patient_id, or take the copy out of the raw data set",
                )
            )
    return errors


def find_linked_patients(cases: Sequence[CaseRecord]) -> dict[str, str]:
    """Patients with copies of each other's images, who must stay together wherever patients are parted.

    Args:
        cases: The whole table of cases.

    Returns:
        The alphabetically first patient of the group, for each patient whose group is larger than one.
    """
    patient_of = {case.case_id: case.patient_id for case in cases}
    above = {patient: patient for patient in patient_of.values()}  # towards the first patient of the group

    def first_of(patient: str) -> str:
        while above[patient] != patient:
            above[patient] = above[above[patient]]
            patient = above[patient]
        return patient

    for names in _alike(cases):
        first, *others = sorted({first_of(patient_of[name]) for name in names})
        above.update(dict.fromkeys(others, first))
    firsts = {patient: first_of(patient) for patient in sorted(above)}
    sizes = Counter(firsts.values())
    return {patient: first for patient, first in firsts.items() if sizes[first] > 1}


def _alike(cases: Sequence[CaseRecord]) -> Iterable[set[str]]:
    """Cases with the same files, and cases that the inspection found to be copies of one."""
    known = {case.case_id for case in cases}
    alike: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        original = _original(case, known)
        alike[f"files {case.sha256 or case.case_id}"].add(case.case_id)
        alike[f"case {original}"].update((case.case_id, original))
    return alike.values()


def _original(case: CaseRecord, known: Collection[str]) -> str:
    """The case that the inspection found this one to be a copy of; the case itself when it is none."""
    named = [c.removeprefix("duplicate_of:") for c in case.code.split(";") if c.startswith("duplicate_of:")]
    return next((name for name in named if name in known), case.case_id)
