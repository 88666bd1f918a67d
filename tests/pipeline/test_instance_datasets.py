"""Training windows: a pure function of seed and step, placed on objects, right at every border."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detection_plan import make_plan
from numpy.typing import NDArray

from pipeline import datasets
from pipeline.datasets import Share, StepSchedule
from pipeline.instance_datasets import WindowSampling, WindowStream
from pipeline.plan import Plan
from pipeline.slices import require_detection
from pipeline.store import StoredCase, save_case

PADDING = -1.0


def save_objects(
    folder: Path, case_id: str, ids: NDArray[Any], labels: Sequence[int], image: NDArray[Any] | None = None
) -> None:
    """Stores a case whose image shows the id of each voxel, unless another is given."""
    if image is None:
        image = ids[None].astype(np.float32)
    classes = np.array([0, *labels], np.uint8)
    label, nowhere = classes[ids], np.zeros((0, 4), np.int16)
    save_case(folder, case_id, StoredCase(image, label, nowhere, ids.astype(np.uint16), classes))


def make_stream(
    folder: Path,
    cases: Sequence[str],
    plan: Plan,
    fraction: float = 1.0,
    batch_size: int = 4,
    step: int = 0,
    share: Share | None = None,
    seed: int = 5,
) -> WindowStream:
    detection = require_detection(plan)
    padding = (PADDING,) * len(plan.channels)
    sampling = WindowSampling(detection, batch_size, fraction, padding, seed)
    return WindowStream(folder, cases, sampling, StepSchedule(10, lambda: step, share or Share()))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three volumes of 100 x 120 x 5 with two objects in slices 1 to 3 each, and one without any."""
    for index in range(3):
        ids = np.zeros((100, 120, 5), np.int64)
        ids[10 * index : 10 * index + 6, 80:90, 1:3] = 1
        ids[70:75, 20:23, 2:4] = 2
        save_objects(tmp_path, f"case_{index}", ids, (1, 1))
    save_objects(tmp_path, "empty", np.zeros((100, 120, 5), np.int64), ())
    return tmp_path


CASES = ("case_0", "case_1", "case_2", "empty")


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["instances"], second["instances"])
    assert int(first["step"]) == int(second["step"])
    assert all(torch.equal(a, b) for a, b in zip(first["labels"], second["labels"], strict=True))


def test_shapes_and_types(store: Path) -> None:
    batch = make_stream(store, CASES, make_plan((64, 96), zoom=2.0, slices=3)).batch(7)
    assert batch["image"].shape == (4, 3, 64, 96)
    assert batch["image"].dtype == torch.float32
    assert batch["instances"].shape == (4, 64, 96)
    assert batch["instances"].dtype == torch.int32
    assert [labels.dtype for labels in batch["labels"]] == [torch.int64] * 4
    assert int(batch["step"]) == 7


def test_a_step_is_a_function_of_seed_and_step(store: Path) -> None:
    plan = make_plan()
    first, second = make_stream(store, CASES, plan, 0.5), make_stream(store, CASES[::-1], plan, 0.5)
    for step in (3, 0, 9):  # any order, and whatever the order of the cases
        assert_equal(first.batch(step), second.batch(step))
    assert not torch.equal(first.batch(0)["image"], first.batch(1)["image"])
    other = make_stream(store, CASES, plan, 0.5, seed=6)
    assert not torch.equal(first.batch(0)["image"], other.batch(0)["image"])


def test_an_epoch_that_begins_in_the_middle_repeats_nothing(store: Path) -> None:
    whole = list(make_stream(store, CASES, make_plan()))
    rest = list(make_stream(store, CASES, make_plan(), step=7))
    assert [int(batch["step"]) for batch in whole] == list(range(10))
    for a, b in zip(whole[7:], rest, strict=True):
        assert_equal(a, b)


