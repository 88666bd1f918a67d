"""The earlier label map is cut where the image is, changed, moved and one-hot encoded with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from training_jobs import cube_plan, read_params

from pipeline import cascade_datasets
from pipeline.cascade_datasets import (
    CascadeCases,
    CascadePatchStream,
    load_previous,
    save_previous,
)
from pipeline.datasets import PatchSampling, PatchStream, Share, StepSchedule
from pipeline.errors import SegtrailError
from pipeline.models.cascade import WithPrevious
from pipeline.models.cascade_module import CascadeModule
from pipeline.models.networks import build_network
from pipeline.plan import RegionPlan
from pipeline.store import StoredCase, save_case
from pipeline.train_params import SemanticTrainParams

SAMPLING = PatchSampling((6, 6, 8), 4, 0.5, (-1.0,), seed=5)
NAMES = [f"case_{i}" for i in range(3)]
SCHEDULE = StepSchedule(10, lambda: 0, Share())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Each voxel's label says where it is; the earlier map is the label shifted by one class."""
    for index, name in enumerate(NAMES):
        label = np.random.default_rng(index).integers(0, 4, (12, 10, 6)).astype(np.uint8)
        positions = np.insert(np.argwhere(label == 1), 0, 1, axis=1).astype(np.int16)
        objects = np.zeros(label.shape, np.uint16), np.zeros(1, np.uint8)
        save_case(tmp_path, name, StoredCase(label[None].astype(np.float16), label, positions, *objects))
        (tmp_path / "previous").mkdir(exist_ok=True)
        save_previous(tmp_path / "previous", name, np.asfortranarray((label + 1) % 4))
    return tmp_path


def make_stream(store: Path) -> CascadePatchStream:
    return CascadePatchStream(store, NAMES, SAMPLING, SCHEDULE, store / "previous", 4)


def test_the_earlier_map_is_cut_where_the_label_is(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade_datasets, "draw_changes", lambda classes, size, generator: [])
    plain = PatchStream(store, NAMES, SAMPLING, SCHEDULE)
    for step in range(5):
        batch = make_stream(store).batch(step)
        inside = batch["image"][:, 0] >= 0
        assert torch.equal(batch["previous"][inside], (batch["label"][inside] + 1) % 4)
        assert not batch["previous"][~inside].any()
        # The second network of a cascade draws the patches that one alone would.
        for name, tensor in plain.batch(step).items():
            assert torch.equal(batch[name], tensor)


def test_a_step_draws_the_same_again_and_changes_the_earlier_map_alone(store: Path) -> None:
    changed = 0
    for step in range(20):
        first, second = make_stream(store).batch(step), make_stream(store).batch(step)
        assert all(torch.equal(first[name], second[name]) for name in first)
        inside = first["image"][:, 0] >= 0
        changed += not torch.equal(first["previous"][inside], (first["label"][inside] + 1) % 4)
    assert changed > 10


