"""What `inspect` found and mended, one row each, for a person and for tables; written beside `cases.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.cases import Finding


@dataclass(frozen=True)
class Fix:
    """Something that was mended without loss; the raw file stays as it is.

    Attributes:
        role: "label", "instances", or "image" with its number.
        fix: A name of `inspect.fix`.
        field: What the file says otherwise: "values", "affine", "axes" or "shape".
        before: What the file says.
        after: What counts.
        file: Path relative to the project.
    """

    role: str
    fix: str
    field: str
    before: str
    after: str
    file: str


@dataclass(frozen=True)
class FileFacts:
    """What is known of one file of a case.

    Attributes:
        role: As in `Fix`.
        bytes: Its size, of a folder that of its files; -1 when it is missing.
        dtype: Type of its voxels; "" when they could not be read, likewise empty tuples below.
        shape: Channels, then voxels along X, Y, Z as stored.
        spacing_mm: Voxel size along the same axes.
        origin_mm: RAS+ position of the first voxel.
        orientation: Axis codes as stored.
        header: Names and values of a header that can be read though the voxels cannot.
    """

    role: str
    bytes: int
    dtype: str = ""
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    origin_mm: tuple[float, ...] = ()
    orientation: str = ""
    header: tuple[tuple[str, str], ...] = ()


def save_findings(findings: Mapping[str, Sequence[Finding]], path: Path) -> None:
    """Writes one row a finding as CSV, by case_id, in the order in which a case's findings were made."""
    rows = [
        {"case_id": case_id, "code": f.code, "verdict": f.verdict}
        | {"measured": f.measured, "limit": f.limit, "reason": f.reason}
        for case_id, found in sorted(findings.items())
        for f in found
    ]
    _save(("case_id", "code", "verdict", "measured", "limit", "reason"), rows, path)


def save_fixes(fixes: Mapping[str, Sequence[Fix]], path: Path) -> None:
    """Writes one row a fix as CSV, by case_id."""
    rows = [{"case_id": case_id} | asdict(fix) for case_id, found in sorted(fixes.items()) for fix in found]
    _save(("case_id", *(f.name for f in fields(Fix))), rows, path)


def _save(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
