"""Reading the files behind the report, and the one error when some are missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.errors import SegtrailError
from pipeline.report_inputs import load_report_inputs
from tests.report_files import write_json
from tests.report_project import build_project
from tests.report_scores import Recipe


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("data/inspected/cases.csv", "inspect"),
        ("data/inspected/fingerprints/case_001.json", "inspect"),
        ("data/splits/splits.csv", "split"),
        ("data/plan/plan.json", "plan"),
        ("data/models/unet/run.json", "train@unet"),
        ("data/metrics/unet/metrics.json", "evaluate@unet"),
        ("data/registry/decision.json", "register"),
    ],
)
def test_a_missing_file_names_its_stage(root: Path, name: str, stage: str) -> None:
    (root / name).unlink()
    with pytest.raises(SegtrailError) as caught:
        load_report_inputs(root)
    assert caught.value.where == str(root / name) and caught.value.fix == f"dvc repro {stage}"


def test_all_missing_files_are_in_one_error(root: Path) -> None:
    (root / "data/plan/plan.json").unlink()
    (root / "data/models/unet/bundle.json").unlink()
    with pytest.raises(SegtrailError, match=r"(?s)2 problems.*dvc repro plan.*dvc repro train@unet"):
        load_report_inputs(root)


def test_no_model_was_evaluated(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe())
    for path in sorted((tmp_path / "data/metrics/unet").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "data/metrics/unet").rename(tmp_path / "data/metrics/.unet.partial")
    with pytest.raises(SegtrailError, match="no model was evaluated"):
        load_report_inputs(tmp_path)


def test_models_of_another_set_and_unknown_to_the_registry_are_left_out(root: Path) -> None:
    metrics, models = root / "data/metrics", root / "data/models"
    shutil.copytree(metrics / "unet", metrics / "older")  # its training is gone
    record = json.loads((metrics / "older/metrics.json").read_text())
    write_json(metrics / "older/metrics.json", record | {"dataset": "another"})
    for folder in (metrics, models):
        shutil.copytree(folder / "unet", folder / "stranger")
    run = json.loads((models / "stranger/run.json").read_text())
    write_json(models / "stranger/run.json", run | {"bundle_sha256": "d" * 64})
    assert [model.name for model in load_report_inputs(root).models] == ["unet"]


def test_a_registry_that_knows_none_of_the_models(root: Path) -> None:
    path = root / "data/registry/decision.json"
    write_json(path, json.loads(path.read_text()) | {"versions": []})
    with pytest.raises(SegtrailError, match="no model that was evaluated is in the registry") as caught:
        load_report_inputs(root)
    assert caught.value.fix == "dvc repro register"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data/plan/plan.json", "{", "plan.json cannot be read"),
        ("data/plan/plan.json", "[1]", "holds a list, expected an object"),
        ("data/splits/splits.csv", "case_id,side\na,test\n", "its columns are"),
        ("data/metrics/unet/cases.csv", "case_id,patient_id,label\na,b\n", "more or fewer columns"),
    ],
)
def test_a_damaged_file_is_one_clear_error(root: Path, name: str, content: str, message: str) -> None:
    (root / name).write_text(content)
    with pytest.raises(SegtrailError, match=message) as caught:
        load_report_inputs(root)
    assert "--force --single-item" in caught.value.fix


def test_empty_cells_and_infinity_are_none(root: Path) -> None:
    (root / "data/metrics/unet/cases.csv").write_text(
        "case_id,patient_id,label,dice,hd95_mm\na,p,n,,inf\nb,p,n,0.5,nan\n"
    )
    first, second = load_report_inputs(root).models[0].cases
    assert first.values == {"dice": None, "hd95_mm": None}
    assert second.values == {"dice": 0.5, "hd95_mm": None}


def test_lock_gives_the_hashes_of_this_run_only(root: Path) -> None:
    lock = root / "dvc.lock"
    lock.write_text(lock.read_text() + "  train@old:\n    outs:\n    - path: data/models/old\n      md5: x\n")
    paths = list(load_report_inputs(root).outputs)
    assert paths == [
        "data/inspected",
        "data/plan",
        "data/models/unet",
    ]  # not register, report, or another model
    lock.unlink()
    assert load_report_inputs(root).outputs == {}


def test_baseline_and_overlays_may_be_absent(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(baseline=False))
    for path in (tmp_path / "data/metrics/unet/overlays").iterdir():
        path.unlink()
    model = load_report_inputs(tmp_path).models[0]
    assert model.baseline_cases == () and model.overlays == ()


def test_overlay_knows_its_rank_case_and_kind(root: Path) -> None:
    overlays = load_report_inputs(root).models[0].overlays
    ranks = ["busiest", "best", "median", "worst", "best", "median", "worst"]
    assert [o.rank for o in overlays] == ranks
    assert [o.of_objects for o in overlays] == [True] * 4 + [False] * 3
    assert overlays[3].case_id == overlays[6].case_id == "case_021"  # the one without any prediction


def test_curves_and_objects_are_read_where_they_are(root: Path) -> None:
    model = load_report_inputs(root).models[0]
    assert len(model.curves["precision_recall"]) == 2 * 101 and len(model.curves["froc"]) == 5
    assert model.objects["nodule"]["reference"] == 13
    for name in ("precision_recall", "froc"):
        (root / f"data/metrics/unet/{name}.csv").unlink()
    assert load_report_inputs(root).models[0].curves == {}
