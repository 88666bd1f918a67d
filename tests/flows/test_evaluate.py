"""The stage `evaluate`: predictions and references in, metrics, tables and pictures out."""

from __future__ import annotations

import csv
import json
import logging
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import pipeline.baseline
from flows.evaluate import evaluate_flow
from pipeline.cases import CaseRecord, load_cases, save_cases
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.io.sources import DatasetFacts
from pipeline.reader_rows import ReaderRow, save_readers
from pipeline.scores import load_scores
from pipeline.splits import SplitRow, save_splits
from pipeline.volume import LabelMap, Volume

OUTPUT = Path("data/metrics/unet")
OBJECTS = "case_id,id,label,diameter_mm,x_mm,y_mm,z_mm,voxels,readers,agreement,ignored\n"
# Of a reference of 4 slices of 16 voxels, so many are found: Dice 1, 2/3 and 0; test_e holds nothing.
FOUND = {"test_a": 4, "test_b": 2, "test_c": 0, "test_d": 4, "test_e": 0}


def save_nifti(path: Path, array: NDArray[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return str(path)


def save_prediction(case_id: str, slices: int) -> None:
    """The files of a prediction: one object, or none, with a score of 0.9 (of test_b 0.6)."""
    folder = Path("data/predictions/unet")
    for part in ("labels", "instances"):
        save_nifti(folder / f"{case_id}_{part}.nii.gz", block(slices))
    found = {
        "id": 1, "label": "organ", "score": 0.6 if case_id == "test_b" else 0.9, "voxels": 16 * slices,
        "centroid_mm": [5.5, 5.5, 2 * (1.5 + slices / 2)], "box_voxels": [[4, 4, 2], [8, 8, 2 + slices]],
    }  # fmt: skip
    record = {"settings": {"min_score": 0.05, "label_score": 0.5}, "instances": [found] if slices else []}
    (folder / f"{case_id}.json").write_text(json.dumps(record))


def block(slices: int) -> NDArray[np.uint8]:
    array = np.zeros((12, 12, 8), dtype=np.uint8)
    array[4:8, 4:8, 2 : 2 + slices] = 1
    return array


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models handed to MLflow, whose module is replaced."""
    models: list[str] = []
    tracking = ModuleType("flows.tracking")
    tracking.record_evaluation = models.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flows.tracking", tracking)
    return models


@pytest.fixture
def predicted(
    project: Path, recorded: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Path:
    """A project with five predicted test cases (one without a label), one of training and one quarantined."""
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    caplog.set_level(logging.INFO, "segtrail")
    set_params(baseline="none", bootstrap_samples=200)
    random = np.random.default_rng(0)
    cases = []
    for case_id in [*FOUND, "train_a", "bad_a"]:
        image = save_nifti(
            Path(f"data/raw/small/{case_id}.nii.gz"), random.normal(size=(12, 12, 8)).astype("f4")
        )
        label = save_nifti(Path(f"data/raw/small/{case_id}_l.nii.gz"), block(0 if case_id == "test_e" else 4))
        verdict = "quarantined" if case_id == "bad_a" else "ok"
        label = "" if case_id == "test_d" else label
        cases.append(
            CaseRecord(
                case_id, f"patient_{case_id}", "", (image,), label, "", "", (12, 12, 8), verdict=verdict
            )
        )
        if case_id in FOUND:
            save_prediction(case_id, FOUND[case_id])
    Path("data/inspected").mkdir()
    Path("data/splits").mkdir()
    save_cases(cases, Path("data/inspected/cases.csv"))
    # The block of 4 x 4 x 4 voxels of 1 x 1 x 2 mm: centre (5.5, 5.5, 7) mm, 128 mm3.
    objects = "".join(f"test_{x},1,organ,6.25,5.5,5.5,7.0,64,0,,0\n" for x in "abc")
    Path("data/inspected/objects.csv").write_text(OBJECTS + objects)
    DatasetFacts("Small", ("MRI",), {"background": 0, "organ": 1}, "Drawn by hand", "").save(
        Path("data/inspected/dataset.json")
    )
    sides = [SplitRow(c.case_id, c.patient_id, c.case_id.split("_")[0]) for c in cases if c.usable]
    save_splits(sides, Path("data/splits/splits.csv"))
    return project


def set_params(**changes: object) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def load_record() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((OUTPUT / "metrics.json").read_text(encoding="utf-8"))
    return record


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
