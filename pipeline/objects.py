"""The table of reference objects: one row an object, written by `inspect`, what FROC is computed from."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pipeline.errors import SegtrailError

AGAIN = "dvc repro --force inspect"


@dataclass(frozen=True)
class ObjectRow:
    """One object of the reference of a case.

    Attributes:
        case_id: Name of the case.
        id: Its value in the case's instance map; 0 = a mark without a mask, ignored or wholly beneath others.
        label: Name of its class.
        diameter_mm: As annotated, else that of the sphere (2D: disc) of the same volume.
        x_mm: World position (RAS+) of its centre: as annotated, else its centre of gravity.
        y_mm: Likewise.
        z_mm: Likewise.
        voxels: Of its mask; 0 when it has none.
        readers: How many readers marked it; 0 = unknown.
        agreement: Mean Dice of the masks of each two of its readers; NaN when unknown, or with one reader.
        ignored: Whether it counts neither as found nor as missed, such as a finding too few readers agree on.
    """

    case_id: str
    id: int
    label: str
    diameter_mm: float
    x_mm: float
    y_mm: float
    z_mm: float
    voxels: int
    readers: int = 0
    agreement: float = math.nan
    ignored: bool = False


def save_objects(rows: Iterable[ObjectRow], path: Path) -> None:
    """Writes the table as CSV, by case_id, those without a mask last; an unknown agreement is left empty."""
    ordered = sorted(rows, key=lambda row: (row.case_id, row.id == 0, row.id))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(ObjectRow)], lineterminator="\n")
        writer.writeheader()
        for row in ordered:
            cells = asdict(row) | {"ignored": int(row.ignored)}
            writer.writerow(cells | ({"agreement": ""} if math.isnan(row.agreement) else {}))


def load_objects(path: Path) -> list[ObjectRow]:
    """Reads the table that `save_objects` wrote.

    Raises:
        SegtrailError: The file is missing, has other columns, or a cell is no number.
    """
    names = [f.name for f in fields(ObjectRow)]
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows, found = list(reader), list(reader.fieldnames or [])
    except FileNotFoundError as error:
        raise SegtrailError("the table of reference objects is missing", str(path), AGAIN) from error
    if found != names:
        raise SegtrailError(f"columns are {found}, expected {names}", str(path), AGAIN)
    try:
        return [_row(row) for row in rows]
    except ValueError as error:
        raise SegtrailError(f"a cell is no number: {error}", str(path), AGAIN) from error


def _row(row: dict[str, str]) -> ObjectRow:
    return ObjectRow(
        case_id=row["case_id"],
        id=int(row["id"]),
        label=row["label"],
        diameter_mm=float(row["diameter_mm"]),
        x_mm=float(row["x_mm"]),
        y_mm=float(row["y_mm"]),
        z_mm=float(row["z_mm"]),
        voxels=int(row["voxels"]),
        readers=int(row["readers"]),
        agreement=float(row["agreement"] or math.nan),
        ignored=bool(int(row["ignored"])),
    )
