"""Writers of JSON and CSV for made-up projects; the standard library alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], heading: Iterable[str] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(heading) or list(rows[0]), lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
