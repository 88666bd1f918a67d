"""Drift as small multiples: for each feature the reference as a histogram, the new cases as ticks below it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.drift import FeatureDrift
from pipeline.drift_report import format_p
from pipeline.views import DRAWING

COLUMNS = 3
MOST_PANELS = 24
MOST_BINS = 24
WIDE = 50.0  # largest over smallest value from which on the axis is logarithmic
# Told apart by people who do not see all colours, and in grey.
REFERENCE, SAME, DRIFTED = "#9aa5b1", "#0072b2", "#d55e00"
Columns = Mapping[str, Sequence[float | None]]


def draw_drift(found: Sequence[FeatureDrift], reference: Columns, new: Columns, path: Path) -> None:
    """Writes a PNG with a panel a feature, in the order given; drifted ones have a thick frame and say so.

    Args:
        found: At least one; of more than 24 features the first are drawn.
        reference: Values of each feature.
        new: Likewise.
        path: PNG file to write.
    """
    shown = found[:MOST_PANELS]
    rows = math.ceil(len(shown) / COLUMNS)
    figure = Figure(figsize=(10, 0.6 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, one in zip(panels, shown, strict=False):
        _draw(axes, one, _finite(reference[one.feature]), _finite(new.get(one.feature, ())))
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    left_out = len(found) - len(shown)
    title = "Cases of the champion (grey bars) and new cases (ticks and their median)"
    figure.suptitle(f"{title}; {left_out} more features" if left_out else title, fontsize=11)
    with DRAWING:
        figure.savefig(path, dpi=120, format="png")


def _draw(axes: Axes, one: FeatureDrift, reference: list[float], new: list[float]) -> None:
    colour = DRIFTED if one.drifted else SAME
    values = reference + new
    if values:
        edges = _edges(min(values), max(values))
        if min(values) > 0 and max(values) > WIDE * min(values):
            axes.set_xscale("log")
        heights = axes.hist(reference, bins=edges.tolist(), color=REFERENCE)[0]
        top = max(float(np.max(heights)), 1.0)
        axes.vlines(new, -0.28 * top, -0.06 * top, color=colour, linewidth=1.4)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(-0.34 * top, 1.1 * top))
        if new:
            axes.axvline(float(np.median(new)), color=colour, linewidth=1.6, linestyle="--")
    axes.set_yticks([])
    if axes.get_xscale() == "linear":
        axes.locator_params(axis="x", nbins=5)
    axes.tick_params(labelsize=9)
    axes.set_title(f"{one.feature}\n{_verdict(one)}", fontsize=9.5, color=colour if one.drifted else "0.15")
    axes.spines[["top", "right", "left"]].set_visible(one.drifted)
    if one.drifted:
        for spine in axes.spines.values():
            spine.set(edgecolor=colour, linewidth=2)


def _edges(low: float, high: float) -> NDArray[np.float64]:
    """Of the bars, a little beyond all values; by equal ratios where the values span several powers of ten."""
    if low > 0 and high > WIDE * low:
        return np.geomspace(low / 1.2, high * 1.2, MOST_BINS + 1)
    margin = 0.04 * (high - low) or max(abs(low), 1.0) * 0.05
    return np.linspace(low - margin, high + margin, MOST_BINS + 1)


def _verdict(one: FeatureDrift) -> str:
    if one.psi is None or one.ks is None:
        return "too few cases to compare"
    numbers = f"PSI {one.psi:.2f}, KS {one.ks:.2f}"
    if one.p_corrected is None:
        return f"{numbers}, too few cases to tell"
    return f"{'DRIFTED: ' if one.drifted else ''}{numbers}, p {format_p(one.p_corrected)}"


def _finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]
