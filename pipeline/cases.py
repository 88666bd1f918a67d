"""The table of cases: one row a case, written by `inspect`, read by every later stage."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pipeline.errors import SegtrailError

OK = "ok"
FIXED = "fixed"
WARN = "warn"
QUARANTINED = "quarantined"
VERDICTS = (OK, FIXED, WARN, QUARANTINED)  # from best to worst; that of a case is the worst of its findings


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a case.

    Attributes:
        code: Machine-readable, such as "not_finite".
        reason: For a person, with the measured value and the limit.
        fatal: Whether the case is quarantined for it; otherwise it only warns.
        measured: The value that was found, with its unit; "" where a sentence says it better.
        limit: The value that would have been right, or the params key with its value; "" likewise.
        fixed: Whether it was mended without loss, so that it need not even warn.
    """

    code: str
    reason: str
    fatal: bool = True
    measured: str = ""
    limit: str = ""
    fixed: bool = False

    @property
    def verdict(self) -> str:
        """What the finding alone makes of a case."""
        return QUARANTINED if self.fatal else FIXED if self.fixed else WARN


@dataclass(frozen=True)
class CaseRecord:
    """One case of a data set.

    Attributes:
        case_id: Unique name, also the stem of every file made for the case.
        patient_id: Cases of one patient never stand on two sides of a split.
        site: Where the case comes from; "" when unknown.
        images: In the order of the data set's channels: one file a channel, or one file (or folder of a DICOM
            series) with all of them; paths relative to the project.
        label: Label map file, "" when the case has none. Where the raw data hold no label maps, `inspect`
            derives them once, into `data/inspected/references`.
        instances: Instance map file (ids 1..n), "" when there is none.
        sha256: Of the images' bytes and of the references' (of derived ones: of their voxels); it changes when
            anything changes that a model is trained on.
        shape: Voxels along X, Y, Z in canonical (RAS+) axis order.
        spacing_mm: Voxel size along the same axes.
        orientation: Axis codes of the file as stored, such as "LPS".
        verdict: "ok", "fixed", "warn" or "quarantined".
        code: Machine-readable reason of the verdict, "" when ok.
        reason: The same for a person, with measured value and limit.
        fixes: What whoever reads the reference must mend, as "role:fix", such as "label:orientation"; the raw
            files stay as they are (`pipeline.io.case_maps`).
    """

    case_id: str
    patient_id: str
    site: str
    images: tuple[str, ...]
    label: str
    instances: str
    sha256: str = ""
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    verdict: str = OK
    code: str = ""
    reason: str = ""
    fixes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether later stages may use the case."""
        return self.verdict != QUARANTINED


def save_cases(cases: Iterable[CaseRecord], path: Path) -> None:
    """Writes the table as CSV, sorted by case_id; tuples become `;`-joined text."""
    rows = sorted((asdict(case) for case in cases), key=lambda row: str(row["case_id"]))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(CaseRecord)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: ";".join(map(str, v)) if isinstance(v, tuple) else v for k, v in row.items()})


def load_cases(path: Path) -> list[CaseRecord]:
    """Reads the table that `save_cases` wrote.

    Raises:
        SegtrailError: The file is missing or has other columns.
    """
    names = [f.name for f in fields(CaseRecord)]
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except FileNotFoundError as error:
        raise SegtrailError("the table of cases is missing", str(path), "dvc repro inspect") from error
    if rows and list(rows[0]) != names:
        raise SegtrailError(
            f"columns are {list(rows[0])}, expected {names}", str(path), "dvc repro --force inspect"
        )
    return [_record(row) for row in rows]


def _record(row: dict[str, str]) -> CaseRecord:
    return CaseRecord(
        **{k: v for k, v in row.items() if k not in ("images", "shape", "spacing_mm", "fixes")},
        images=_split(row["images"]),
        fixes=_split(row["fixes"]),
        shape=tuple(int(v) for v in _split(row["shape"])),
        spacing_mm=tuple(float(v) for v in _split(row["spacing_mm"])),
    )


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split(";")) if text else ()


def usable_cases(cases: Sequence[CaseRecord]) -> list[CaseRecord]:
    """Cases that are not quarantined."""
    return [case for case in cases if case.usable]
