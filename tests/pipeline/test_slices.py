"""Windows of slices, by hand: where they lie, what stands outside, and the way into network pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detection_plan import make_plan

from pipeline.errors import SegtrailError
from pipeline.slices import (
    cut_window,
    enlarge_window,
    require_detection,
    source_window,
    window_scale,
    zoom_ids,
    zoom_image,
)


@pytest.mark.parametrize(
    ("window", "zoom", "source", "scale"),
    [
        ((64, 96), 1.0, (64, 96), (1.0, 1.0)),
        ((64, 96), 2.0, (32, 48), (2.0, 2.0)),
        ((64, 96), 0.5, (128, 192), (0.5, 0.5)),
        ((64, 96), 1.5, (43, 64), (64 / 43, 1.5)),  # 42.67 voxels are 43: the scale makes up for it
    ],
)
def test_voxels_that_fill_a_window(
    window: tuple[int, int], zoom: float, source: tuple[int, int], scale: tuple[float, float]
) -> None:
    detection = require_detection(make_plan(window, zoom))
    assert source_window(detection) == source
    assert window_scale(detection) == pytest.approx(scale)


@pytest.mark.parametrize(
    ("window", "zoom", "shape", "enlarged"),
    [
        ((64, 96), 1.0, (40, 60), (64, 96)),  # never smaller than in training
        ((64, 96), 1.0, (65, 300), (96, 320)),  # the next multiple of 32
        ((64, 96), 1.0, (128, 513), (128, 512)),  # no more than 512 pixels
        ((64, 96), 2.0, (100, 48), (224, 96)),  # in network pixels
        ((640, 96), 1.0, (2000, 96), (640, 96)),  # nor less than the training had
    ],
)
def test_prediction_sees_as_much_of_a_slice_as_it_may(
    window: tuple[int, int], zoom: float, shape: tuple[int, int], enlarged: tuple[int, int]
) -> None:
    plan = require_detection(make_plan(window, zoom))
    assert enlarge_window(plan, shape).window == enlarged
    assert enlarge_window(plan, shape).zoom == zoom


def test_a_plan_without_detection_is_one_clear_error() -> None:
    plan = make_plan().model_copy(update={"detection": None})
    with pytest.raises(
        SegtrailError,
        match=r"no training case has an object[\s\S]*leave models of network maskrcnn out of models",
    ):
        require_detection(plan)


def test_a_window_by_hand() -> None:
    # Two channels of 2 x 3 voxels in one slice.
    image = np.array([[[1, 2, 3], [4, 5, 6]], [[11, 12, 13], [14, 15, 16]]], np.int16)[..., None]
    window = cut_window(image, (0, 1), 0, (2, 2), 1, (9, -9))
    assert window.dtype == np.float32
    assert window.tolist() == [[[2, 3], [5, 6]], [[12, 13], [15, 16]]]


def test_outside_is_padding_of_each_channel() -> None:
    image = np.array([[[1, 2, 3], [4, 5, 6]], [[11, 12, 13], [14, 15, 16]]], np.float32)[..., None]
    window = cut_window(image, (-1, 2), 0, (4, 2), 1, (9, -9))
    assert window[0].tolist() == [[9, 9], [3, 9], [6, 9], [9, 9]]
    assert window[1].tolist() == [[-9, -9], [13, -9], [16, -9], [-9, -9]]


def test_neighbouring_slices_are_channels_in_the_order_of_slices() -> None:
    # The value says channel and slice: 10 * channel + slice.
    image = np.broadcast_to(10 * np.arange(2)[:, None, None, None] + np.arange(4), (2, 3, 3, 4))
    middle = cut_window(image, (0, 0), 2, (3, 3), 3, (0, 0))
    assert middle[:, 1, 1].tolist() == [1, 11, 2, 12, 3, 13]


@pytest.mark.parametrize(("index", "seen"), [(0, [0, 0, 1]), (1, [0, 1, 2]), (3, [2, 3, 3])])
def test_the_first_and_the_last_slice_are_repeated(index: int, seen: list[int]) -> None:
    image = np.broadcast_to(np.arange(4), (1, 3, 3, 4))
    window = cut_window(image, (-1, 0), index, (3, 3), 3, (7,))
    assert window[:, 1, 1].tolist() == seen
    assert (window[:, 0] == 7).all()  # outside along X it is padding, in every slice


def test_a_volume_of_one_slice_is_its_own_neighbour() -> None:
    window = cut_window(np.full((1, 2, 2, 1), 5), (0, 0), 0, (2, 2), 3, (0,))
    assert window.tolist() == [[[5, 5], [5, 5]]] * 3


def test_image_and_ids_keep_together_when_zoomed() -> None:
    detection = require_detection(make_plan((64, 96), 2.0))
    ids = torch.zeros((1, 32, 48), dtype=torch.int32)
    ids[0, 5:9, 20:31] = 65535
    image = (ids > 0).float()[:, None]
    zoomed, moved = zoom_image(image, detection), zoom_ids(ids, detection)
    assert zoomed.shape == (1, 1, 64, 96)
    assert moved.dtype == torch.int32
    # Each voxel is 2 x 2 pixels; half way up the edge of the image lies the edge of the object.
    expected = torch.zeros((64, 96), dtype=torch.int32)
    expected[10:18, 40:62] = 65535
    assert torch.equal(moved[0], expected)
    assert torch.equal(zoomed[0, 0] > 0.5, expected > 0)


def test_zoom_one_changes_nothing() -> None:
    detection = require_detection(make_plan((64, 96), 1.0))
    image = torch.randn(2, 3, 64, 96)
    ids = torch.randint(0, 9, (2, 64, 96), dtype=torch.int32)
    assert zoom_image(image, detection) is image
    assert zoom_ids(ids, detection) is ids
