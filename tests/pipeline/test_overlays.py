"""Overlays: which cases, what is seen, and where."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from PIL import Image

from pipeline.overlays import draw_overlay, pick_cases
from pipeline.volume import LabelMap, Volume

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
BOX = (slice(18, 24), slice(14, 20), slice(10, 14))


def pixels(path: Path) -> NDArray[np.int64]:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int64)


def count_green(image: NDArray[np.int64]) -> int:
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return int(((green > 150) & (red < 110) & (blue < 140)).sum())


def count_magenta(image: NDArray[np.int64]) -> int:
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return int(((red > 180) & (blue > 150) & (green < 110)).sum())


def dark_volume(shape: tuple[int, int, int] = (40, 32, 24)) -> NDArray[np.float32]:
    """Black but for one white corner: right, anterior, superior."""
    array = np.zeros((1, *shape), dtype=np.float32)
    array[:, shape[0] * 3 // 4 :, shape[1] * 3 // 4 :, shape[2] * 3 // 4 :] = 100
    return array


def marked(
    shape: tuple[int, int, int] = (40, 32, 24), box: tuple[slice, ...] = BOX, value: int = 1
) -> LabelMap:
    array = np.zeros(shape, dtype=np.uint8)
    array[box] = value
    return LabelMap(array, AFFINE)


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ({}, {}),
        ({"a": math.nan}, {}),
        ({"a": 0.5}, {"best": "a", "median": "a", "worst": "a"}),
        ({"a": 0.9, "b": 0.1, "c": 0.5, "d": math.nan}, {"best": "a", "median": "c", "worst": "b"}),
        ({"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.6}, {"best": "a", "median": "c", "worst": "b"}),
        ({"b": 0.5, "a": 0.5, "c": 0.5}, {"best": "c", "median": "b", "worst": "a"}),
    ],
)
def test_picks_best_median_and_worst(dice: dict[str, float], expected: dict[str, str]) -> None:
    assert pick_cases(dice) == expected


def test_draws_both_outlines(tmp_path: Path) -> None:
    volume, reference = Volume(dark_volume(), AFFINE), marked()
    prediction = marked(box=(slice(20, 26), *BOX[1:]))
    draw_overlay(volume, prediction, reference, tmp_path / "both.png", "case_1, Dice 0.667", {"organ": 1})
    draw_overlay(volume, prediction, None, tmp_path / "alone.png", "case_1")
    both, alone = pixels(tmp_path / "both.png"), pixels(tmp_path / "alone.png")
    assert count_green(both) > 500
    assert count_magenta(both) > 300
    assert count_green(alone) == 0
    assert count_magenta(alone) > 300


def test_class_values_outside_the_table_are_not_drawn(tmp_path: Path) -> None:
    volume, stray = Volume(dark_volume(), AFFINE), marked(value=7)
    draw_overlay(volume, stray, None, tmp_path / "stray.png", "x", {"background": 0, "organ": 1, "tumour": 2})
    draw_overlay(volume, stray, None, tmp_path / "all.png", "x")
    # The legend's short line is all that is left.
    assert count_magenta(pixels(tmp_path / "stray.png")) < count_magenta(pixels(tmp_path / "all.png")) / 3


def test_a_slice_has_one_panel_seen_in_the_radiological_way(tmp_path: Path) -> None:
    array = np.zeros((1, 40, 40, 1), dtype=np.float32)
    array[:, 30:, 30:] = 100  # right and anterior
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    empty = LabelMap(np.zeros((40, 40, 1), dtype=np.uint8), affine)
    draw_overlay(Volume(array, affine), empty, empty, tmp_path / "flat.png", "")
    image = pixels(tmp_path / "flat.png")
    white = (image > 250).all(axis=2)
    rows, columns = np.nonzero(white)
    area = np.bincount(columns // 10).argmax() * 10, np.bincount(rows // 10).argmax() * 10
    assert area[0] < image.shape[1] / 2  # the patient's right at the left
    assert area[1] < image.shape[0] / 2  # anterior on top
    assert white.sum() > 0.8 * (528 / 4) ** 2  # a quarter of a panel of 4.4 inches at 120 dots


def test_a_picture_is_shown_whole_as_it_is_and_in_colour(tmp_path: Path) -> None:
    array = np.zeros((3, 200, 100, 1), dtype=np.uint8)
    array[0, :40, :20] = 255  # red: first columns, first rows
    array[2, 160:, 80:] = 255  # blue: last columns, last rows
    label_map = LabelMap(np.zeros((200, 100, 1), dtype=np.uint8), np.eye(4))
    label_map.array[90:110, 40:60] = 1
    draw_overlay(Volume(array, np.eye(4)), label_map, label_map, tmp_path / "x.png", "a picture")
    drawn = pixels(tmp_path / "x.png")
    red, blue = (np.argwhere((drawn[..., c] > 250) & (drawn.sum(axis=2) < 260)) for c in (0, 2))
    assert red.mean(axis=0)[0] < drawn.shape[0] / 3 and red.mean(axis=0)[1] < drawn.shape[1] / 3
    assert blue.mean(axis=0)[0] > drawn.shape[0] * 0.6 and blue.mean(axis=0)[1] > drawn.shape[1] * 0.6
    across, down = np.ptp(red[:, 1]) + 1, np.ptp(red[:, 0]) + 1
    assert across / down == pytest.approx(2, rel=0.03)  # 40 columns, 20 rows
    assert count_green(drawn) > 50


def stored_as(array: NDArray[Any], codes: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The same image in another axis order, by nibabel."""
    change = ornt_transform(io_orientation(AFFINE), axcodes2ornt(tuple(codes)))
    return nibabel.orientations.apply_orientation(array, change), AFFINE @ inv_ornt_aff(change, array.shape)


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL"])
def test_the_picture_does_not_depend_on_the_axis_order_of_the_file(tmp_path: Path, codes: str) -> None:
    reference, prediction = marked(), marked(box=(slice(20, 26), *BOX[1:]))
    draw_overlay(
        Volume(dark_volume(), AFFINE), prediction, reference, tmp_path / "RAS.png", "t", {"organ": 1}
    )
    image, affine = stored_as(dark_volume()[0], codes)
    others = [LabelMap(stored_as(label_map.array, codes)[0], affine) for label_map in (prediction, reference)]
    draw_overlay(Volume(image[None], affine), *others, tmp_path / "other.png", "t", {"organ": 1})
    assert nibabel.aff2axcodes(affine) == tuple(codes)
    np.testing.assert_array_equal(pixels(tmp_path / "RAS.png"), pixels(tmp_path / "other.png"))


