"""Scores of a registered version on test cases that came after it: one folder a case, below `data/registry/scores`.

They belong to the archive, but not into a version's folder, which is replaced whole when its model is scored anew.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.archive import REGISTRY, SHORT, Version
from flows.model_files import load_json

SCORES = REGISTRY / "scores"
TABLE, BASIS = "cases.csv", "basis.json"


@dataclass(frozen=True)
class Basis:
    """What a stored score rests on, beside the bundle.

    Attributes:
        case_sha256: Of the case's files, as in the table of cases.
        settings: Params of `evaluate` that change the metrics of a single case.
        code: Digest of the code that predicts and scores; None where it was not known.
    """

    case_sha256: str
    settings: dict[str, Any]
    code: str | None


@dataclass(frozen=True)
class Unscored:
    """Test cases on which a champion has to be scored before the gate can compare.

    Attributes:
        champion: To be scored.
        challenger: Whose test cases and settings count.
        case_ids: The cases, sorted.
    """

    champion: Version
    challenger: Version
    case_ids: tuple[str, ...]


def rescored_table(version: Version, case_id: str) -> Path:
    """Where the rows of a case stand, in the columns of `data/metrics/<model>/cases.csv`."""
    return rescored_folder(version, case_id) / TABLE


def load_basis(version: Version, case_id: str) -> Basis | None:
    """What the stored score of a case rests on; None when there is none."""
    path = rescored_folder(version, case_id) / BASIS
    return Basis(**load_json(path, "register")) if path.is_file() else None


def remove_drafts() -> None:
    """Deletes what a killed run left half-written."""
    for path in SCORES.glob("*/*/.*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def rescored_folder(version: Version, case_id: str) -> Path:
    """Folder of a case; it is there only when it is whole."""
    return SCORES / version.name / version.bundle_sha256[:SHORT] / case_id
