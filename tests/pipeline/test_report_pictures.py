"""Which pictures stand beside which, and which fit onto the page."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

from pipeline.report_inputs import load_report_inputs
from pipeline.report_pictures import MOST_PICTURE_BYTES, picture_groups
from tests.report_project import build_project
from tests.report_scores import PIXEL, Recipe


def test_models_stand_side_by_side_rank_by_rank(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(models={"maskrcnn": 0.7, "unet": 0.8}))
    models = load_report_inputs(tmp_path).models
    groups = picture_groups(models, models[1])
    assert [group["title"] for group in groups] == [
        "The case with most objects, the same for every model", "Best case of each model",
        "Median case of each model", "Worst case of each model",
        "Outlines in three planes: unet", "Outlines in three planes: maskrcnn",
    ]  # fmt: skip
    assert [group["folded"] for group in groups] == [False] * 5 + [True]
    first = groups[0]["items"]
    assert [item["model"] for item in first] == ["maskrcnn", "unet"]
    assert len({item["overlay"].case_id for item in first}) == 1
    assert [item["overlay"].rank for item in groups[4]["items"]] == ["best", "median", "worst"]


def test_wide_pictures_and_those_that_do_not_fit(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(volumes=False))
    (model,) = load_report_inputs(tmp_path).models
    wide = PIXEL[:16] + struct.pack(">II", 1700, 560) + PIXEL[24:]
    first, second, *rest = model.overlays
    large = dataclasses.replace(second, png=wide + bytes(MOST_PICTURE_BYTES))
    model = dataclasses.replace(model, overlays=(dataclasses.replace(first, png=wide), large, *rest))
    groups = picture_groups([model], model)
    assert len(groups) == 4  # a picture has no planes
    shown = [(group["items"][0]["wide"], bool(group["items"][0]["source"])) for group in groups]
    assert shown == [(True, True), (True, False), (False, True), (False, True)]
