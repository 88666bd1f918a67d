"""Whom the weights have learned from that a training begins with: nobody of its validation and test cases.

A side is a function of salt and patient, and so is a fold, so as long as nobody changes the split none ever is. Where
somebody has, weights that know the cases they are judged by would look better than they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.closing_validation import TABLE, load_table
from pipeline.splits import TEST, TRAIN, load_rows


@dataclass(frozen=True)
class SeenPatients:
    """Patients that had a part in a trained model.

    Attributes:
        trained: Of each of its networks those that it has learned from.
        used: Those, and the patients that chose its weights.
    """

    trained: tuple[frozenset[str], ...]
    used: frozenset[str]


@dataclass(frozen=True)
class Judges:
    """Patients that judge the networks to be trained.

    Attributes:
        validation: Those that choose the weights of each network.
        test: Those of the frozen test cases.
    """

    validation: tuple[frozenset[str], ...]
    test: frozenset[str]


def load_seen(splits: Path, folder: Path, members: int) -> SeenPatients:
    """Reads who had a part in a model.

    Args:
        splits: `splits.csv` as it was when the model was trained.
        folder: Its bundle, with `validation.csv` where there are folds: the fold of each case.
        members: Networks of the model.
    """
    rows = load_rows(splits)
    used = frozenset(row.patient_id for row in rows if row.split != TEST)
    if members == 1:
        return SeenPatients((frozenset(row.patient_id for row in rows if row.split == TRAIN),), used)
    patients = {row.case_id: row.patient_id for row in rows}
    folds = {row.case_id: row.fold for row in load_table(folder / TABLE)}
    trained = tuple(
        frozenset(patients[case_id] for case_id, fold in folds.items() if fold != member)
        for member in range(members)
    )
    return SeenPatients(trained, used)


def collect_judges(splits: Path, validation: Sequence[Collection[str]]) -> Judges:
    """Who judges the networks of a training.

    Args:
        splits: `splits.csv` of now.
        validation: Validation cases of each network.
    """
    rows = load_rows(splits)
    patients = {row.case_id: row.patient_id for row in rows}
    test = frozenset(row.patient_id for row in rows if row.split == TEST)
    return Judges(tuple(frozenset(patients[case_id] for case_id in cases) for cases in validation), test)


def find_leaks(judges: Judges, ancestors: Iterable[SeenPatients]) -> list[str]:
    """Why the judges would not be impartial; empty where they are.

    Args:
        judges: Of the training.
        ancestors: Its parent, that one's parent, and so on: weights keep what any of them has learned. Each has as
            many networks as are trained.
    """
    tested: set[str] = set()
    validated: set[str] = set()
    for seen in ancestors:
        tested |= judges.test & seen.used
        for judging, trained in zip(judges.validation, seen.trained, strict=True):
            validated |= judging & trained
    found = {"test": tested, "validation": validated}
    return [
        f"{len(patients)} patient(s) of the {side} cases had a part in its training: the split has changed since"
        for side, patients in found.items()
        if patients
    ]
