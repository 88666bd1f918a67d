"""Object overlays: what is seen, in which colour, and where."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.object_overlays import (
    FALSE_ALARM,
    MISSED,
    PREDICTION_FOUND,
    REFERENCE_FOUND,
    draw_objects,
)
from pipeline.object_states import ObjectStates
from pipeline.volume import Volume
from tests.detection_scenes import disc

PICTURE = (200, 100, 1)
NOTHING: dict[int, float] = {}


def pixels(path: Path) -> NDArray[np.int64]:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int64)


def count(image: NDArray[np.int64], colour: str) -> int:
    target = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((abs(image - target).max(axis=2) < 30).sum())


def states(places: list[tuple[int, int]], found: set[int], scored: bool = True) -> ObjectStates:
    ids = np.zeros(PICTURE, np.uint16)
    for number, place in enumerate(places, 1):
        ids[disc(PICTURE, place, 8)] = number
    return ObjectStates(
        ids, frozenset(found), dict.fromkeys(range(1, len(places) + 1), 0.5) if scored else NOTHING
    )


@pytest.fixture
def black() -> Volume:
    return Volume(np.zeros((3, *PICTURE), np.uint8), np.eye(4))


def test_each_kind_has_its_colour_at_its_place(tmp_path: Path, black: Volume) -> None:
    reference = states([(30, 20), (170, 20)], {1}, scored=False)
    prediction = states([(30, 20), (30, 80)], {1})
    draw_objects(black, reference, prediction, tmp_path / "x.png", "a")
    image = pixels(tmp_path / "x.png")
    body = image[: int(image.shape[0] * 0.85)]  # without the legend
    half = body.shape[0] // 2, body.shape[1] // 2
    quarters = {
        "left top": body[: half[0], : half[1]], "right top": body[: half[0], half[1] :],
        "left bottom": body[half[0] :, : half[1]], "right bottom": body[half[0] :, half[1] :],
    }  # fmt: skip
    for style, place in (
        (REFERENCE_FOUND, "left top"), (PREDICTION_FOUND, "left top"),
        (MISSED, "right top"), (FALSE_ALARM, "left bottom"),
    ):  # fmt: skip
        for name, quarter in quarters.items():
            assert (count(quarter, style.colour) > 60) == (name == place), (style.name, name)


def test_nothing_on_either_side_draws_the_picture(tmp_path: Path, black: Volume) -> None:
    black.array[0] = 255
    draw_objects(black, states([], set()), states([], set()), tmp_path / "x.png", "empty")
    image = pixels(tmp_path / "x.png")
    assert count(image, "#ff0000") > 100_000
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.mode == "P"  # 256 colours


def test_a_volume_shows_the_slices_with_most_objects(tmp_path: Path) -> None:
    shape = (60, 60, 30)
    ids = np.zeros(shape, np.uint16)
    ids[10:14, 10:14, 5:8] = 1
    ids[40:44, 10:14, 6:9] = 2
    ids[10:14, 40:44, 20:22] = 3
    volume = Volume(np.zeros((1, *shape), np.float32), np.diag([2.0, 2.0, 3.0, 1.0]))
    empty = ObjectStates(np.zeros(shape, np.uint16), frozenset())
    draw_objects(volume, ObjectStates(ids, frozenset()), empty, tmp_path / "two.png", "a")
    ids[ids == 3] = 0
    draw_objects(volume, ObjectStates(ids, frozenset()), empty, tmp_path / "one.png", "a")
    two, one = (Image.open(tmp_path / f"{name}.png").size for name in ("two", "one"))
    assert two[0] > one[0] * 1.15  # slices 6 or 7 show objects 1 and 2; a second panel shows 3
    assert count(pixels(tmp_path / "two.png"), MISSED.colour) > 300


def test_the_patients_right_is_at_the_left(tmp_path: Path) -> None:
    shape = (60, 60, 4)
    ids = np.zeros(shape, np.uint8)
    ids[50:55, 50:55, 1] = 1  # right and anterior in RAS
    ids[5:10, 5:10, 1] = 2  # keeps the field wide
    volume = Volume(np.zeros((1, *shape), np.float32), np.diag([2.0, 2.0, 3.0, 1.0]))
    empty = ObjectStates(np.zeros(shape, np.uint8), frozenset())
    draw_objects(volume, ObjectStates(ids, frozenset({2})), empty, tmp_path / "x.png", "a")
    image = pixels(tmp_path / "x.png")
    body = image[: int(image.shape[0] * 0.85)]
    target = [int(MISSED.colour[i : i + 2], 16) for i in (1, 3, 5)]
    rows, columns = np.nonzero(abs(body - target).max(axis=2) < 30)
    assert columns.mean() < body.shape[1] / 2 and rows.mean() < body.shape[0] / 2


def test_hundreds_of_objects_take_seconds(tmp_path: Path) -> None:
    shape = (1000, 1000, 1)
    ids = np.zeros(shape, np.uint16)
    for number in range(900):
        x, y = 33 * (number // 30), 33 * (number % 30)
        ids[x : x + 20, y : y + 20] = number + 1
    volume = Volume(np.zeros((3, *shape), np.uint8), np.eye(4))
    side = ObjectStates(ids, frozenset(range(1, 800)), dict.fromkeys(range(1, 901), 0.5))
    started = time.process_time()
    draw_objects(volume, side, side, tmp_path / "x.png", "many")
    assert time.process_time() - started < 10  # 2 s on a quiet machine
