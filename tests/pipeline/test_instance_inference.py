"""Tiling, zoom, borders, duplicates and the way back to the source grid, with a detector whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detection_plan import make_plan
from known_detector import MASK, as_detections, detect_bright, scatter, settings
from numpy.typing import NDArray
from scipy import ndimage

from pipeline import slices
from pipeline.config import PredictParams
from pipeline.errors import SegtrailError
from pipeline.instance_inference import find_objects, predict_objects
from pipeline.plan import Plan
from pipeline.slice_joining import FoundObject
from pipeline.slices import WindowDetections
from pipeline.volume import Volume

CPU = torch.device("cpu")


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prediction keeps to the windows of the training, so that there are many of them."""
    monkeypatch.setattr(slices, "LARGEST_EDGE", 32)


def find(
    picture: NDArray[Any], plan: Plan, params: PredictParams | None = None, threshold: float = 0.05
) -> tuple[NDArray[np.int32], list[FoundObject]]:
    """Objects of a picture (X, Y) or a volume (X, Y, Z)."""
    volume = picture if picture.ndim == 3 else picture[..., None]
    image = torch.from_numpy(volume[None].astype(np.float32))
    return find_objects(detect_bright(threshold), image, plan, params or settings(), CPU)


def assert_same_objects(ids: NDArray[Any], reference: NDArray[Any]) -> None:
    """Every object of the one map is an object of the other, voxel for voxel; only the numbers differ."""
    assert ids.shape == reference.shape
    np.testing.assert_array_equal(ids > 0, reference > 0)
    pairs = np.unique(np.stack([ids[ids > 0], reference[ids > 0]]), axis=1)
    assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))


@pytest.mark.usefixtures("small_windows")
def test_several_hundred_objects_over_many_windows() -> None:
    picture, reference = scatter((240, 300), 12, seed=1)
    assert reference.max() == 500
    ids, found = find(picture, make_plan((64, 96), detections=200, classes=("a", "b")))
    assert_same_objects(ids[..., 0], reference[..., 0])
    scores = np.array([one.score for one in found])
    assert (np.diff(scores) <= 0).all()
    # Id, score and class belong together.
    for number, one in enumerate(found, 1):
        brightness = picture[ids[..., 0] == number]
        assert brightness == pytest.approx(one.score)
        assert one.label == (1 if one.score > 0.7 else 2)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("overlap", [0.3, 0.5])
@pytest.mark.parametrize("size", [1, 2, 9, 16, 17, 18, 19, 29])
def test_an_object_is_found_whole_and_once_wherever_it_lies(size: int, overlap: float) -> None:
    # Three windows of 64 voxels along X: an object passes every border between them.
    plan = make_plan((64, 64))
    for position in range(153 - size + 1):
        picture = np.zeros((153, 40))
        picture[position : position + size, 11:20] = 1
        ids, found = find(picture, plan, settings(overlap=overlap))
        assert ids.any(), position
        if size <= overlap * 64 - 3:
            assert len(found) == 1, position
            np.testing.assert_array_equal(ids[..., 0] > 0, picture > 0, err_msg=str(position))


@pytest.mark.usefixtures("small_windows")
def test_windows_that_overlap_more_than_asked_show_larger_objects_whole() -> None:
    """Of 100 voxels two windows of 64 see 28 both, though a quarter (16) was asked for."""
    for position in range(77):
        picture = np.zeros((100, 40))
        picture[position : position + 24, 11:20] = 1
        ids, found = find(picture, make_plan((64, 64)), settings(overlap=0.25))
        assert len(found) == 1, position
        np.testing.assert_array_equal(ids[..., 0] > 0, picture > 0, err_msg=str(position))


@pytest.mark.usefixtures("small_windows")
def test_an_object_in_the_corner_of_four_windows() -> None:
    for x, y in np.ndindex(24, 24):
        picture = np.zeros((96, 96))
        picture[30 + x : 40 + x, 30 + y : 37 + y] = 1
        ids, found = find(picture, make_plan((64, 64)))
        assert len(found) == 1
        np.testing.assert_array_equal(ids[..., 0] > 0, picture > 0)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("shape", [(1, 1), (10, 12), (64, 96), (65, 97), (300, 7), (5, 400), (200, 150)])
def test_pictures_of_very_different_sizes(shape: tuple[int, int]) -> None:
    # An object in each corner, cut by the border of the picture, which is no reason to drop it.
    picture = np.zeros(shape)
    side = min(3, *shape)
    for x in {0, shape[0] - side}:
        for y in {0, shape[1] - side}:
            picture[x : x + side, y : y + side] = 0.9
    reference, count = ndimage.label(picture, np.ones((3, 3)))
    ids, found = find(picture, make_plan((64, 96)))
    assert len(found) == count
    assert_same_objects(ids[..., 0], reference)


