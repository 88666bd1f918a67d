"""Tables of a raw data set when cases come in: what its text files must then hold; nothing is written."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.cases import CaseRecord
from pipeline.errors import collect, unknown_name
from pipeline.io.dataset import Listing, read_table

PATIENTS = ("case_id", "patient_id", "site")
Rows = list[dict[str, str]]


def load_rows(path: Path) -> Rows:
    """Rows of a CSV file with a header line; cells are stripped, rows without any text left out.

    Raises:
        SegtrailError: The file cannot be read as such a table.
    """
    listing = Listing(path.parent)
    rows = read_table(path, (), listing)
    if listing.problems:
        raise collect(listing.problems)
    return rows


def format_rows(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """A CSV text with a header line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def append_rows(path: Path, added: Sequence[Mapping[str, str]]) -> str:
    """The text of a table with further rows.

    Raises:
        SegtrailError: A row has a column that the table lacks.
    """
    rows = load_rows(path)
    columns = list((rows or added)[0])
    for name in (name for row in added for name, value in row.items() if value and name not in columns):
        raise unknown_name("column", name, columns, str(path))
    return format_rows(columns, [*rows, *added])


def append_patients(path: Path, records: Sequence[CaseRecord], added: Sequence[Mapping[str, str]]) -> str:
    """The text of `patients.csv` with further rows; where there was none, with those of the cases before too.

    Args:
        path: Of the table.
        records: Cases of the data set before.
        added: Rows with case_id, patient_id and, if there is one, site.
    """
    if path.is_file():
        columns = (*load_rows(path)[:1], dict.fromkeys(PATIENTS, ""))[0]
        return append_rows(path, [{k: v for k, v in row.items() if k in columns} for row in added])
    before = [dict(zip(PATIENTS, (r.case_id, r.patient_id, r.site), strict=True)) for r in records]
    return format_rows(PATIENTS, [*before, *({k: row.get(k, "") for k in PATIENTS} for row in added)])


def append_training(facts: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> str:
    """The text of an MSD `dataset.json` with further entries in its training list.

    Args:
        facts: What the file holds.
        pairs: Image and label of each case, relative to the data set.
    """
    entries = [{"image": f"./{image}", "label": f"./{label}"} for image, label in pairs]
    changed: Mapping[str, Any] = {**facts, "training": [*facts["training"], *entries]}
    if "numTraining" in facts:
        changed = {**changed, "numTraining": len(changed["training"])}
    return json.dumps(changed, indent=2, ensure_ascii=False) + "\n"
