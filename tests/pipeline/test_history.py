"""The mean of several curves, worked out by hand."""

from __future__ import annotations

from pathlib import Path

from pipeline.history import mean_history, read_history, save_history


def row(epoch: int, loss: str, dice: str) -> dict[str, str]:
    return {"epoch": str(epoch), "step": str(10 * epoch), "train_loss": loss, "validation_dice": dice}


def test_the_mean_of_the_epochs_that_all_have(tmp_path: Path) -> None:
    long = [row(1, "0.5", ""), row(2, "0.25", "0.75"), row(3, "0.1", "0.9")]
    short = [row(1, "1.0", ""), row(2, "0.75", "0.25")]
    rows = mean_history([long, short])
    assert rows == [
        {"epoch": 1, "step": 10, "train_loss": 0.75, "validation_dice": ""},
        {"epoch": 2, "step": 20, "train_loss": 0.5, "validation_dice": 0.5},
    ]
    save_history(rows, tmp_path / "history.csv")
    assert read_history(tmp_path / "history.csv")[1] == row(2, "0.5", "0.5")


def test_a_value_that_is_missing_or_no_number() -> None:
    """Missing in one: no mean. Not a number in one, as no case of the fold has the class: that of the other."""
    first, second = [row(1, "1.0", "nan")], [row(1, "", "0.5")]
    (mean,) = mean_history([first, second])
    assert mean["train_loss"] == ""
    assert mean["validation_dice"] == 0.5
