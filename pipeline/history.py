"""The curves of a training: one row an epoch in `history.csv`."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any


def append_history(path: Path, row: dict[str, Any]) -> None:
    """Adds the row of an epoch, whole or not at all; rows that a resumed run repeats are replaced.

    Args:
        path: The CSV file.
        row: Has the key "epoch", counted from 1.
    """
    rows = [old for old in read_history(path) if int(old["epoch"]) < row["epoch"]]
    save_history([*rows, row], path)


def save_history(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes rows, at least one, whole or not at all; the last one has all columns."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
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


def mean_history(histories: Sequence[Sequence[Mapping[str, str]]]) -> list[dict[str, Any]]:
    """The mean of the curves of several trainings, for the epochs that all of them reached.

    Args:
        histories: Rows of each `history.csv`.

    Returns:
        Rows with the columns of the first one; empty where a training has no value, the mean of the numbers where
        some are NaN.
    """
    rows: list[dict[str, Any]] = []
    for together in zip(*histories, strict=False):
        row: dict[str, Any] = {}
        for column in together[0]:
            texts = [other.get(column, "") for other in together]
            row[column] = "" if "" in texts else _mean([float(text) for text in texts])
        rows.append({**row, "epoch": int(together[0]["epoch"]), "step": int(together[0]["step"])})
    return rows


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return fmean(defined) if defined else math.nan
