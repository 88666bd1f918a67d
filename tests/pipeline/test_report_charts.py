"""Training curves of both kinds of models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

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
