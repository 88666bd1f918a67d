"""Small charts as inline SVG: no colours of their own, so that a page's style sheet paints light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup, escape

MOST_POINTS = 400  # of a curve; more cannot be told apart at the width of a page
DOT_RADIUS = 4.5
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 360.0, 220.0, 46.0, 12.0, 10.0, 36.0  # of a line chart
CHARACTER = 7.2  # width in pixels of a letter of a row's name
# Rates of a FROC curve, in false positives a scan, with their texts.
FROC_TICKS = ((0.125, "1/8"), (0.25, "1/4"), (0.5, "1/2"), (1.0, "1"), (2.0, "2"), (4.0, "4"), (8.0, "8"))


@dataclass(frozen=True)
class Curve:
    """One line of a line chart.

    Attributes:
        name: Text of the legend.
        points: (x, y) by rising x; only finite numbers.
        style: CSS class that gives the colour, such as "s0".
    """

    name: str
    points: tuple[tuple[float, float], ...]
    style: str


@dataclass(frozen=True)
class DotRow:
    """One row of a dot plot: a dot a case, the mean and its interval.

    Attributes:
        name: Text at the left.
        dots: (case id, value); only finite numbers.
        mean: None when it is not defined.
        interval: (low, high), None when it is not defined.
        style: CSS class that gives the colour.
        mean_name: What the bar is called; of numbers that are pooled over cases it is no mean.
    """

    name: str
    dots: tuple[tuple[str, float], ...]
    mean: float | None
    interval: tuple[float, float] | None
    style: str
    mean_name: str = "mean"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (steps of 1, 2 or 5 times a power of ten) that cover an interval.

    Args:
        low: Lower end.
        high: Upper end; an empty interval is widened.
        count: Number of steps aimed at.
    """
    if not high > low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def level_out(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Brings a FROC curve to the range from 1/8 to 8: linear between its points, level behind the last.

    Args:
        points: False positives a scan, rising, and sensitivity; at least one.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    first, last = FROC_TICKS[0][0], FROC_TICKS[-1][0]
    ends = np.interp([first, last], xs, ys).tolist()
    return [(first, ends[0]), *((x, y) for x, y in points if first < x < last), (last, ends[1])]


def line_chart(
    curves: Sequence[Curve],
    description: str,
    x_label: str,
    y_range: tuple[float, float] | None = None,
    mark: tuple[float, str] | None = None,
    x_ticks: Sequence[tuple[float, str]] = (),
) -> Markup:
    """Draws curves over a common x axis; a curve of one point is a dot.

    Args:
        curves: Drawn in this order, the last on top.
        description: Read out instead of the picture.
        x_label: Below the axis, which counts from 0, such as epochs, unless there are `x_ticks`.
        y_range: Ends of the y axis; None = of the data.
        mark: An x position with a text, drawn as a dashed line.
        x_ticks: Positions and texts on another axis; its ends are the first and the last of them, and points
            beyond them are left out.
    """
    start, end = (x_ticks[0][0], x_ticks[-1][0]) if x_ticks else (0.0, 1.0)
    if x_ticks:
        curves = [replace(c, points=tuple(p for p in c.points if start <= p[0] <= end)) for c in curves]
    points = [p for curve in curves for p in curve.points]
    if not points:
        return Markup('<p class="note">No values were recorded.</p>')
    if not x_ticks:
        end = max(*(p[0] for p in points), mark[0] if mark else 0.0, 1.0)
        x_ticks = [(x, f"{x:g}") for x in _whole_ticks(end)]
    ys = ticks(*(y_range or (min(p[1] for p in points), max(p[1] for p in points))))
    x_of = _scale(start, end, LEFT, WIDTH - RIGHT)
    y_of = _scale(ys[0], ys[-1], HEIGHT - BOTTOM, TOP)
    parts = [_open(WIDTH, HEIGHT, description)]
    for y in ys:
        parts.append(f'<line class="grid" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" {_at("y", y_of(y))}/>')
        parts.append(_text(LEFT - 6, y_of(y) + 3.5, f"{y:g}", "end"))
    parts += [_text(x_of(x), HEIGHT - BOTTOM + 15, text, "middle") for x, text in x_ticks]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x_label, "middle", "axis"))
    if mark:
        x, side = x_of(mark[0]), "end" if mark[0] > end / 2 else "start"
        parts.append(f'<line class="mark" {_at("x", x)} y1="{TOP:g}" y2="{HEIGHT - BOTTOM:g}"/>')
        parts.append(_text(x + (-4 if side == "end" else 4), HEIGHT - BOTTOM - 6, mark[1], side, "axis"))
    parts += [_line(curve, x_of, y_of) for curve in curves if curve.points]
    return Markup("".join(parts) + "</svg>")


