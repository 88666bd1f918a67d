"""Plots over all cases of an evaluation, as PNG files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import FROC_TICKS, level_out
from pipeline.views import DRAWING

# Of a curve: its name, and its points.
Curves = Mapping[str, Sequence[tuple[float, float]]]


def draw_dice_by_case(dice: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draws the Dice of every case, sorted, beside a box a class, and writes a PNG.

    Args:
        dice: By class and case id; NaN is left out.
        path: PNG file to write.
    """
    values = {label: sorted(v for v in cases.values() if not math.isnan(v)) for label, cases in dice.items()}
    names = [textwrap.shorten(label, 18, placeholder="...") for label in values]
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
    for i, (name, ordered) in enumerate(zip(names, values.values(), strict=True)):
        colour = f"C{i % 10}"
        left.plot(range(1, len(ordered) + 1), ordered, "o", color=colour, markersize=4, label=name)
        right.boxplot(ordered, positions=[i], widths=0.5, medianprops={"color": colour, "linewidth": 2})
    left.set(xlabel="case, from worst to best in each class", ylabel="Dice", ylim=(-0.02, 1.02))
    if 1 < len(names) <= 10:
        left.legend(frameon=False, loc="lower right")
    right.set_xticks(range(len(names)), names, rotation=0 if len(names) < 4 else 90)
    for axes in (left, right):
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def draw_precision_recall(curves: Curves, path: Path) -> None:
    """Draws precision over recall and writes a PNG.

    Args:
        curves: Recall and precision by name, such as "nodule, IoU 0.5".
        path: PNG file to write.
    """
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
    _draw_curves(axes, curves, "no object to be found")
    _save(figure, path)


def draw_froc(curves: Curves, path: Path) -> None:
    """Draws sensitivity over false positives per scan from 1/8 to 8, and writes a PNG.

    Args:
        curves: False positives per scan and sensitivity by name of the class.
        path: PNG file to write.
    """
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_xticks([rate for rate, _ in FROC_TICKS], [text for _, text in FROC_TICKS])
    axes.minorticks_off()
    ends = (FROC_TICKS[0][0], FROC_TICKS[-1][0])
    axes.set(xlabel="false positives per scan", ylabel="sensitivity", xlim=ends, ylim=(0, 1.01))
    _draw_curves(axes, {name: level_out(points) for name, points in curves.items()}, "no nodule to be found")
    _save(figure, path)


def _draw_curves(axes: Axes, curves: Curves, nothing: str) -> None:
    for name, points in curves.items():
        axes.plot([x for x, _ in points], [y for _, y in points], linewidth=1.8, label=name)
    if not curves:
        axes.text(0.5, 0.5, nothing, ha="center", transform=axes.transAxes)
    elif len(curves) <= 12:
        axes.legend(frameon=False, loc="best")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    with DRAWING:
        figure.savefig(path, dpi=120, format="png")