def test_loader_processes_take_turns(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two loader processes: each makes every second batch, the same ones that one alone would make."""
    alone = list(make_stream(store, CASES, make_plan()))
    for number in range(2):
        info = SimpleNamespace(id=number, num_workers=2)
        monkeypatch.setattr(datasets, "get_worker_info", lambda info=info: info)
        own = list(make_stream(store, CASES, make_plan()))
        for a, b in zip(alone[number::2], own, strict=True):
            assert_equal(a, b)


def test_two_processes_share_the_batch_without_overlap(store: Path) -> None:
    whole = make_stream(store, CASES, make_plan(), 0.5).batch(3)
    for rank in range(2):
        half = make_stream(store, CASES, make_plan(), 0.5, share=Share(rank, 2)).batch(3)
        assert torch.equal(half["image"], whole["image"][rank::2])
        assert torch.equal(half["instances"], whole["instances"][rank::2])


def test_windows_lie_on_objects_in_the_share_that_is_asked_for(store: Path) -> None:
    stream = make_stream(store, CASES, make_plan((64, 64), slices=3), fraction=0.75)
    shown = np.array([[bool(ids.any()) for ids in stream.batch(step)["instances"]] for step in range(30)])
    assert shown[:, 1:].all()  # three of four
    assert 0 < shown[:, 0].sum() < 30  # the fourth is anywhere, in any case and slice


def test_a_chosen_object_lies_near_the_centre(store: Path) -> None:
    # Far from the border of the image, so that no window had to be moved: within a quarter of the window.
    ids = np.zeros((200, 200, 1), np.int64)
    ids[98:102, 96:104, 0] = 1
    save_objects(store, "middle", ids, (1,))
    stream = make_stream(store, ["middle"], make_plan((64, 64)))
    centres = []
    for step in range(40):
        for window in stream.batch(step)["instances"]:
            assert int((window > 0).sum()) == 32  # whole
            centres.append(torch.nonzero(window).float().mean(dim=0) + 0.5)
    away = (torch.stack(centres) - 32).abs()
    assert float(away.max()) <= 16.5  # of 64 pixels, up to the rounding to a voxel
    assert float(away.max()) > 12  # and they do not all lie in the middle


def test_every_object_is_as_likely_as_any_other(tmp_path: Path) -> None:
    # A large one over four slices and a tiny one in one: far apart, so a window shows one of them.
    ids = np.zeros((300, 64, 4), np.int64)
    ids[10:60, 5:60, :] = 1
    ids[250, 30, 2] = 2
    save_objects(tmp_path, "case", ids, (1, 2))
    stream = make_stream(tmp_path, ["case"], make_plan((64, 64), slices=3, classes=("a", "b")))
    seen = [int(window.max()) for step in range(100) for window in stream.batch(step)["instances"]]
    assert set(seen) == {1, 2}
    assert abs(seen.count(2) / len(seen) - 0.5) < 0.1  # 4 standard deviations of 400 draws


def test_classes_go_with_the_ids_of_the_case(tmp_path: Path) -> None:
    ids = np.zeros((64, 64, 1), np.int64)
    ids[5:9, 5:9, 0], ids[30:34, 40:48, 0] = 1, 2
    save_objects(tmp_path, "case", ids, (2, 1))
    batch = make_stream(tmp_path, ["case"], make_plan((64, 64), classes=("a", "b"))).batch(0)
    assert [labels.tolist() for labels in batch["labels"]] == [[0, 2, 1]] * 4


def test_image_and_ids_show_the_same_place(store: Path) -> None:
    # The image of these cases is the id of each voxel, and padding outside.
    batch = make_stream(store, CASES[:3], make_plan((128, 128), slices=3)).batch(0)
    middle = batch["image"][:, 1]
    inside = middle != PADDING
    assert torch.equal(middle[inside].int(), batch["instances"][inside])
    assert int((~inside).sum()) == 4 * (128 * 128 - 100 * 120)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_an_image_smaller_than_the_window_lies_in_its_middle(tmp_path: Path, fraction: float) -> None:
    ids = np.zeros((30, 41, 1), np.int64)
    ids[0:3, 38:41, 0] = 1  # in a corner: the window does not follow it
    save_objects(tmp_path, "case", ids, (1,), np.full((1, 30, 41, 1), 0.5, np.float32))
    for window in make_stream(tmp_path, ["case"], make_plan((64, 96)), fraction).batch(0)["image"][:, 0]:
        inside = torch.nonzero(window == 0.5)
        # 34 voxels to spare along X, 55 along Y (the odd one comes first).
        assert inside.min(dim=0).values.tolist() == [17, 28]
        assert inside.max(dim=0).values.tolist() == [17 + 29, 28 + 40]


def test_windows_stay_inside_an_image_that_is_large_enough(tmp_path: Path) -> None:
    ids = np.zeros((70, 100, 1), np.int64)
    ids[0, 0, 0], ids[69, 99, 0] = 1, 2
    save_objects(tmp_path, "case", ids, (1, 1), np.ones((1, 70, 100, 1), np.float32))
    for fraction in (0.0, 1.0):
        stream = make_stream(tmp_path, ["case"], make_plan((64, 96)), fraction)
        batches = [stream.batch(step) for step in range(20)]
        assert all(bool((batch["image"] == 1).all()) for batch in batches)
    # The objects are single voxels in corners: each window that was placed on one shows it.
    assert all(bool(batch["instances"].flatten(1).any(dim=1).all()) for batch in batches)


def test_an_object_that_the_border_of_the_window_cuts_keeps_its_id(tmp_path: Path) -> None:
    # As wide as the whole image: no window of 64 pixels holds it.
    ids = np.zeros((200, 64, 1), np.int64)
    ids[:, 20:30, 0] = 300
    save_objects(tmp_path, "case", ids, (0,) * 299 + (1,))
    batch = make_stream(tmp_path, ["case"], make_plan((64, 64))).batch(0)
    assert all(bool((window[:, 20:30] == 300).all()) for window in batch["instances"])
    assert all(int(labels[300]) == 1 for labels in batch["labels"])


def test_the_ends_of_a_volume_are_repeated(tmp_path: Path) -> None:
    ids = np.zeros((64, 64, 3), np.int64)
    ids[30:34, 30:34, 2] = 1  # in the last slice
    image = np.broadcast_to(np.array([0.1, 0.2, 0.3], np.float32), (1, 64, 64, 3))
    save_objects(tmp_path, "case", ids, (1,), np.ascontiguousarray(image))
    for window in make_stream(tmp_path, ["case"], make_plan((64, 64), slices=3)).batch(0)["image"]:
        assert window[:, 5, 5].tolist() == pytest.approx([0.2, 0.3, 0.3])


def test_several_channels_come_slice_by_slice(tmp_path: Path) -> None:
    ids = np.zeros((64, 64, 3), np.int64)
    ids[30:34, 30:34, 1] = 1
    image = 10 * np.arange(2)[:, None, None, None] + np.arange(3) + np.zeros((2, 64, 64, 3))
    save_objects(tmp_path, "case", ids, (1,), image.astype(np.float32))
    batch = make_stream(tmp_path, ["case"], make_plan((64, 64), slices=3, channels=2)).batch(0)
    assert batch["image"].shape == (4, 6, 64, 64)
    assert batch["image"][0, :, 9, 9].tolist() == [0, 10, 1, 11, 2, 12]


def test_no_case_has_an_object(store: Path) -> None:
    batch = make_stream(store, ["empty"], make_plan()).batch(0)
    assert not batch["instances"].any()
    assert [labels.tolist() for labels in batch["labels"]] == [[0]] * 4
