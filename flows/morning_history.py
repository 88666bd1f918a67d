"""The last nights beside each other: how each ended, and the metric of the model in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from markupsafe import Markup

from flows.night_numbers import Score, load_score, version_name
from flows.nights import FAILED, KEPT, KILLED, PROMOTED, REFUSED, RUNNING, SKIPPED
from pipeline.figures import ticks
from pipeline.report_metrics import MetricFormat, metric_format

Record = Mapping[str, Any]
MOST_NIGHTS = 30
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1000.0, 250.0, 56.0, 16.0, 14.0, 40.0
MOST_DATES = 10  # below the axis
MARK = 5.5
# Colour, sign (told apart without colour) and words of each state.
STATES = {
    PROMOTED: ("green", "▲", "a new champion"),
    KEPT: ("neutral", "●", "the champion stays"),
    REFUSED: ("amber", "✕", "the challenger was refused"),
    SKIPPED: ("neutral", "–", "nothing was done"),
    FAILED: ("red", "!", "the night failed"),
    KILLED: ("red", "†", "the night was killed"),
    RUNNING: ("neutral", "…", "the night is at work"),
}


@dataclass(frozen=True)
class Point:
    """One night of the chart.

    Attributes:
        night_id: Of the night.
        date: Of its start, such as "27 Nov".
        champion: Score of the model in use after it.
        challenger: Score of the model that it judged; without a value when there was none.
        promoted: The challenger became the champion.
        names: Versions of champion and challenger.
    """

    night_id: str
    date: str
    champion: Score
    challenger: Score
    promoted: bool
    names: tuple[str, str]


@dataclass(frozen=True)
class History:
    """The last nights, oldest first.

    Attributes:
        metric: The one of the last decision; nights that went by another one have no point.
        points: One a night.
    """

    metric: str
    points: tuple[Point, ...]

    @property
    def shown(self) -> MetricFormat:
        """How the metric is written."""
        return metric_format(self.metric)


def collect_history(nights: Sequence[Record]) -> History:
    """The chart's content; a night that decided nothing has the champion that it began with.

    Args:
        nights: All up to the one that is reported, oldest first.
    """
    decided = [night["decision"] for night in nights if night.get("decision")]
    if not decided:
        return History("", ())
    name, metric = str(decided[-1]["name"]), str(decided[-1]["metric"])
    numbers = {k: v for night in nights for k, v in (night.get("version_numbers") or {}).items()}
    known: Record = {"version_numbers": numbers}
    points, champion = [], None
    for night in nights:
        decision = night.get("decision") or {}
        same = (decision.get("name"), decision.get("metric")) == (name, metric)
        champion = decision.get("champion_after") if same else night.get("champion") or champion
        judged = decision.get("challenger") if same and night["state"] in (PROMOTED, REFUSED) else None
        points.append(
            Point(
                night_id=str(night["night_id"]),
                date=day(night),
                champion=load_score(name, champion, metric),
                challenger=load_score(name, judged, metric),
                promoted=night["state"] == PROMOTED,
                names=(version_name(known, champion), version_name(known, judged)),
            )
        )
    return History(metric, tuple(points[-MOST_NIGHTS:]))


def day(night: Record) -> str:
    """Date of a night, such as "27 Nov"."""
    return f"{datetime.fromisoformat(night['started']):%-d %b}"


def draw_history(history: History) -> Markup:
    """Champion as a line with its interval, promoted challengers as filled and refused ones as hollow marks."""
    points = history.points
    spans = [
        v
        for p in points
        for s in (p.champion, p.challenger)
        for v in (s.value, s.low, s.high)
        if v is not None
    ]
    if not spans:
        return Markup('<p class="note">No model has been judged yet.</p>')
    ys = ticks(min(spans), max(spans))
    step = (WIDTH - LEFT - RIGHT) / len(points)
    xs = [LEFT + step * (i + 0.5) for i in range(len(points))]
    shown = history.shown

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - BOTTOM - TOP)

    description = f"{shown.title} of the champion over the last {len(points)} nights"
    parts = [
        Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, description)
    ]
    for y in ys:
        line = '<line class="grid" x1="{:g}" x2="{:g}" y1="{:.1f}" y2="{:.1f}"/>'
        parts.append(Markup(line).format(LEFT, WIDTH - RIGHT, y_of(y), y_of(y)))
        parts.append(_text(LEFT - 8, y_of(y) + 4, f"{y * shown.factor:g}", "end"))
    every = -(-len(points) // MOST_DATES)
    dated = [i for i in range(len(points)) if (len(points) - 1 - i) % every == 0]
    parts += [_text(xs[i], HEIGHT - BOTTOM + 18, points[i].date, "middle") for i in dated]
    parts += [*_steps(points, xs, step, y_of), *_marks(history, xs, y_of)]
    return Markup("").join([*parts, Markup("</svg>")])


def _steps(points: Sequence[Point], xs: Sequence[float], step: float, y_of: Any) -> list[Markup]:
    """The champion: a level piece a night with its interval, joined where one night follows another."""
    parts: list[Markup] = []
    path, pen = "", False
    for score, group in groupby(zip(points, xs, strict=True), lambda pair: pair[0].champion):
        places = [x for _, x in group]
        left, right = places[0] - step / 2, places[-1] + step / 2
        if score.value is None:
            pen = False
            continue
        if score.low is not None and score.high is not None:
            box = '<rect class="band" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
            top, bottom = y_of(score.high), y_of(score.low)
            parts.append(Markup(box).format(left, top, right - left, bottom - top))
        path += f"{'L' if pen else 'M'}{left:.1f} {y_of(score.value):.1f}L{right:.1f} {y_of(score.value):.1f}"
        pen = True
    return [*parts, Markup('<path class="curve s0" d="{}"/>').format(path)]


def _marks(history: History, xs: Sequence[float], y_of: Any) -> list[Markup]:
    parts = []
    for point, x in zip(history.points, xs, strict=True):
        if point.challenger.value is None:
            continue
        outcome = "promoted" if point.promoted else "refused"
        title = f"{point.date}: {point.names[1]} {outcome}, {history.shown.text(point.challenger.value)}"
        mark = '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:g}"><title>{}</title></circle>'
        parts.append(Markup(mark).format(outcome, x, y_of(point.challenger.value), MARK, title))
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