def _line(curve: Curve, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> str:
    if len(curve.points) == 1:
        ((x, y),) = curve.points
        return (
            f'<circle class="dot {escape(curve.style)}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" '
            f'r="{DOT_RADIUS:g}"><title>{escape(curve.name)}: {y:.3f}</title></circle>'
        )
    path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in _thinned(curve.points))
    return f'<polyline class="curve {escape(curve.style)}" points="{path}"/>'


def dot_plot(
    rows: Sequence[DotRow], description: str, x_label: str, x_range: tuple[float, float] | None = None
) -> Markup:
    """Draws a dot a case, one row a class and model; the mean is a bar, its interval a line.

    Args:
        rows: From top to bottom.
        description: Read out instead of the picture.
        x_label: With unit.
        x_range: Ends of the axis; None = of the data.
    """
    values = [v for row in rows for _, v in row.dots]
    if not values:
        return Markup('<p class="note">No case has a defined value.</p>')
    width, right, top, step, bottom = 1064.0, 18.0, 6.0, 56.0, 42.0
    left = min(24 + CHARACTER * max(len(row.name) for row in rows), width / 3)
    height = top + step * len(rows) + bottom
    xs = ticks(*(x_range or (min(values), max(values))))
    x_of = _scale(xs[0], xs[-1], left, width - right)
    parts = [_open(width, height, description)]
    for x in xs:
        parts.append(
            f'<line class="grid" {_at("x", x_of(x))} y1="{top:g}" y2="{height - bottom:g}"/>'
            + _text(x_of(x), height - bottom + 16, f"{x:g}", "middle")
        )
    parts.append(_text((left + width - right) / 2, height - 5, x_label, "middle", "axis"))
    for i, row in enumerate(rows):
        parts.append(_dot_row(row, top + step * (i + 0.5), step, left, x_of))
    return Markup("".join(parts) + "</svg>")


def _dot_row(row: DotRow, middle: float, step: float, left: float, x_of: Callable[[float], float]) -> str:
    parts = [f'<g class="{escape(row.style)}">', _text(left - 12, middle + 4, row.name, "end", "row")]
    for case_id, value in _swarm(row.dots, x_of, step):
        parts.append(
            f'<circle class="dot" cx="{x_of(value[0]):.1f}" cy="{middle + value[1]:.1f}" r="{DOT_RADIUS:g}">'
            f"<title>{escape(case_id)}: {value[0]:.3f}</title></circle>"
        )
    if row.interval:
        low, high = (x_of(v) for v in row.interval)
        parts.append(f'<line class="interval" x1="{low:.1f}" x2="{high:.1f}" {_at("y", middle)}/>')
    if row.mean is not None:
        parts.append(
            f'<line class="mean" {_at("x", x_of(row.mean))} y1="{middle - 12:.1f}" y2="{middle + 12:.1f}">'
            f"<title>{escape(row.mean_name)} {row.mean:.3f}</title></line>"
        )
    return "".join(parts) + "</g>"


def _swarm(
    dots: Sequence[tuple[str, float]], x_of: Callable[[float], float], step: float
) -> list[tuple[str, tuple[float, float]]]:
    """Moves dots up and down, in turn, so that neighbours do not hide one another."""
    placed: list[tuple[float, float]] = []
    result = []
    lanes = [0.0] + [
        s * k * DOT_RADIUS * 2 for k in range(1, int(step / DOT_RADIUS / 4) + 1) for s in (-1, 1)
    ]
    for case_id, value in sorted(dots, key=lambda d: (d[1], d[0])):
        x = x_of(value)
        free = (
            lane
            for lane in lanes
            if all(abs(x - px) >= 2 * DOT_RADIUS or lane != plane for px, plane in placed[-len(lanes) * 3 :])
        )
        lane = next(free, 0.0)
        placed.append((x, lane))
        result.append((case_id, (value, lane)))
    return result


def _whole_ticks(end: float) -> list[float]:
    """Ticks of an axis of counts, such as epochs, from 0 to at most `end`."""
    return sorted({float(round(t)) for t in ticks(0.0, end) if t <= end})


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    stride = math.ceil(len(points) / MOST_POINTS)
    return [*points[:-1:stride], points[-1]] if stride > 1 else points


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _open(width: float, height: float, description: str) -> str:
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}">'


def _at(axis: str, value: float) -> str:
    return f'{axis}1="{value:.1f}" {axis}2="{value:.1f}"'


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
