"""The table of readers: how far those of one case agree, written by `inspect`, read by `evaluate`."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

READERS = "readers.csv"


@dataclass(frozen=True)
class ReaderRow:
    """One class or region in one case that several readers labelled.

    Attributes:
        case_id: Of the case.
        label: Name of the class or region.
        readers: Their number.
        reader_dice: Mean Dice of each two readers; NaN where nobody drew it.
        least_voxels, most_voxels: Of the readers' masks.
    """

    case_id: str
    label: str
    readers: int
    reader_dice: float
    least_voxels: int
    most_voxels: int


def save_readers(rows: Iterable[ReaderRow], path: Path) -> None:
    """Writes the table as CSV, sorted by case; an undefined Dice is left empty."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(ReaderRow)], lineterminator="\n")
        writer.writeheader()
        for row in sorted(rows, key=lambda row: row.case_id):
            writer.writerow({k: "" if v != v else v for k, v in asdict(row).items()})


def reader_dice(rows: Iterable[ReaderRow], case_ids: Collection[str]) -> dict[tuple[str, str], float]:
    """Agreement of the readers of some cases, by case id and class or region."""
    return {(row.case_id, row.label): row.reader_dice for row in rows if row.case_id in case_ids}


def load_readers(path: Path) -> list[ReaderRow]:
    """Reads what `save_readers` wrote; nothing where no case has several readers."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            ReaderRow(
                case_id=row["case_id"],
                label=row["label"],
                readers=int(row["readers"]),
                reader_dice=float(row["reader_dice"] or math.nan),
                least_voxels=int(row["least_voxels"]),
                most_voxels=int(row["most_voxels"]),
            )
            for row in csv.DictReader(stream)
        ]
