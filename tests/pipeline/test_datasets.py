"""Patches: by hand at the border, a pure function of the step, and half of them on foreground."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import datasets
from pipeline.datasets import PatchSampling, PatchStream, Share, StepSchedule, WholeCases, cut_patch
from pipeline.store import StoredCase, save_case


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for index in range(4):
        label = np.zeros((12, 12, 6), np.uint8)
        label[index + 2, 3, 2] = 1
        image = np.full((1, 12, 12, 6), index, np.float16)
        positions = np.insert(np.argwhere(label == 1), 0, 1, axis=1).astype(np.int16)
        objects = label.astype(np.uint16), np.array([0, 1], np.uint8)
        save_case(tmp_path, f"case_{index}", StoredCase(image, label, positions, *objects))
    return tmp_path


def make_stream(
    folder: Path, step: int = 0, share: Share | None = None, fraction: float = 0.5
) -> PatchStream:
    sampling = PatchSampling((6, 6, 8), 4, fraction, (-1.0,), seed=5)
    cases = [f"case_{i}" for i in range(4)]
    return PatchStream(folder, cases, sampling, StepSchedule(10, lambda: step, share or Share()))


def test_cut_patch_by_hand() -> None:
    array = np.arange(8).reshape(1, 2, 2, 2)
    patch = cut_patch(array, (-1, 0, 1), (3, 2, 2), (9,))
    assert patch.shape == (1, 3, 2, 2)
    assert patch[0, 0].tolist() == [[9, 9], [9, 9]]
    assert patch[0, 1].tolist() == [[1, 9], [3, 9]]
    assert patch[0, 2].tolist() == [[5, 9], [7, 9]]


def test_a_small_volume_lies_in_the_middle_of_its_patch(store: Path) -> None:
    batch = make_stream(store).batch(0)
    assert batch["image"].shape == (4, 1, 6, 6, 8)
    # Six slices in a patch of eight: one of padding on each side.
    assert bool((batch["image"][..., 0] == -1).all())
    assert bool((batch["image"][..., 7] == -1).all())
    assert bool((batch["image"][..., 1:7] >= 0).all())


def test_the_forced_half_holds_foreground(store: Path) -> None:
    stream = make_stream(store)
    for step in range(20):
        label = stream.batch(step)["label"]
        assert int(label[1].sum()) == 1
        assert int(label[3].sum()) == 1
    free = [int(stream.batch(step)["label"][0].sum()) for step in range(60)]
    assert 0 < sum(free) < 60


def test_a_quarter_is_every_fourth_sample_whatever_the_batch(store: Path) -> None:
    stream = make_stream(store, fraction=0.25)
    assert all(int(stream.batch(step)["label"][3].sum()) == 1 for step in range(20))


def test_an_epoch_that_begins_in_the_middle_repeats_nothing(store: Path) -> None:
    whole = list(make_stream(store, 0))
    rest = list(make_stream(store, 7))
    assert [int(b["step"]) for b in whole] == list(range(10))
    assert [int(b["step"]) for b in rest] == [7, 8, 9]
    for a, b in zip(whole[7:], rest, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["label"], b["label"])
    assert [int(b["step"]) for b in make_stream(store, 10)] == list(range(10, 20))


def test_loader_processes_give_the_same_order(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = []
    for number in range(2):
        info = SimpleNamespace(id=number, num_workers=2)
        monkeypatch.setattr(datasets, "get_worker_info", lambda info=info: info)
        streams.append(list(make_stream(store)))
    # A loader takes one batch from each of its processes in turn.
    together = [batch for pair in zip(*streams, strict=True) for batch in pair]
    monkeypatch.undo()
    for ours, theirs in zip(make_stream(store), together, strict=True):
        assert torch.equal(ours["image"], theirs["image"])
        assert int(ours["step"]) == int(theirs["step"])


def test_two_processes_share_the_batch_without_overlap(store: Path) -> None:
    whole = make_stream(store).batch(3)["image"]
    halves = [make_stream(store, share=Share(rank, 2)).batch(3)["image"] for rank in range(2)]
    assert torch.equal(halves[0], whole[0::2])
    assert torch.equal(halves[1], whole[1::2])


def test_whole_cases(store: Path) -> None:
    cases = WholeCases(store, ["case_2", "case_0"])
    assert len(cases) == 2
    assert cases[1]["case_id"] == "case_2"
    assert cases[1]["image"].dtype == torch.float32
    assert int(cases[1]["label"].sum()) == 1
    assert cases[1]["instances"].dtype == torch.int32
    assert torch.equal(cases[1]["instances"], cases[1]["label"].int())
    assert cases[1]["instance_labels"].tolist() == [0, 1]
