"""Numbers of the stage `evaluate`, worked out by hand."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from predicted_project import OUTPUT, block, load_record, save_nifti, set_params

import pipeline.baseline
from flows.evaluate import evaluate_flow
from pipeline.cases import load_cases, save_cases
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.io.sources import DatasetFacts
from pipeline.reader_rows import ReaderRow, save_readers
from pipeline.scores import load_scores
from pipeline.volume import LabelMap, Volume


def test_writes_the_metrics_worked_out_by_hand(predicted: Path, recorded: list[str]) -> None:
    evaluate_flow.fn("unet")
    record = load_record()
    assert (record["model"], record["dataset"]) == ("unet", "Small")
    assert (record["n_cases"], record["n_patients"], record["cases_without_label"]) == (4, 4, ["test_d"])
    numbers = record["metrics"]
    assert numbers["test/organ/dice"] == numbers["test/dice"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert (numbers["test/dice_n"], numbers["test/hd95_mm_n"]) == (3, 2)
    # test_b: the prediction lacks two slices of 2 mm. All its 32 voxels are boundary; of the reference's 56,
    # its 12 + 16 in the missing slices lie 2 and 4 mm away: more than 5 %.
    assert numbers["test/hd95_mm"] == pytest.approx((0 + 4) / 2)
    assert numbers["test/volume_error_mm3"] == pytest.approx((0 - 32 * 2 - 64 * 2 + 0) / 4)
    assert 0 <= numbers["test/dice_ci_low"] < numbers["test/dice"] < numbers["test/dice_ci_high"] <= 1
    rows = load_scores(OUTPUT / "cases.csv", "test/dice")
    assert [(r.case_id, r.label) for r in rows] == [(f"test_{x}", "organ") for x in "abce"]
    assert rows[1].value == pytest.approx(2 / 3)
    assert recorded == ["unet"]


def test_objects_worked_out_by_hand(predicted: Path) -> None:
    evaluate_flow.fn("unet")
    record = load_record()
    numbers = record["metrics"]
    assert record["objects"]["organ"] == {
        "reference": 3, "predicted": 2, "small": 0, "medium": 3, "large": 0,
    }  # fmt: skip
    # By score: test_a overlaps wholly (.9), test_b by half (.6), test_c is missed. Up to IoU .5 two of three
    # are found (67 of the 101 recalls lie up to 2/3), above it one (34 up to 1/3).
    assert numbers["test/mask_map_50"] == numbers["test/mask_map_10_50"] == pytest.approx(67 / 101)
    assert numbers["test/mask_map_75"] == pytest.approx(34 / 101)
    assert numbers["test/mask_map_50_95"] == pytest.approx((67 + 9 * 34) / 101 / 10)
    assert numbers["test/ap_dsb_50"] == pytest.approx(1 / 3)  # an overlap of .5 is not above .5
    assert numbers["test/panoptic_quality"] == pytest.approx(1 / (1 + 1 / 2 + 2 / 2))
    # The centre of test_b lies 2 mm from the annotated one, within 3.1 mm: two of three nodules, no false alarm.
    assert numbers["test/cpm"] == numbers["test/froc_0125"] == pytest.approx(2 / 3)
    assert numbers["test/mask_map_50_n"] == 3  # test_e has no object
    assert "at least 0.05" in record["protocol"]["objects"]
    assert record["protocol"]["reference"] == "Drawn by hand"
    assert record["settings"]["max_detections"] == load_params().evaluate.max_detections
    alone = {s.case_id: s.value for s in load_scores(OUTPUT / "cases.csv", "test/mask_map_50_95")}
    assert [alone[f"test_{x}"] for x in "abc"] == pytest.approx([1.0, 0.1, 0.0])
    assert math.isnan(alone["test_e"])
    curve = (OUTPUT / "froc.csv").read_text().splitlines()
    assert curve[-1] == "organ,0.0,0.666667,0.6"


def test_a_set_that_mixes_a_single_slice_and_volumes(predicted: Path) -> None:
    cases = load_cases(Path("data/inspected/cases.csv"))
    flat = np.zeros((12, 12, 1), np.uint8)
    flat[4:8, 4:8] = 1
    save_nifti(Path("data/raw/small/test_a_l.nii.gz"), flat)
    save_nifti(Path("data/raw/small/test_a.nii.gz"), flat.astype("f4"))
    for part in ("labels", "instances"):
        save_nifti(Path(f"data/predictions/unet/test_a_{part}.nii.gz"), flat)
    cases = [replace(c, shape=(12, 12, 1)) if c.case_id == "test_a" else c for c in cases]
    save_cases(cases, Path("data/inspected/cases.csv"))
    evaluate_flow.fn("unet")
    record = load_record()
    # 16 voxels of 2 mm3 make a sphere of 3.9 mm.
    assert record["objects"]["organ"] == {
        "reference": 3, "predicted": 2, "small": 1, "medium": 2, "large": 0,
    }  # fmt: skip
    assert record["metrics"]["test/cpm_n"] == record["metrics"]["test/mask_map_50_n"] == 3


def test_baseline_is_scored_on_the_same_cases(predicted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(volume: Volume) -> LabelMap:
        return LabelMap(np.ones(volume.array.shape[1:], dtype=np.uint8), volume.affine)

    set_params(baseline="otsu_lung")
    monkeypatch.setattr(pipeline.baseline, "otsu_lung", everything)
    evaluate_flow.fn("unet")
    numbers = load_record()["metrics"]
    assert numbers["baseline_otsu_lung/organ/recall_n"] == 4
    voxels = 12 * 12 * 8
    assert numbers["baseline_otsu_lung/dice"] == pytest.approx((3 * 2 * 64 / (voxels + 64) + 0) / 4)
    assert numbers["test/dice"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    baseline = load_scores(OUTPUT / "baseline_cases.csv", "test/dice")
    assert [row.case_id for row in baseline] == [f"test_{x}" for x in "abce"]
    assert not [name for name in numbers if name.startswith("baseline") and "map" in name]


def test_regions_make_the_mean_and_the_objects_stay_with_the_classes(
    predicted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The block becomes a shell (1) around its last two slices (2); predictions know the shell alone."""
    for case_id in "abc":
        reference = block(4)
        reference[4:8, 4:8, 4:6] = 2
        save_nifti(Path(f"data/raw/small/test_{case_id}_l.nii.gz"), reference)
    DatasetFacts(
        "Small", ("MRI",), {"background": 0, "organ": 1, "core": 2},
        regions={"whole": (1, 2), "inside": (2,)}, regions_class_order=(1, 2),
    ).save(Path("data/inspected/dataset.json"))  # fmt: skip
    evaluate_flow.fn("unet")
    numbers = load_record()["metrics"]
    # The whole is found as the organ was before; nothing is called core.
    assert numbers["test/whole/dice"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert numbers["test/inside/dice"] == numbers["test/core/dice"] == 0
    assert numbers["test/organ/dice"] == pytest.approx((2 * 32 / (64 + 32) + 1 + 0) / 3)
    assert numbers["test/dice"] == pytest.approx(numbers["test/whole/dice"] / 2)
    assert "whole, inside" in load_record()["protocol"]["regions"]
    assert "test/whole/mask_map_50" not in numbers
    assert "test/organ/mask_map_50" in numbers
    scores = load_scores(OUTPUT / "cases.csv", "test/dice")
    assert {score.label for score in scores} == {"whole", "inside"}
    assert {score.label for score in load_scores(OUTPUT / "cases.csv", "test/cpm")} == {"organ", "core"}
    assert [line.split("  ")[0] for line in caplog.messages[-6:]] == [
        "region or class", "whole", "inside", "mean of regions", "organ", "core",
    ]  # fmt: skip
    assert "evaluate unet 2/4 test_b Dice 0.333" in caplog.text


def test_readers_stand_beside_the_model_and_choose_none(predicted: Path) -> None:
    rows = [
        ReaderRow("test_a", "organ", 2, 0.9, 60, 66),
        ReaderRow("test_b", "organ", 3, 0.7, 60, 70),
        ReaderRow("train_a", "organ", 2, 0.1, 9, 9),  # not of the test set
    ]
    save_readers(rows, Path("data/inspected/readers.csv"))
    evaluate_flow.fn("unet")
    numbers = load_record()["metrics"]
    assert numbers["test/organ/reader_dice"] == numbers["test/reader_dice"] == pytest.approx(0.8)
    assert numbers["test/reader_dice_n"] == 2
    assert numbers["test/reader_dice_ci_low"] == pytest.approx(0.7)
    assert "readers" in load_record()["protocol"]
    with (OUTPUT / "cases.csv").open() as stream:
        told = {row["case_id"]: row["reader_dice"] for row in csv.DictReader(stream)}
    assert told == {"test_a": "0.9", "test_b": "0.7", "test_c": "", "test_e": ""}
    with pytest.raises(SegtrailError, match="unknown metric"):
        load_scores(OUTPUT / "cases.csv", "test/reader_dice")


def test_what_nobody_labelled_is_in_no_number(predicted: Path) -> None:
    facts = DatasetFacts.load(Path("data/inspected/dataset.json"))
    replace(facts, ignore=7).save(Path("data/inspected/dataset.json"))
    # Of test_b the two slices that the prediction lacks; of test_c, where all is missed, all but two slices.
    for case_id, first in (("test_b", 4), ("test_c", 4)):
        label = block(4)
        label[:, :, first:] = 7
        save_nifti(Path(f"data/raw/small/{case_id}_l.nii.gz"), label)
    evaluate_flow.fn("unet")
    record = load_record()
    assert record["metrics"]["test/dice"] == pytest.approx((1 + 1 + 0) / 3)
    assert record["metrics"]["test/hd95_mm"] == 0
    assert "value 7" in record["protocol"]["ignored"]
    with (OUTPUT / "cases.csv").open() as stream:
        told = {row["case_id"]: row for row in csv.DictReader(stream)}
    assert [told[name]["reference_voxels"] for name in ("test_a", "test_b", "test_c")] == ["64", "32", "32"]
    assert record["objects"]["organ"]["reference"] == 3 and record["objects"]["organ"]["predicted"] == 2
