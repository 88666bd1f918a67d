"""Versions: what the archive and MLflow hold of each, and how they are found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import model_project as made
import pytest
from registered import (
    BETTER,
    GOOD,
    client,
    decision_file,
    run_register,
    versions,
)

from flows import tracking
from flows.archive import list_versions, version_folder
from flows.served_model import _to_row
from flows.tracking_served import build_signature
from pipeline.config import load_params
from pipeline.errors import SegtrailError


def test_the_version_is_an_mlflow_model_without_pickle(registered: str) -> None:
    version = client().get_model_version("phantom", "1")
    folder = Path(client().get_model_version_download_uri("phantom", "1"))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "served_model.py", "requirements.txt", "code/pipeline/bundle.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pyc"))]
    (weights,) = folder.rglob("model.safetensors")
    assert weights.read_text() == "one"
    logged = client().get_logged_model(version.source.removeprefix("models:/"))
    assert str(logged.status) == "READY"
    assert {metric.key: metric.value for metric in logged.metrics}["test/dice"] == pytest.approx(0.825)
    assert f"nibabel=={__import__('nibabel').__version__}" in (folder / "requirements.txt").read_text()
    text = (folder / "MLmodel").read_text()
    assert not [line for line in text.splitlines() if ": /" in line]  # no path of this machine
    from mlflow.models import get_model_info

    signature = get_model_info(str(folder)).signature
    assert [(column.name, column.required) for column in signature.inputs] == [
        ("image", True),
        ("output", False),
    ]
    assert signature.outputs.input_names()[3:] == ["volume_mm3_nodule", "volume_mm3_vessel"]
    assert {spec.name: spec.default for spec in signature.params} == {
        "overlap": 0.5, "mirror": "x", "memory_gb": 6.0, "min_component_mm3": 0.0, "postprocessing": "learned",
        "min_score": 0.05, "label_score": 0.5, "duplicate_iou": 0.5, "link_iou": 0.3, "device": "auto",
    }  # fmt: skip


def test_every_version_is_archived_whole(three: tuple[str, str, str]) -> None:
    found = list_versions("phantom")
    assert [version.bundle_sha256 for version in found] == list(three)
    shutil.rmtree("data/models")
    shutil.rmtree("data/metrics")
    first = found[0].files
    assert (first.folder / "model.safetensors").read_text() == "one"
    assert first.load_metrics()["metrics"]["test/dice"] == pytest.approx(0.825)
    for path in (
        first.plan,
        first.splits,
        first.cases,
        first.dataset,
        first.metrics / "overlays" / "best_case_00.png",
    ):
        assert path.is_file()
    assert first.provenance is not None
    assert first.provenance["data_digest"].startswith("0123")


def test_editing_a_model_does_not_reach_its_archived_copy(registered: str) -> None:
    weights = Path("data/models/unet/model.safetensors")
    with weights.open("a") as stream:
        stream.write(" and more")
    assert (version_folder("phantom", registered) / "model" / "model.safetensors").read_text() == "one"


def test_new_scores_of_the_same_model(registered: str) -> None:
    made.evaluate("unet", BETTER)
    run_register()
    assert versions() == {"1": registered}
    assert decision_file()["versions"][0]["value"] == pytest.approx(0.925)
    version = client().get_model_version("phantom", "1")
    assert version.tags["segtrail.test/dice"] == "0.9250"
    assert "0.9250" in version.description
    logged = client().get_logged_model(version.source.removeprefix("models:/"))
    assert max(m.timestamp for m in logged.metrics) == next(
        m.timestamp for m in logged.metrics if m.key == "test/dice" and m.value == pytest.approx(0.925)
    )


def test_new_scores_that_no_description_shows(registered: str) -> None:
    path = Path("data/metrics/unet/metrics.json")
    record = json.loads(path.read_text())
    record["metrics"]["test/vessel/assd_mm"] = 1.25
    made.write_json(record, path)
    run_register()
    (logged,) = client().search_logged_models(["1"])
    assert {metric.key: metric.value for metric in logged.metrics}["test/vessel/assd_mm"] == 1.25


def test_damaged_bundles_are_not_registered(tracked: Path) -> None:
    made.write_project()
    made.train("unet", "one")
    made.evaluate("unet", GOOD)
    weights = Path("data/models/unet/model.safetensors")
    weights.write_text("onf")
    with pytest.raises(SegtrailError, match=r"the training did not write this file[\s\S]*model.safetensors"):
        run_register()
    weights.write_text("one")
    bundle = Path("data/models/unet/bundle.json")
    bundle.write_text(bundle.read_text().replace("0.01", "0.02"))
    with pytest.raises(SegtrailError, match=r"the training did not write this file[\s\S]*bundle.json"):
        run_register()
    assert not Path("data/registry/decision.json").exists()


def test_find_bundle(three: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, number, predict = tracking.find_bundle("phantom", "champion")
    assert ((folder / "model.safetensors").read_text(), number) == ("two", "2")
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("overlap: 0.5", "overlap: 0.25"))
    assert load_params().predict.overlap == 0.25
    assert predict["overlap"] == 0.5  # as it was scored
    folder, number, _ = tracking.find_bundle("phantom", "1")
    assert ((folder / "model.safetensors").read_text(), number) == ("one", "1")
    with pytest.raises(SegtrailError, match=r"unknown version '9'[\s\S]*champion"):
        tracking.find_bundle("phantom", "9")
    with pytest.raises(SegtrailError, match=r"unknown registered model 'x'[\s\S]*phantom"):
        tracking.find_bundle("x", "champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder, number, _ = tracking.find_bundle("phantom", "challenger")  # `dvc pull` alone is enough
    assert ((folder / "model.safetensors").read_text(), number) == ("three", "unknown")


def test_a_look_up_creates_nothing(registered: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client().delete_registered_model("phantom")
    assert tracking.find_bundle("phantom", "champion")[1] == "unknown"
    assert client().search_registered_models() == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/none/mlflow.db")
    assert tracking.find_bundle("phantom", "champion")[1] == "unknown"
    assert not (project / "none").exists()


def test_regions_have_columns_of_their_own(registered: str) -> None:
    (version,) = list_versions("phantom")
    path = version.files.plan
    regions = [{"name": "whole", "labels": [1, 2], "paint": 1}]
    path.chmod(0o644)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"regions": regions}))
    names = build_signature(version).outputs.input_names()
    assert names[3:] == ["volume_mm3_nodule", "volume_mm3_vessel", "volume_mm3_whole"]
    record = {
        "case_id": "a", "input": ["a.nii.gz"],
        "labels": {"nodule": {"voxels": 2, "volume_mm3": 4.0}, "vessel": {"voxels": 0, "volume_mm3": 0.0}},
        "regions": {"whole": {"voxels": 2, "volume_mm3": 4.0}},
    }  # fmt: skip
    assert list(_to_row(record, Path("out"))) == names
