"""Plots over all cases."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.plots import draw_dice_by_case


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