@pytest.mark.usefixtures("small_windows")
def test_shapes_survive_the_way_through_a_mask_of_28_cells() -> None:
    x, y = np.mgrid[:120, :150]
    disc = (x - 40.5) ** 2 + (y - 60.5) ** 2 <= 13.5**2
    ring = ((x - 85) ** 2 + (y - 100) ** 2 <= 12**2) & ((x - 85) ** 2 + (y - 100) ** 2 > 6**2)
    reference = disc + 2 * ring
    ids, found = find((reference > 0) * 1.0, make_plan((64, 64)))
    assert len(found) == 2
    for number in (1, 2):
        mine = ids[..., 0] == ids[..., 0][reference == number].max()
        assert (mine & (reference == number)).sum() / (mine | (reference == number)).sum() > 0.97


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("zoom", [2.0, 4.0])
def test_a_whole_zoom_is_exact(zoom: float) -> None:
    picture, reference = scatter((100, 90), 10, seed=2)
    ids, _ = find((picture > 0) * 1.0, make_plan((128, 160), zoom=zoom), threshold=0.5)
    assert_same_objects(ids[..., 0], reference[..., 0])


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("zoom", [0.5, 1.5, 2.7])
def test_any_zoom_brings_objects_back_to_their_place(zoom: float) -> None:
    picture, reference = scatter((160, 150), 20, seed=3)
    reference = reference[..., 0]
    ids, found = find((picture > 0) * 1.0, make_plan((128, 160), zoom=zoom), threshold=0.5)
    large = [n for n in range(1, reference.max() + 1) if min(np.ptp(np.argwhere(reference == n), axis=0)) > 6]
    assert len(large) > 20
    assert len(found) <= reference.max()
    for number in large:
        (mine,) = np.unique(ids[..., 0][ndimage.binary_erosion(reference == number)])
        (found_x, found_y), (x, y) = (
            ndimage.find_objects(one)[0] for one in ((ids[..., 0] == mine) * 1, (reference == number) * 1)
        )
        # A pixel is up to two voxels: along each edge half of one may be won or lost.
        edges = [
            (found_x.start, x.start),
            (found_x.stop, x.stop),
            (found_y.start, y.start),
            (found_y.stop, y.stop),
        ]
        assert max(abs(a - b) for a, b in edges) <= 1


@pytest.mark.usefixtures("small_windows")
def test_duplicates_of_one_window_and_of_neighbours_become_one() -> None:
    detect = detect_bright()

    def stutter(images: torch.Tensor, min_score: float) -> list[WindowDetections]:
        found = []
        for one in detect(images, min_score):
            rows = list(zip(one.boxes, one.scores, one.labels, one.masks, strict=True))
            moved = [
                (box + torch.tensor([1.0, 0, 1, 0]), score - 0.2, label, mask)
                for box, score, label, mask in rows
            ]
            every = [(tuple(b.tolist()), float(s), int(k), m) for b, s, k, m in rows + moved]
            found.append(as_detections(every))
        return found

    picture = np.zeros((100, 64))
    picture[40:50, 20:32] = 0.9
    ids, found = find_objects(
        stutter, torch.from_numpy(picture[None, ..., None]).float(), make_plan((64, 64)), settings(), CPU
    )
    assert [one.score for one in found] == [pytest.approx(0.9)]
    np.testing.assert_array_equal(ids[..., 0] > 0, picture > 0)


def test_of_two_classes_at_one_place_the_surer_is_painted() -> None:
    def undecided(images: torch.Tensor, min_score: float) -> list[WindowDetections]:
        full = torch.ones(MASK, MASK)
        return [as_detections([((4.0, 8, 10, 20), 0.6, 1, full), ((4.0, 8, 10, 20), 0.8, 2, full)])]

    image = torch.zeros(1, 64, 96, 1)
    ids, found = find_objects(undecided, image, make_plan(classes=("a", "b")), settings(), CPU)
    assert [(one.label, one.score) for one in found] == [(2, pytest.approx(0.8))]
    assert int((ids == 1).sum()) == 6 * 12


def test_the_least_score_reaches_the_detector() -> None:
    picture = np.zeros((64, 96))
    picture[3:9, 3:9], picture[20:29, 30:39] = 0.9, 0.4
    assert len(find(picture, make_plan())[1]) == 2
    assert len(find(picture, make_plan(), settings(min_score=0.5))[1]) == 1


def test_what_lies_in_the_padding_is_no_object() -> None:
    def dream(images: torch.Tensor, min_score: float) -> list[WindowDetections]:
        # The picture of 20 x 20 lies in the middle of 64 x 96 pixels, at 22 and 38.
        full = torch.ones(MASK, MASK)
        boxes = [(0.0, 0, 9, 9), (18.0, 50, 26, 56), (25.0, 40, 25, 44)]  # outside, half inside, empty
        return [as_detections([(box, 0.9 - i / 10, 1, full) for i, box in enumerate(boxes)]) for _ in images]

    ids, found = find_objects(dream, torch.zeros(1, 20, 20, 1), make_plan(), settings(), CPU)
    assert len(found) == 1
    assert np.argwhere(ids).min(axis=0).tolist() == [0, 12, 0]
    assert np.argwhere(ids).max(axis=0).tolist() == [3, 17, 0]


