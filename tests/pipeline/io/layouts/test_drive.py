"""Real retinas: drawings are GIF files, which other readers open in other modes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.io.images import load_label_map
from pipeline.io.sources import open_dataset


def test_pairs_of_both_parts(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "drive", "drive")
    assert [record.case_id for record in dataset.records] == [
        *("01_test", "02_test"), *(f"{n}_training" for n in range(21, 26))
    ]  # fmt: skip
    assert dataset.references.keys() == {record.case_id for record in dataset.records}


def test_a_photograph_whose_drawing_is_not_given_out(touch: Callable[..., Path]) -> None:
    folder = touch(
        "training/images/21_training.tif", "training/1st_manual/21_manual1.gif", "test/images/01_test.tif"
    )
    dataset = open_dataset(folder, "drive")
    assert (len(dataset.records), list(dataset.references)) == (2, ["21_training"])


def test_real_vessels_within_the_field_of_view(shared_data: Path, inspect: Callable[..., Any]) -> None:
    folder = shared_data / "drive/DRIVE/training"
    found = inspect(shared_data / "drive", "drive", "21_training")
    assert (found.record.verdict, found.record.shape) == ("ok", (565, 584, 1))
    drawing = np.asarray(Image.open(folder / "1st_manual/21_manual1.gif").convert("L")) > 0
    view = np.asarray(Image.open(folder / "mask/21_training_mask.gif").convert("L")) > 0
    label = load_label_map(Path(found.record.label)).array[:, :, 0].T
    assert ((label == 1) == (drawing & view)).all()
    assert ((label == 2) == ~view).all()
    assert 0.05 < drawing[view].mean() < 0.2  # vessels take about a tenth of the retina
    assert sum(row.voxels for row in found.objects) == (drawing & view).sum()


def test_facts_without_an_ignored_value_make_it_background(
    shared_data: Path, tmp_path: Path, inspect: Callable[..., Any]
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "DRIVE").symlink_to(shared_data / "drive/DRIVE")
    (folder / "dataset.json").write_text(
        '{"channels": ["R", "G", "B"], "labels": {"background": 0, "vessel": 1}}'
    )
    found = inspect(folder, "drive", "21_training")
    assert set(np.unique(load_label_map(Path(found.record.label)).array)) == {0, 1}
