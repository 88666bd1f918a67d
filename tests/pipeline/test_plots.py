"""Plots over all cases."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.plots import draw_dice_by_case, draw_froc, draw_precision_recall


def pixels(path: Path) -> NDArray[np.int64]:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int64)


def test_dice_by_case_draws_every_class(tmp_path: Path) -> None:
    dice = {"Anterior": {"a": 0.9, "b": 0.7, "c": math.nan}, "absent": {"a": math.nan}, "x" * 60: {"b": 0.2}}
    draw_dice_by_case(dice, tmp_path / "x.png")
    image = pixels(tmp_path / "x.png")
    blue = (abs(image - (0x1F, 0x77, 0xB4)).max(axis=2) < 10).sum()  # Matplotlib's first colour
    green = (abs(image - (0x2C, 0xA0, 0x2C)).max(axis=2) < 10).sum()  # its third
    assert blue > 50
    assert green > 20
    draw_dice_by_case({}, tmp_path / "none.png")
    assert pixels(tmp_path / "none.png").shape == image.shape


def count_blue(path: Path) -> int:
    return int((abs(pixels(path) - (0x1F, 0x77, 0xB4)).max(axis=2) < 10).sum())


def test_precision_recall_and_froc(tmp_path: Path) -> None:
    draw_precision_recall({"IoU 0.5": [(0.0, 1.0), (0.5, 1.0), (1.0, 0.2)]}, tmp_path / "a.png")
    draw_froc({"nodule": [(0.0, 0.0), (0.0, 0.5), (3.0, 0.8)]}, tmp_path / "b.png")
    for name in "ab":
        assert count_blue(tmp_path / f"{name}.png") > 300
    draw_precision_recall({}, tmp_path / "c.png")
    draw_froc({}, tmp_path / "d.png")
    assert count_blue(tmp_path / "c.png") == count_blue(tmp_path / "d.png") == 0


def test_froc_runs_from_an_eighth_to_eight(tmp_path: Path) -> None:
    # The curve rises at 1 false positive a scan, in the middle of the axis of powers of two.
    draw_froc({"nodule": [(0.0, 0.2), (1.0, 0.2), (1.0, 1.0)]}, tmp_path / "x.png")
    rows, columns = np.nonzero(abs(pixels(tmp_path / "x.png") - (0x1F, 0x77, 0xB4)).max(axis=2) < 10)
    upright = np.bincount(columns).argmax()
    curve = columns[rows > rows.max() - 3]  # left of the rise
    assert upright - curve.min() > 0.4 * (columns.max() - columns.min())