def test_panels_keep_physical_proportions(tmp_path: Path) -> None:
    # 40 x 48 x 48 mm: the axial panel is 40 wide and 48 high.
    bright = Volume(np.full((1, 40, 32, 24), 5.0, dtype=np.float32), AFFINE)
    bright.array[0, :, :, 0] = 0  # so that there is a window; not in the axial plane
    empty = LabelMap(np.zeros((40, 32, 24), dtype=np.uint8), AFFINE)
    draw_overlay(bright, empty, None, tmp_path / "x.png", "")
    white = (pixels(tmp_path / "x.png") > 250).all(axis=2)
    columns = np.flatnonzero(white.sum(axis=0) > 200)
    first = columns[: np.argmax(np.diff(columns) > 5) + 1]
    rows = np.flatnonzero(white[:, first].sum(axis=1) > 200)
    assert len(first) / len(rows) == pytest.approx(40 / 48, rel=0.02)


def test_shows_the_surroundings_of_the_largest_object(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    image = np.zeros((1, 150, 150, 150), dtype=np.float32)
    image[:, 140:] = 100  # 200 mm away from the object: not in the picture
    label_map = LabelMap(np.zeros((150, 150, 150), dtype=np.uint8), affine)
    label_map.array[20:25, 70:75, 70:75] = 1
    label_map.array[142, 75, 75] = 1  # a smaller one
    draw_overlay(Volume(image, affine), label_map, label_map, tmp_path / "x.png", "")
    assert (pixels(tmp_path / "x.png") > 250).all(axis=2).sum() == 0
    label_map.array[20:25, 70:75, 70:75] = 0
    draw_overlay(Volume(image, affine), label_map, label_map, tmp_path / "y.png", "")
    assert (pixels(tmp_path / "y.png") > 250).all(axis=2).sum() > 10_000


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_draws_an_image_without_contrast(tmp_path: Path, value: float) -> None:
    volume = Volume(np.full((1, 40, 32, 24), value, dtype=np.float32), AFFINE)
    draw_overlay(volume, marked(), marked(), tmp_path / "x.png", "x")
    assert count_green(pixels(tmp_path / "x.png")) > 300


def test_real_case(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "Task04_Hippocampus"
    image, label = (nibabel.load(folder / d / "hippocampus_001.nii.gz") for d in ("imagesTr", "labelsTr"))
    reference = LabelMap(np.asarray(label.dataobj).astype(np.uint8), label.affine)
    prediction = LabelMap(np.roll(reference.array, 1, axis=1), label.affine)
    volume = Volume(np.asarray(image.dataobj)[None], image.affine)
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    draw_overlay(volume, prediction, reference, tmp_path / "x.png", "hippocampus_001, Dice 0.8", labels)
    drawn = pixels(tmp_path / "x.png")
    assert count_green(drawn) > 1000
    assert 600 < drawn.shape[1] < 1600


def test_what_nobody_labelled_is_shaded(tmp_path: Path) -> None:
    volume, ignored = Volume(dark_volume(), AFFINE), np.zeros((40, 32, 24), bool)
    ignored[:, :, 12:] = True
    draw_overlay(volume, marked(), marked(), tmp_path / "whole.png", "a")
    draw_overlay(volume, marked(), marked(), tmp_path / "sparse.png", "a", ignored=ignored)
    whole, sparse = (pixels(tmp_path / f"{name}.png") for name in ("whole", "sparse"))
    assert count_blue(whole) == 0
    # Of three planes through (20, 16, 11): the axial one lies below, of the others the upper half is shaded.
    rows, columns = np.nonzero(is_blue(sparse))
    assert count_blue(sparse) > 0.1 * sparse.shape[0] * sparse.shape[1]
    assert columns.min() > 0.32 * sparse.shape[1]
    assert rows.mean() < sparse.shape[0] / 2


def is_blue(image: NDArray[np.int64]) -> NDArray[np.bool_]:
    # 0.3 of the shade (0.45, 0.6, 0.9) on black.
    near: NDArray[np.bool_] = (abs(image - [34, 46, 69]) <= 4).all(axis=-1)
    return near


def count_blue(image: NDArray[np.int64]) -> int:
    return int(is_blue(image).sum())