def test_nothing_is_found_in_the_dark() -> None:
    ids, found = find(np.zeros((150, 100)), make_plan())
    assert ids.shape == (150, 100, 1)
    assert not ids.any()
    assert found == []


def test_objects_of_a_volume_are_joined_over_their_slices() -> None:
    volume = np.zeros((80, 70, 9))
    volume[10:18, 12:24, 1:5] = 0.9
    volume[10:18, 12:24, 8] = 0.8  # three slices above: another object
    volume[60:75, 40:45, :] = 0.6
    ids, found = find(volume, make_plan((64, 64), slices=3, classes=("a", "b")))
    assert [(one.label, len(one.parts)) for one in found] == [(1, 4), (1, 1), (2, 9)]
    expected = np.zeros(volume.shape, int)
    for number, value in enumerate((0.9, 0.8, 0.6), 1):
        expected[volume == value] = number
    np.testing.assert_array_equal(ids, expected)


def test_a_window_shows_its_neighbouring_slices_and_padding() -> None:
    seen = []

    def record(images: torch.Tensor, min_score: float) -> list[WindowDetections]:
        seen.append(images.clone())
        return [as_detections([]) for _ in images]

    image = torch.arange(4).float().repeat(1, 10, 10, 1)
    find_objects(record, image, make_plan((64, 96), slices=3), settings(), CPU)
    windows = torch.cat(seen)
    assert windows.shape == (4, 3, 64, 96)
    assert windows[:, :, 32, 48].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert not windows[:, :, 0].any()


def oblique_affine(
    directions: tuple[float, float, float], order: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Voxels of 1, 2 and 3 mm along right, front and head, turned by 15 degrees, stored in any order."""
    turn = np.deg2rad(15)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (rotation @ np.diag([1.0, 2.0, 3.0]) @ np.diag(directions))[:, order]
    affine[:3, 3] = [11, -7, 3]
    return affine


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("directions", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_back_on_an_oblique_and_flipped_grid_exactly(
    directions: tuple[float, float, float], order: tuple[int, int, int]
) -> None:
    # Worked in canonical order, where the detector sees slices along Z; stored in another.
    canonical = np.zeros((70, 40, 9))
    canonical[5:15, 8:20, 2:6], canonical[50:69, 30:36, 0:3], canonical[30:35, 1:4, 7:9] = 1.0, 0.8, 0.6
    stored = np.flip(canonical, [axis for axis in range(3) if directions[axis] < 0]).transpose(order)
    volume = Volume(np.ascontiguousarray(stored)[None], oblique_affine(directions, order))
    plan = make_plan((64, 64), slices=3, spacing_mm=(1.0, 2.0, 3.0), classes=("a", "b"))
    ids, labels, scores = predict_objects(detect_bright(), volume, plan, settings(), CPU, "case")
    expected = np.zeros(stored.shape, int)
    for number, value in enumerate((1.0, 0.8, 0.6), 1):
        expected[stored == value] = number
    np.testing.assert_array_equal(ids, expected)
    assert labels.tolist() == [1, 1, 2]
    assert scores == pytest.approx([1.0, 0.8, 0.6])


@pytest.mark.parametrize("spacing", [(0.5, 1.0, 3.0), (2.0, 2.0, 3.0), (1.3, 1.7, 2.0)])
def test_back_from_another_spacing(spacing: tuple[float, float, float]) -> None:
    stored = np.zeros((60, 50, 12))
    stored[10:24, 12:26, 3:9], stored[40:55, 30:44, 2:9] = 1.0, 1.0
    reference, _ = ndimage.label(stored)
    volume = Volume(stored[None], oblique_affine((-1, 1, 1), (0, 1, 2)))
    plan = make_plan((64, 64), slices=3, spacing_mm=spacing)
    ids, labels, _ = predict_objects(detect_bright(0.5), volume, plan, settings(), CPU, "case")
    assert ids.shape == stored.shape
    assert len(labels) == 2
    for number in (1, 2):
        mine = ids == ids[reference == number].max()
        both, either = (mine & (reference == number)).sum(), (mine | (reference == number)).sum()
        assert both / either > (0.999 if spacing == (0.5, 1.0, 3.0) else 0.8)


def test_a_plan_without_detection_is_one_clear_error() -> None:
    plan = make_plan().model_copy(update={"detection": None})
    with pytest.raises(SegtrailError, match="no training case has an object"):
        find(np.zeros((10, 10)), plan)
