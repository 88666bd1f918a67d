"""Where the labels of a data set come from: `annotations.csv` beside them, one row a label that was accepted."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pipeline.errors import SegtrailError

ANNOTATIONS = "annotations.csv"


@dataclass(frozen=True)
class AnnotationRow:
    """One accepted label.

    Attributes:
        case_id: Of the case.
        label: Its file, relative to the data set.
        label_sha256: Of that file.
        previous_sha256: Of the file that it replaced; "" where there was none.
        model, version, bundle_sha256: What drafted it.
        draft_sha256: Of the label map as drafted.
        changed_voxels: Voxels in which draft and accepted label differ.
        dice: Between the two, mean over the classes; "" where neither has any.
        accepted_by: Person.
        accepted_at: UTC, ISO 8601.
    """

    case_id: str
    label: str
    label_sha256: str
    previous_sha256: str
    model: str
    version: str
    bundle_sha256: str
    draft_sha256: str
    changed_voxels: str
    dice: str
    accepted_by: str
    accepted_at: str


COLUMNS = [f.name for f in fields(AnnotationRow)]


def load_annotations(path: Path) -> list[AnnotationRow]:
    """Reads the table, oldest row first; nothing where there is none.

    Raises:
        SegtrailError: It has other columns: a table of that name that came with the data.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != COLUMNS:
            what = f"columns are {reader.fieldnames}, expected {COLUMNS}"
            raise SegtrailError(what, str(path), "give the table that came with the data another name")
        return [AnnotationRow(**row) for row in reader]


def format_annotations(rows: Iterable[AnnotationRow]) -> str:
    """The table as text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
