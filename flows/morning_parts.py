"""Parts of the morning report: steps as bars, drift as a table, pictures of the challenger's test cases."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.archive import version_folder
from flows.night_numbers import compare
from flows.nights import RUNNING
from pipeline.report_tables import DASH, format_number, plain

Record = Mapping[str, Any]
PICTURES = {"worst": "worst case", "objects_worst": "worst case, objects", "median": "median case"}
MOST_PICTURE_BYTES = 520_000  # of the test cases
DRIFT_DIGITS = 3


def step_bars(night: Record) -> list[dict[str, Any]]:
    """Steps with the share of the longest one as a bar; this page is being made, so its own step is not told."""
    over = night["state"] != RUNNING
    steps = [
        s
        for s in night["steps"]
        if not (over and s["name"] in ("report", "notify") and s["state"] == RUNNING)
    ]
    longest = max((step["seconds"] for step in steps), default=0.0) or 1.0
    colours = {"failed": "red", RUNNING: "amber"}
    return [
        {
            **step,
            "state": "not finished" if over and step["state"] == RUNNING else step["state"],
            "share": 100 * step["seconds"] / longest,
            "colour": colours.get(step["state"], ""),
        }
        for step in steps
    ]


def drift_rows(drift: Record) -> list[dict[str, Any]]:
    """Lines of the table of drift, the drifted features first."""
    ordered = sorted(drift["features"], key=lambda feature: not feature["drifted"])
    return [
        {
            "name": feature["feature"],
            "drifted": feature["drifted"],
            "psi": format_number(feature["psi"], DRIFT_DIGITS),
            "ks": format_number(feature["ks"], DRIFT_DIGITS),
            "p": plain(feature["p_corrected"]),
            **{side: _spread(feature.get(side)) for side in ("reference", "new")},
        }
        for feature in ordered
    ]


def _spread(facts: Record | None) -> str:
    return DASH if not facts else f"{plain(facts['p50'])} ({plain(facts['p05'])} to {plain(facts['p95'])})"


def picture_views(night: Record, most_bytes: int = MOST_PICTURE_BYTES) -> list[dict[str, str]]:
    """Overlays of the challenger that the night judged, the worst case first, as many as fit."""
    comparison, decision = compare(night), night.get("decision") or {}
    if comparison is None or not comparison.challenger:
        return []
    folder = version_folder(comparison.name, decision["challenger"]) / "metrics" / "overlays"
    shown = []
    for rank, words in PICTURES.items():
        for path in sorted(folder.glob(f"{rank}_*.png"))[:1]:
            source = embed_picture(path, most_bytes)
            most_bytes -= path.stat().st_size if source else 0
            if source:
                shown.append({"source": source, "rank": words, "case_id": path.stem.removeprefix(f"{rank}_")})
    return shown


def embed_picture(path: Path, most_bytes: int) -> str:
    """A PNG as the source of an image; "" for one that is missing or too large."""
    if not path.is_file() or path.stat().st_size > most_bytes:
        return ""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
