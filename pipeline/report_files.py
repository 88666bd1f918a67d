"""Reading the files that stages have written, each problem as one clear error that names the stage."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from pipeline.errors import SegtrailError


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """A JSON object that a stage wrote.

    Raises:
        SegtrailError: It is missing or damaged.
    """
    try:
        record = json.loads(_text(path, stage))
    except json.JSONDecodeError as error:
        raise _damaged(path, stage, str(error)) from error
    if not isinstance(record, dict):
        raise _damaged(path, stage, f"it holds a {type(record).__name__}, expected an object")
    return record


def read_csv(path: Path, stage: str, columns: set[str]) -> list[dict[str, str]]:
    """Rows of a table that has at least these columns.

    Raises:
        SegtrailError: It is missing, damaged, or has other columns.
    """
    reader = csv.DictReader(io.StringIO(_text(path, stage)))
    rows, heading = list(reader), reader.fieldnames or []
    if not columns <= set(heading):
        raise _damaged(path, stage, f"its columns are {list(heading)}, expected {sorted(columns)} among them")
    if any(None in row or None in row.values() for row in rows):
        raise _damaged(path, stage, "a row has more or fewer columns than the heading")
    return rows


def _text(path: Path, stage: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise missing(path, stage) from error
    except UnicodeDecodeError as error:
        raise _damaged(path, stage, str(error)) from error


def _damaged(path: Path, stage: str, problem: str) -> SegtrailError:
    return SegtrailError(
        f"{path.name} cannot be read: {problem}", str(path), f"dvc repro --force --single-item {stage}"
    )


def finite(value: Any) -> float | None:
    """The number, or None for empty text, null, NaN and infinity."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def missing(path: Path, stage: str) -> SegtrailError:
    """The error of a file that a stage should have written."""
    return SegtrailError(f"a file of stage {stage} is missing", str(path), f"dvc repro {stage}")
