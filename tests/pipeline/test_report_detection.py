"""The report's section on objects."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.report_detection import detection_view
from pipeline.report_inputs import ModelInputs, load_report_inputs
from tests.report_project import build_project
from tests.report_scores import Recipe

TWO = {"maskrcnn": 0.8, "unet": 0.7}


def models(root: Path, **more: object) -> tuple[ModelInputs, ...]:
    build_project(root, Recipe(models=TWO, **more))  # type: ignore[arg-type]
    return load_report_inputs(root).models


def test_models_stand_side_by_side_and_the_better_is_marked(tmp_path: Path) -> None:
    view = detection_view(models(tmp_path), ["nodule"])
    assert view is not None
    (group,) = view["headlines"]
    assert [row["metric"] for row in group["rows"]] == [
        "mask_map_10_50", "mask_map_50", "box_map_10_50", "cpm", "ap_dsb_50", "panoptic_quality",
    ]  # fmt: skip
    for row in group["rows"]:
        assert [cell["model"] for cell in row["cells"]] == ["maskrcnn", "unet"]  # no baseline
        assert [cell["best"] for cell in row["cells"]] == [True, False]
    assert len(view["rest"][0]["rows"]) == 24 - 6
    assert view["legend"] == [("s0", "maskrcnn"), ("s1", "unet")]


def test_all_models_are_in_one_chart(tmp_path: Path) -> None:
    view = detection_view(models(tmp_path), ["nodule"])
    assert view is not None
    assert [chart["title"] for chart in view["charts"]] == [
        "Precision over recall, IoU 0.1", "Precision over recall, IoU 0.5",
        "Sensitivity over false positives a scan",
    ]  # fmt: skip
    for chart in view["charts"]:
        lines = ElementTree.fromstring(chart["svg"]).findall("polyline")
        assert [line.attrib["class"] for line in lines] == ["curve s0", "curve s1"]
    froc = ElementTree.fromstring(view["charts"][2]["svg"])
    # Equal steps from 1/8 to 8; the curve of maskrcnn reaches 0.8 at 3 false positives a scan.
    assert [t.text for t in froc.findall("text")][6:13] == ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    line = froc.find("polyline")
    assert line is not None
    x, y = line.attrib["points"].split()[2].split(",")
    assert float(x) == pytest.approx(46 + 304 * 4.585 / 6, abs=0.1)  # log2(3 * 8)
    assert float(y) == pytest.approx(184 - 172 * 0.8, abs=0.1)


def test_pictures_have_no_froc(tmp_path: Path) -> None:
    view = detection_view(models(tmp_path, volumes=False), ["nodule"])
    assert view is not None
    assert view["headlines"][0]["rows"][0]["metric"] == "mask_map_50"
    assert len(view["charts"]) == 2
    assert view["sizes"][0]["metric"] == "mAP .50:.95"


def test_by_size(tmp_path: Path) -> None:
    view = detection_view(models(tmp_path), ["nodule"])
    assert view is not None
    (group,) = view["sizes"]
    rows = [(row["size"], row["kind"], row["objects"], row["cells"]) for row in group["rows"]]
    assert rows[0] == ("small", "masks", "4", [("0.480", True), ("0.420", False)])
    assert rows[1][:3] == ("small", "boxes", "")
    assert rows[4] == ("large", "masks", "0", [("–", False), ("–", False)])


def test_many_classes_have_charts_of_three(tmp_path: Path) -> None:
    classes = ("a", "b", "c", "d")
    view = detection_view(models(tmp_path, classes=classes), list(classes))
    assert view is not None
    assert len(view["charts"]) == 3 * 2 + 3 and view["left_out"] == ["d"]
    assert view["charts"][0]["title"].endswith("IoU 0.1, a")
    assert [group["title"] for group in view["headlines"]] == ["Mean over classes", *classes]


def test_metrics_without_objects_have_no_section(tmp_path: Path) -> None:
    bare = [dataclasses.replace(m, metrics={"test/dice": 0.5}) for m in models(tmp_path)]
    assert detection_view(bare, ["nodule"]) is None


def test_one_model_without_curves(tmp_path: Path) -> None:
    first, second = models(tmp_path)
    view = detection_view([first, dataclasses.replace(second, curves={})], ["nodule"])
    assert view is not None
    assert all(chart["svg"].count("<polyline") == 1 for chart in view["charts"])