def compare_loaders(store: Path) -> None:
    alone, shared = (
        DataLoader(make_stream(store), None, num_workers=n, multiprocessing_context="fork" if n else None)
        for n in (0, 2)
    )
    for first, second in zip(alone, shared, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_loader_processes_draw_what_one_process_draws(store: Path) -> None:
    # In a process of its own, as trainings are: one forked from here has what other tests left, such as Prefect's
    # exit functions, whose threads it lacks.
    command = f"from pathlib import Path; import {__name__} as t; t.compare_loaders(Path({str(store)!r}))"
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", command], env=where, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_validation_sees_the_map_as_it_is(store: Path) -> None:
    case = CascadeCases(store, NAMES, store / "previous")[1]
    assert torch.equal(case["previous"], (case["label"] + 1) % 4)
    assert case["previous"].dtype == torch.uint8


def test_a_map_that_is_missing_is_named(store: Path) -> None:
    (store / "previous" / "case_1.safetensors").unlink()
    with pytest.raises(SegtrailError, match=r"first network[\s\S]*case_1\.safetensors"):
        load_previous(store / "previous", "case_1")


def small_module(**augmentation: Any) -> CascadeModule:
    shipped = read_params("unet")
    assert isinstance(shipped, SemanticTrainParams)
    chances = dict.fromkeys(
        ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"), 0.0
    )
    settings = shipped.augmentation.model_copy(update={**chances, **augmentation})
    plan = cube_plan().model_copy(update={"label_names": ("background", "a", "b"), "label_values": (0, 1, 2)})
    return CascadeModule(plan, shipped.model_copy(update={"augmentation": settings}), None)


def test_image_label_and_earlier_map_move_together() -> None:
    """All three hold the same at first: blobs of many voxels, so that the image tells its class after turns."""
    module = small_module(rotation=1.0, scale=1.0, flip=0.5)
    module.train()
    label = torch.zeros(4, 16, 16, 16, dtype=torch.uint8)
    label[:, 2:9, 3:12, 4:10] = 1
    label[:, 9:14, 3:12, 4:10] = 2
    previous = 2 - label
    batch = {"image": label[:, None].float(), "label": label, "previous": previous, "step": torch.tensor(3)}
    moved = module.on_after_batch_transfer(batch, 0)
    assert moved["image"].shape == (4, 2, 16, 16, 16)
    assert moved["label"].dtype == torch.uint8
    assert not torch.equal(moved["label"], label)
    assert torch.equal(moved["image"][:, 1], moved["previous"].float())
    # Outside the patch both are background; inside they are still two minus one another.
    known = (moved["label"] > 0) | (moved["previous"] > 0)
    assert torch.equal(moved["previous"][known], 2 - moved["label"][known])
    assert known.float().mean() > 0.3
    assert set(moved["label"].unique().tolist()) == {0, 1, 2}
    whole = moved["image"][:, 0][known] % 1 == 0  # interpolated values lie between classes
    assert torch.equal(moved["image"][:, 0][known][whole].round().byte(), moved["label"][known][whole])


def test_the_network_sees_one_channel_a_foreground_class() -> None:
    seen: list[torch.Tensor] = []

    class Spy(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image)
            return image

        def pyramid(self, image: torch.Tensor, levels: int) -> list[torch.Tensor]:
            return [self(image)] * levels

    image = torch.tensor([[[[[5.0]], [[6.0]], [[7.0]]], [[[0.0]], [[2.0]], [[1.0]]]]])
    network = WithPrevious(Spy(), 3)
    network(image)
    assert seen[0][0, :, :, 0, 0].tolist() == [[5, 6, 7], [0, 0, 1], [0, 1, 0]]
    assert len(network.pyramid(image, 2)) == 2
    assert torch.equal(seen[1], seen[0])


def test_both_networks_are_built_from_one_record() -> None:
    module = small_module()
    low = {**module.network_arguments}
    del low["previous_classes"]
    cascade = build_network("cascade", network="unet", low=low, full=module.network_arguments)
    assert cascade.low.encoder[0][0].in_channels == 1
    assert cascade.full.network.encoder[0][0].in_channels == 3
    assert cascade.full(torch.zeros(1, 2, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


def test_regions_come_out_and_classes_go_in() -> None:
    """The earlier map holds painted classes, three with the background; the network answers with two regions."""
    shipped = read_params("unet")
    assert isinstance(shipped, SemanticTrainParams)
    names = {"label_names": ("background", "edema", "tumour"), "label_values": (0, 1, 2)}
    regions = (
        RegionPlan(name="whole", labels=(1, 2), paint=1),
        RegionPlan(name="core", labels=(2,), paint=2),
    )
    plan = cube_plan().model_copy(update={**names, "regions": regions})
    module = CascadeModule(plan, shipped, None)
    module.train()
    label = torch.randint(0, 3, (2, 16, 16, 16), dtype=torch.uint8)
    batch = {
        "image": torch.randn(2, 1, 16, 16, 16),
        "label": label,
        "previous": label,
        "step": torch.tensor(0),
    }
    ready = module.on_after_batch_transfer(batch, 0)
    pyramid = module.network.pyramid(ready["image"], module.levels)
    assert pyramid[0].shape == (2, 2, 16, 16, 16)
    assert torch.isfinite(module.loss(pyramid, ready["label"]))
