"""What a run holds, made from plain records."""

from __future__ import annotations

import os
from pathlib import Path

import model_project as made
import pytest

from flows.model_files import present_files
from flows.tracking_content import epoch_metrics, flatten_params, legal_name, run_tags, summarise_markdown

PROVENANCE = {
    "dataset": "phantom",
    "data_digest": made.DATA_DIGEST,
    "git_commit": "c0ffee",
    "git_dirty": False,
}
DICE = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def test_names_of_epoch_metrics() -> None:
    row = {
        "epoch": "3", "step": "75", "minutes": "1.5", "learning_rate": "0.01", "train_loss": "0.4", "seconds": "30",
        "validation_dice": "0.5", "validation_dice_Left lung (upper)": "0.25", "validation_loss": "", "x": None,
    }  # fmt: skip
    assert epoch_metrics(row) == {
        "step": 75.0, "time/minutes": 1.5, "learning_rate": 0.01, "train/loss": 0.4, "time/epoch_seconds": 30.0,
        "validation/dice": 0.5, "validation/Left lung _upper_/dice": 0.25,
    }  # fmt: skip
    assert epoch_metrics({"epoch": 1, "train_loss": "nan"}) == {}
    assert epoch_metrics(
        {
            "epoch": "1",
            "train_loss_rpn_box": "0.5",
            "train_loss_mask": "0.25",
            "validation_mask_map_10_50": "0.75",
        }
    ) == {"train/loss_rpn_box": 0.5, "train/loss_mask": 0.25, "validation/mask_map_10_50": 0.75}
    assert legal_name("test/Tumor+oedema/dice") == "test/Tumor_oedema/dice"


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", fail)
    assert run_tags("unet", PROVENANCE)["mlflow.user"] == f"uid {os.getuid()}"


def test_flattened_params() -> None:
    train = {"seed": 1, "augmentation": {"flip": 0.5}, "class_weights": "none"}
    plan = {
        "patch_size": [8, 8, 8],
        "reasons": {"patch_size": "small"},
        "alternatives": {"2d": {"batch_size": 2}},
    }
    assert flatten_params(train, plan) == {
        "seed": "1", "augmentation.flip": "0.5", "class_weights": "none", "plan.patch_size": "[8, 8, 8]",
    }  # fmt: skip
    assert len(flatten_params({"list": list(range(9000))}, {})["list"]) == 6000


def test_the_description_shows_overlaps_and_objects(project: Path) -> None:
    made.write_project()
    made.train("unet", "weights")
    made.evaluate("unet", (0.5,) * 6, more={"mask_map_10_50": (0.25,) * 6, "froc_1": (0.5,) * 6})
    text = summarise_markdown(present_files("unet"))
    assert "| test/dice | 0.5000 | 0.4900 to 0.5100 | 6 |" in text
    assert "| test/nodule/mask_map_10_50 | 0.2500 | 0.2400 to 0.2600 | 6 |" in text
    assert "| metric | value | 95 % interval | n |" in text  # numbers of objects are pooled, not means
    assert "Reference: made-up spheres" in text
    assert "froc_1" not in text and "_small" not in text
