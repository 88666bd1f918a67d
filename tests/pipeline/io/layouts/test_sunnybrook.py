"""Slices of real hearts against Pillow, and masks that are not right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.io.images import load_label_map
from pipeline.io.sources import open_dataset

CASE = "SC-HF-I-40-IM-0001-0048"


def test_all_slices_of_a_patient_stay_together(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "sunnybrook_lv", "sunnybrook")
    assert (len(dataset.records), len(dataset.references)) == (66, 66)
    assert {r.patient_id for r in dataset.records} == {"SC-HF-I-40", "SC-HF-NI-33", "SC-HYP-11", "SC-N-07"}
    assert dataset.facts.channels == ("R", "G", "B")


def test_a_real_slice_is_its_mask(shared_data: Path, inspect: Callable[..., Any]) -> None:
    found = inspect(shared_data / "sunnybrook_lv", "sunnybrook", CASE)
    assert (found.record.verdict, found.record.shape) == ("ok", (256, 256, 1))
    mask = Path(found.record.images[0].replace("/Images/", "/Labels/"))
    pixels = np.asarray(Image.open(mask).convert("L")) > 0
    assert (pixels == load_label_map(Path(found.record.label)).array[:, :, 0].T).all()
    (cavity,) = found.objects
    assert cavity.voxels == pixels.sum() > 0


def write_slice(folder: Path, mask: Any) -> None:
    for part in ("Images", "Labels"):
        (folder / "Train" / part).mkdir(parents=True, exist_ok=True)
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(image).save(folder / "Train/Images/p-IM-0001-0001.dcm.png")
    Image.fromarray(mask).save(folder / "Train/Labels/p-IM-0001-0001.dcm.png")


def test_masks_that_are_not_right(tmp_path: Path, inspect: Callable[..., Any]) -> None:
    shaded = np.zeros((8, 8), np.uint8)
    shaded[2], shaded[3] = 128, 255
    write_slice(tmp_path, shaded)
    found = inspect(tmp_path, "sunnybrook", "p-IM-0001-0001")
    assert (found.record.verdict, found.record.code) == ("quarantined", "mask_not_binary")
    assert "holds 3 values (0, 128, 255), expected 0 and one other" in found.record.reason
    write_slice(tmp_path, np.zeros((8, 9), np.uint8))
    assert inspect(tmp_path, "sunnybrook", "p-IM-0001-0001").record.code == "geometry_mismatch"
    coloured = np.zeros((8, 8, 3), np.uint8)
    coloured[2, 2, 0] = 255
    write_slice(tmp_path, coloured)
    assert inspect(tmp_path, "sunnybrook", "p-IM-0001-0001").record.code == "mask_not_binary"
    (tmp_path / "Train/Labels/p-IM-0001-0001.dcm.png").write_bytes(b"no picture")
    assert inspect(tmp_path, "sunnybrook", "p-IM-0001-0001").record.code == "unreadable"
