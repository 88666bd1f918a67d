"""The curves of a training: one row an epoch in `history.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_history(path: Path, row: dict[str, Any]) -> None:
    """Adds the row of an epoch, whole or not at all; rows that a resumed run repeats are replaced.

    Args:
        path: The CSV file.
        row: Has the key "epoch", counted from 1.
    """
    rows = [old for old in read_history(path) if int(old["epoch"]) < row["epoch"]]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
    temporary.replace(path)


def complete_history(path: Path, values: Mapping[str, float]) -> None:
    """Puts the validation that follows the last epoch into its row.

    Args:
        path: The CSV file, with at least one row.
        values: By column; names that are no column are left out.
    """
    last = read_history(path)[-1]
    known = {name: value for name, value in values.items() if name in last}
    append_history(path, {**last, "epoch": int(last["epoch"]), **known})


def read_history(path: Path) -> list[dict[str, str]]:
    """Rows of `history.csv`; none when it does not exist yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
