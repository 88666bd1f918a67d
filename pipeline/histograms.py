"""Small histograms as inline SVG, in the colours of the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from pipeline.figures import ticks

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 260.0, 130.0, 34.0, 8.0, 8.0, 30.0
MOST_BINS = 24


def histogram(values: Sequence[float], description: str, x_label: str) -> Markup:
    """Draws how many cases have which value.

    Args:
        values: One a case; NaN and Inf are left out.
        description: Read out instead of the picture.
        x_label: With unit.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    if not finite.size:
        return Markup('<p class="note">No values.</p>')
    xs = ticks(float(finite.min()), float(finite.max()), 4)
    bins = int(min(MOST_BINS, max(6, math.ceil(math.sqrt(finite.size)) * 2)))
    counts, edges = np.histogram(finite, bins, (xs[0], xs[-1]))
    ys = ticks(0.0, float(counts.max()), 3)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x_of(value: float) -> float:
        return LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (right - LEFT)

    def y_of(value: float) -> float:
        return bottom - value / ys[-1] * (bottom - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(description)}">']
    for y in (y for y in ys if float(y).is_integer()):
        parts.append(
            f'<line class="grid" x1="{LEFT:g}" x2="{right:g}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}"/>'
        )
        parts.append(_text(LEFT - 5, y_of(y) + 3.5, f"{y:g}", "end"))
    for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            parts.append(
                f'<rect class="bar" x="{x_of(low) + 0.5:.1f}" y="{y_of(count):.1f}" '
                f'width="{max(x_of(high) - x_of(low) - 1, 1):.1f}" height="{bottom - y_of(count):.1f}">'
                f"<title>{count} from {low:.4g} to {high:.4g}</title></rect>"
            )
    parts += [_text(x_of(x), bottom + 12, f"{x:g}", "middle") for x in xs]
    parts.append(_text((LEFT + right) / 2, HEIGHT - 3, x_label, "middle"))
    return Markup("".join(parts) + "</svg>")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
