"""Training curves of both kinds of models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline.config import ReportParams
from pipeline.report import render_report
from pipeline.report_charts import case_dots, training_view
from pipeline.report_inputs import ModelInputs, load_report_inputs
from tests.report_project import build_project
from tests.report_scores import Recipe


@pytest.fixture
def models(tmp_path: Path) -> dict[str, ModelInputs]:
    build_project(tmp_path, Recipe(classes=("a", "b"), models={"unet": 0.8, "maskrcnn": 0.7}))
    return {model.name: model for model in load_report_inputs(tmp_path).models}


def legends(view: dict[str, Any]) -> dict[str, list[str]]:
    return {chart["title"]: [name for _, name in chart["legend"]] for chart in view["charts"]}


def test_unet_shows_dice_by_class(models: dict[str, ModelInputs]) -> None:
    view = training_view(models["unet"], ["a", "b"])
    assert legends(view) == {"Training loss": [], "Validation Dice": ["a", "b", "mean"], "Learning rate": []}
    assert view["facts"][0] == ("Best validation Dice", "0.830 at epoch 110")


def test_mask_rcnn_shows_each_loss_and_its_own_validation(models: dict[str, ModelInputs]) -> None:
    view = training_view(models["maskrcnn"], ["a", "b"])
    assert legends(view) == {
        "Training loss": ["objectness", "proposal box", "class", "box", "mask", "sum"],
        "Validation": ["Mask AP .50", "Mask mAP .10:.50"],
        "Learning rate": [],
    }
    assert view["facts"][0] == ("Best validation mask mAP .10:.50", "0.830 at epoch 110")
    validation = ElementTree.fromstring(view["charts"][1]["svg"])
    assert validation.find("line[@class='mark']") is not None
    assert not view["late"]


def test_the_last_validation_being_the_best_is_told(models: dict[str, ModelInputs]) -> None:
    for model in models.values():
        late = dataclasses.replace(model, run={**model.run, "best_epoch": 120})
        assert training_view(late, ["a", "b"])["late"]


def test_folds_are_told_from_one_training(models: dict[str, ModelInputs]) -> None:
    unet = models["unet"]
    closing = {"validation_score": 0.8654, "validation_scores": {"dice": 0.8654}}
    facts = dict(training_view(dataclasses.replace(unet, run={**unet.run, **closing}), ["a", "b"])["facts"])
    assert facts["Closing validation Dice"] == "0.865, cases on the validation side"
    folds = {**unet.run, **closing, "folds": 3, "best_epoch": None, "training_cases": 40}
    view = training_view(dataclasses.replace(unet, run=folds), ["a", "b"])
    facts = dict(view["facts"])
    assert facts["Best validation Dice"] == "0.830 on average over the folds"
    assert facts["Closing validation Dice"] == "0.865, cases outside their fold"
    assert facts["Cases"] == "40 in 3 folds"
    assert ", budget 3 x " in facts["Time"]
    assert not view["late"]


def of_bundle(model: ModelInputs, **changes: Any) -> dict[str, str]:
    """The facts of a training with another bundle."""
    return dict(
        training_view(dataclasses.replace(model, bundle={**model.bundle, **changes}), ["a", "b"])["facts"]
    )


def test_facts_say_which_network_it_is_and_what_it_sees(models: dict[str, ModelInputs]) -> None:
    """The plan of the bundle counts: that of the data set is of the plain U-Net at full resolution."""
    shown = ("Network", "Configuration", "First network", "Voxel size", "Patch", "Window", "Batch")
    flat = {"dimensions": 2, "spacing_mm": [2.0, 2.0, 3.0], "patch_size": [112, 96, 1], "batch_size": 24}
    params = {"network": "resunet", "configuration": "2d"}
    facts = of_bundle(models["unet"], network="resunet", plan=flat, params=params)
    assert [(name, facts[name]) for name in shown if name in facts] == [
        ("Network", "U-Net with a residual encoder, 2D"),
        ("Configuration", "2d: single slices"),
        ("Voxel size", "2.00 × 2.00 × 3.00 mm"),
        ("Patch", "112 × 96 × 1 voxels"),
        ("Batch", "24 patches"),
    ]
    fine = {"dimensions": 3, "spacing_mm": [1.0, 1.0, 2.5], "patch_size": [64, 64, 32], "batch_size": 2}
    low = {**fine, "spacing_mm": [2.0, 2.0, 2.5], "batch_size": 3}
    params = {"network": "unet", "configuration": "cascade"}
    facts = of_bundle(models["unet"], network="cascade", plan=fine, low_plan=low, params=params)
    assert facts["Network"] == "U-Net, 3D"
    assert facts["Configuration"] == "cascade: low, then full resolution"
    assert facts["First network"] == "2.00 × 2.00 × 2.50 mm, 64 × 64 × 32 voxels, 3 patches"
    assert facts["Voxel size"] == "1.00 × 1.00 × 2.50 mm"
    objects = {**fine, "detection": {"zoom": 2.0, "window": [160, 192]}}
    params = {"network": "maskrcnn", "backbone": "resnet18", "batch_size": 4}
    facts = of_bundle(models["maskrcnn"], network="maskrcnn", plan=objects, params=params)
    assert [(name, facts[name]) for name in shown if name in facts] == [
        ("Network", "Mask R-CNN, resnet18"),
        ("Voxel size", "1.00 × 1.00 × 2.50 mm"),
        ("Window", "160 × 192 pixels, 2 a voxel"),
        ("Batch", "4 windows"),
    ]
    assert not set(shown) & set(of_bundle(models["unet"], plan=None))  # a bundle of before
    start = {"provenance": {"started_from": "scratch (no champion yet)"}}
    for plan, network in ((fine, "unet"), (objects, "maskrcnn")):
        facts = of_bundle(models["unet"], plan=plan, params={"network": network}, **start)
        assert facts["Started from"] == "scratch (no champion yet)"


def test_both_networks_of_a_cascade_have_curves(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe())
    folder = tmp_path / "data/models/unet"
    (single,) = load_report_inputs(tmp_path).models
    assert training_view(single, ["nodule"])["low_charts"] == []
    lines = (folder / "history.csv").read_text().splitlines()
    (folder / "low_history.csv").write_text("\n".join(lines[:31]) + "\n")
    (cascade,) = load_report_inputs(tmp_path).models
    view = training_view(cascade, ["nodule"])
    assert [chart["title"] for chart in view["low_charts"]] == [chart["title"] for chart in view["charts"]]
    validated = [ElementTree.fromstring(view[key][1]["svg"]) for key in ("low_charts", "charts")]
    assert [svg.find("line[@class='mark']") is not None for svg in validated] == [False, True]
    assert view["low_charts"][0]["svg"] != view["charts"][0]["svg"]
    page = render_report(load_report_inputs(tmp_path), ReportParams(title="x", worst_cases=2))
    assert page.index("First network, at low resolution") < page.index("Second network, at full resolution")
    assert page.count("Training loss by epoch") >= 2


@pytest.mark.parametrize(
    ("metric", "name"),
    [("test/dice", "mean"), ("test/mask_map_50", "pooled value"), ("test/ap_dsb", "mean")],
)
def test_the_bar_is_called_what_it_is(models: dict[str, ModelInputs], metric: str, name: str) -> None:
    svg = ElementTree.fromstring(case_dots([models["unet"]], ["a"], metric))
    title = svg.find(".//line[@class='mean']/title")
    assert title is not None and title.text is not None
    assert title.text.rsplit(" ", 1)[0] == name


def test_a_single_validation_can_be_seen(models: dict[str, ModelInputs]) -> None:
    model = models["unet"]
    once = tuple(
        row if row["epoch"] == 10 else {**row, "validation_dice": None} for row in model.history[:15]
    )
    view = training_view(dataclasses.replace(model, history=once, run={**model.run, "best_epoch": 15}), ["a"])
    svg = ElementTree.fromstring(view["charts"][1]["svg"])
    (mark,) = svg.findall("line[@class='mark']")
    assert len(svg.findall("circle")) == 1
    assert float(mark.attrib["x1"]) == pytest.approx(350.0)
