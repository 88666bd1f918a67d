"""Checkpoints hold plain values and tensors, without pickle, whole or not at all."""

from __future__ import annotations

import pickletools
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import SafetensorsCheckpointIO
from pipeline.errors import SegtrailError


def test_a_nested_checkpoint_comes_back(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    checkpoint = {
        "state_dict": {"a.weight": shared, "tied": shared.t()},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "betas": (0.9, 0.99)}],
        "epoch": 4,
        "nothing": None,
        "flag": True,
        "infinite": float("-inf"),
    }
    path = tmp_path / "x.safetensors"
    io = SafetensorsCheckpointIO()
    io.save_checkpoint(checkpoint, path)
    loaded = io.load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["a.weight"], shared)
    assert torch.equal(loaded["state_dict"]["tied"], shared.t())
    assert loaded["optimizer_states"][0]["state"][0]["step"] == 3
    assert loaded["optimizer_states"][0]["betas"] == (0.9, 0.99)
    assert list(loaded["optimizer_states"][0]["state"]) == [0, 1]
    assert (loaded["epoch"], loaded["nothing"], loaded["flag"]) == (4, None, True)
    assert loaded["infinite"] == float("-inf")
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_file_is_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    SafetensorsCheckpointIO().save_checkpoint({"a": torch.ones(3)}, path)
    assert not path.read_bytes().startswith(b"PK")
    with pytest.raises(ValueError, match="opcode|pickle"):
        list(pickletools.genops(path.read_bytes()))


def test_an_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="plain values, not object"):
        SafetensorsCheckpointIO().save_checkpoint({"a": object()}, tmp_path / "x.safetensors")


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    SafetensorsCheckpointIO().save_checkpoint({"a": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SegtrailError, match="damaged"):
        SafetensorsCheckpointIO().load_checkpoint(path)
