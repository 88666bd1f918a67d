"""Cross-validation: which fold validates a patient, the same however others come and go.

Why it is a hash and not a balanced deal: `docs/explanation/splits.md`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.errors import SegtrailError
from pipeline.splits import draw_unit

DRAW_FILE = "split.json"


@dataclass(frozen=True)
class Draw:
    """What decides about folds, beside the patient's id.

    Attributes:
        salt: `split.salt`, as the split was made with it.
        linked: Patients with copies of each other's images, and whose fold they share.
    """

    salt: str
    linked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fold:
    """The two sides of one training.

    Attributes:
        training_cases, validation_cases: Case ids, sorted.
    """

    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]


def choose_fold(patient_id: str, salt: str, folds: int) -> int:
    """The fold, from 0, that validates a patient: a pure function of the three.

    The number is drawn apart from that of the side: within the patients who are not tested, that one is not
    uniform.
    """
    return int(draw_unit(f"{salt}:fold", patient_id) * folds)


def assign_folds(patients: Mapping[str, str], draw: Draw, folds: int, where: str) -> list[Fold]:
    """Gives every case its fold; all cases of a patient share one, and so do patients with copies of one image.

    Args:
        patients: Patient of each case that is not tested.
        draw: Of the split.
        folds: How many, at least 2.
        where: The param that asks for them, for errors.

    Raises:
        SegtrailError: A fold would stay without a case.
    """
    patients = {case_id: draw.linked.get(patient, patient) for case_id, patient in patients.items()}
    chosen = {case_id: choose_fold(patient, draw.salt, folds) for case_id, patient in patients.items()}
    empty = [fold for fold in range(folds) if fold not in chosen.values()]
    if empty:
        raise _empty_fold(patients, draw.salt, folds, empty, where)
    return [
        Fold(
            tuple(sorted(case_id for case_id in chosen if chosen[case_id] != fold)),
            tuple(sorted(case_id for case_id in chosen if chosen[case_id] == fold)),
        )
        for fold in range(folds)
    ]


def _empty_fold(
    patients: Mapping[str, str], salt: str, folds: int, empty: Sequence[int], where: str
) -> SegtrailError:
    people = set(patients.values())
    fewer = next(
        (n for n in range(folds - 1, 1, -1) if len({choose_fold(p, salt, n) for p in people}) == n), 1
    )
    return SegtrailError(
        f"no labelled case in fold {' and '.join(map(str, empty))} of 0 to {folds - 1}: "
        f"{len(people)} patient(s) outside the test set",
        where,
        f"set folds: {fewer}, or add labelled cases of other patients",
    )


def save_draw(draw: Draw, path: Path) -> None:
    """Notes beside a split what its folds follow from."""
    path.write_text(json.dumps(asdict(draw)) + "\n", encoding="utf-8")


def load_draw(path: Path) -> Draw:
    """What the folds of a split follow from.

    Raises:
        SegtrailError: The file is missing or damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        linked = {str(patient): str(first) for patient, first in record.get("linked", {}).items()}
        return Draw(str(record["salt"]), linked)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SegtrailError(
            f"the salt of the split cannot be read: {error!r}", str(path), "dvc repro --force split"
        ) from error
