"""The report of a night, `.segtrail/nights/<night_id>/report.html`, and the table of all nights beside it.

One page that asks for nothing from outside and holds no script; every text from a file or a name is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.messages import compose, last_step, model_name, one_line
from flows.model_files import load_json
from flows.morning_history import MOST_NIGHTS, STATES, collect_history, day, draw_history
from flows.morning_parts import drift_rows, embed_picture, picture_views, step_bars
from flows.night_folder import NIGHTS, with_reserve
from flows.night_numbers import Comparison, Score, compare, load_score, version_page
from flows.nights import FAILED, KILLED, PROMOTED, RECORD, REFUSED, load_nights
from pipeline.disk import write_whole
from pipeline.pages import render_page
from pipeline.progress import format_seconds
from pipeline.report_metrics import metric_format
from pipeline.report_tables import DASH, format_number, moment, plain

Record = Mapping[str, Any]
REPORT, INDEX = "report.html", "index.html"
MOST_DRIFT_BYTES = 150_000  # with the other pictures, and as base64 a third more, the page stays below 1 MB


def write_morning_report(night_folder: Path) -> Path:
    """Writes the report of a night, and the table of all nights anew.

    Args:
        night_folder: Holds `night.json`, and what else the night left.

    Returns:
        The page.

    Raises:
        SegtrailError: The record is missing or damaged.
    """
    night = load_json(night_folder / RECORD, "night")
    nights = load_nights()
    places = [i for i, other in enumerate(nights) if other["night_id"] == night["night_id"]]
    earlier = nights[: places[0]] if places else nights
    page = _render("morning_template.html", **_view(night, [*earlier, night], night_folder))
    target = night_folder / REPORT
    with_reserve(lambda: write_whole(target, page))
    index = _render("nights_template.html", rows=[_index_row(n) for n in reversed(nights)])
    with_reserve(lambda: write_whole(NIGHTS / INDEX, index))
    return target


def _render(template: str, **view: Any) -> str:
    filters: dict[str, Any] = {"number": format_number, "plain": plain, "moment": moment, "line": one_line}
    filters["duration"] = lambda seconds: DASH if seconds is None else format_seconds(seconds)
    return render_page(template, "flows", "morning_style.css", filters, dash=DASH, **view)


def _view(night: Record, nights: Sequence[Record], folder: Path) -> dict[str, Any]:
    comparison = compare(night)
    history = collect_history(nights)
    drift = night.get("drift")
    drift_picture = folder / str(drift.get("picture")) if drift else folder
    return {
        "night": night,
        "title": compose(night).title,
        "name": model_name(night),
        "date": f"{datetime.fromisoformat(night['started']):%A, %-d %B %Y}",
        "colour": STATES[night["state"]][0],
        "headline": _headline(night, comparison),
        "hero": _hero(nights, history.metric),
        "comparison": comparison,
        "rows": _rows(comparison),
        "states": STATES,
        "strip": [_cell(other, night) for other in nights[-MOST_NIGHTS:]],
        "chart": draw_history(history) if history.points else "",
        "metric": history.shown,
        "tiles": _tiles(night),
        "steps": step_bars(night),
        "drift": drift,
        "features": drift_rows(drift) if drift else [],
        "drift_picture": embed_picture(drift_picture, MOST_DRIFT_BYTES),
        "pictures": picture_views(night),
        "links": _links(night, folder),
    }


def _headline(night: Record, comparison: Comparison | None) -> str:
    """How the night ended, in a few words."""
    state = night["state"]
    if state in (FAILED, KILLED):
        return f"{state.capitalize()} in step {last_step(night)}"
    if comparison is None or state not in (PROMOTED, REFUSED):
        return f"{state.capitalize()}: {STATES[state][2]}"
    if state == PROMOTED:
        return f"Promoted: {comparison.challenger} is the new champion"
    return f"Refused: {comparison.challenger}; {comparison.champion or 'no champion'} stays in use"


def _hero(nights: Sequence[Record], metric: str) -> dict[str, Any]:
    """The champion after the night: its number, interval and since when it is in use."""
    decided = [night for night in nights if night.get("decision")]
    last = decided[-1]["decision"] if decided else {}
    sha256 = (nights[-1].get("decision") or {}).get("champion_after") or nights[-1].get("champion")
    sha256 = sha256 or last.get("champion_after")
    score = load_score(str(last.get("name")), sha256, metric) if sha256 else Score()
    since = None
    for night in reversed(decided):
        if night["decision"].get("champion_after") != sha256:
            break
        since = night
    shown = metric_format(metric)
    numbers = {k: v for night in nights for k, v in (night.get("version_numbers") or {}).items()}
    known = Comparison(str(last.get("name")), metric, "", "", ())
    return {
        "metric": metric,
        "title": shown.title,
        "unit": shown.unit,
        "text": shown.text(score.value),
        "value": score.value,
        "interval": known.interval(score),
        "n": score.n,
        "version": f"v{numbers[sha256]}" if sha256 in numbers else str(sha256 or "")[:12],
        "since": day(since) if since and since is not decided[0] else "",
    }


def _rows(comparison: Comparison | None) -> list[dict[str, Any]]:
    if comparison is None:
        return []
    sides = ("champion", "challenger")
    return [
        {
            "label": row.label or comparison.metric,
            **{s: _side(comparison, getattr(row, s)) for s in sides},
            "change": comparison.change(row.difference.value),
            "change_interval": comparison.change_interval(row.difference),
            "pairs": plain(row.difference.n),
        }
        for row in comparison.rows
    ]


def _side(comparison: Comparison, score: Score) -> tuple[str, str, str]:
    return comparison.shown.text(score.value), comparison.interval(score), plain(score.n)


def _cell(other: Record, night: Record) -> dict[str, Any]:
    """A night of the strip."""
    colour, sign, words = STATES[other["state"]]
    here = other["night_id"] == night["night_id"]
    return {
        "colour": colour, "sign": sign, "day": day(other).partition(" ")[0], "here": here,
        "title": f"{day(other)}: {other['state']}, {words}", "link": "" if here else _report_link(other, "../"),
    }  # fmt: skip


def _report_link(night: Record, prefix: str) -> str:
    """Where the report of a night lies, seen from another page; "" when it was not written."""
    return f"{prefix}{night['night_id']}/{REPORT}" if (NIGHTS / night["night_id"] / REPORT).is_file() else ""


def _tiles(night: Record) -> list[tuple[str, str, str]]:
    """Number, words and colour of what happened to cases."""
    intake: Record | None = night.get("intake")  # None: no folder is watched
    cases = night.get("cases") or {}
    counts = [
        (len(intake[key]), key, colour)
        for key, colour in (("taken", ""), ("waiting", ""), ("refused", "amber"))
        if intake is not None
    ]
    if cases:
        counts.append((len(cases.get("quarantined") or []), "quarantined", "amber"))
        counts += [(cases["usable"], "usable", ""), (cases["total"], "cases in all", "")]
    return [(format_number(number), words, colour if number else "") for number, words, colour in counts]


def _links(night: Record, folder: Path) -> list[tuple[str, str]]:
    """Pages to go on to; only addresses of this folder and of web servers."""
    found = [("All nights", f"../{INDEX}")]
    if (report := night.get("project_report")) and Path(report).is_file():
        found.append(("Report of the project", Path(os.path.relpath(report, folder)).as_posix()))
    for name, address in (
        ("Model in MLflow", version_page(night)),
        ("Run in Prefect", str(night.get("prefect_url") or "")),
    ):
        if address.startswith(("http://", "https://")):
            found.append((name, address))
    return found


def _index_row(night: Record) -> dict[str, Any]:
    colour, _, words = STATES[night["state"]]
    cases = night.get("cases") or {}
    return {
        "night": night, "colour": colour, "words": words, "title": compose(night).title,
        "link": _report_link(night, ""), "new": len(cases.get("new") or []), "total": cases.get("total"),
    }  # fmt: skip
