"""Plots over all cases of an evaluation, as PNG files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure


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
    figure.savefig(path, dpi=120, format="png")
