"""The stage `evaluate`: files, pictures and messages, whole or not at all; once under Prefect."""

from __future__ import annotations

from pathlib import Path

import pytest
from predicted_project import OUTPUT

from flows.evaluate import evaluate_flow
from pipeline.cases import CaseRecord, save_cases
from pipeline.errors import SegtrailError


def test_draws_best_median_and_worst_of_the_defined_cases(predicted: Path) -> None:
    evaluate_flow.fn("unet")
    files = sorted(str(path.relative_to(OUTPUT)) for path in OUTPUT.rglob("*.*"))
    assert files == [
        "cases.csv", "froc.csv", "metrics.json",
        "overlays/best_test_a.png", "overlays/median_test_b.png",
        "overlays/objects_best_test_a.png", "overlays/objects_busiest_test_a.png",
        "overlays/objects_median_test_b.png", "overlays/objects_worst_test_c.png",
        "overlays/worst_test_c.png",
        "plots/dice_by_case.png", "plots/froc.png", "plots/precision_recall.png", "precision_recall.csv",
        "predicted.csv",
    ]  # fmt: skip
    assert [path.name for path in OUTPUT.parent.iterdir()] == ["unet"]


def test_says_what_it_found(predicted: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluate_flow.fn("unet")
    assert "1 test case(s) have no label and are not scored: test_d" in caplog.text
    assert "evaluate unet 2/4 test_b Dice 0.667" in caplog.text
    assert "evaluate unet 4/4 test_e Dice undefined" in caplog.text
    assert caplog.messages[-2].split("  ")[0] == "class"
    assert caplog.messages[-1].startswith("organ  0.556 [")


@pytest.mark.slow
def test_a_second_run_replaces_the_first(predicted: Path) -> None:
    evaluate_flow.fn("unet")
    first = {path: path.read_bytes() for path in OUTPUT.rglob("*.*")}
    (OUTPUT / "old.txt").touch()
    evaluate_flow.fn("unet")
    assert {path: path.read_bytes() for path in OUTPUT.rglob("*.*")} == first


@pytest.mark.slow
def test_the_same_under_prefect(predicted: Path, prefect_harness: None) -> None:
    evaluate_flow.fn("unet")
    plain = (OUTPUT / "metrics.json").read_bytes()
    evaluate_flow("unet")
    assert (OUTPUT / "metrics.json").read_bytes() == plain


def test_all_missing_predictions_are_named(predicted: Path, recorded: list[str]) -> None:
    for name in ("test_a_labels.nii.gz", "test_c.json"):
        Path(f"data/predictions/unet/{name}").unlink()
    with pytest.raises(SegtrailError, match=r"2 of 4 test cases[\s\S]*: test_a, test_c\n") as error:
        evaluate_flow.fn("unet")
    assert error.value.fix == "dvc repro --force predict@unet"
    assert not OUTPUT.exists()
    assert recorded == []


def test_a_damaged_prediction_leaves_nothing_half_written(predicted: Path) -> None:
    path = Path("data/predictions/unet/test_b_labels.nii.gz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SegtrailError) as error:
        evaluate_flow.fn("unet")
    assert "test_b_labels.nii.gz" in error.value.where
    assert not OUTPUT.exists()


def test_without_labels_there_is_one_clear_error(predicted: Path) -> None:
    cases = [CaseRecord("test_a", "p", "", ("data/raw/small/test_a.nii.gz",), "", "")]
    save_cases(cases, Path("data/inspected/cases.csv"))
    with pytest.raises(SegtrailError, match="none of the 1 test cases has a label"):
        evaluate_flow.fn("unet")
