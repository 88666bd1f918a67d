"""Presets written into `params.yaml`: values, comments kept, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.presets import load_preset, preset_edit
from pipeline.config import layout_names, load_params
from pipeline.errors import SegtrailError

PRESETS = Path("presets").resolve()
PARAMS = Path("params.yaml")


def save_preset(folder: Path, **changes: object) -> Path:
    """A preset `mine` in an own folder; `changes` replace its top-level keys."""
    tree = yaml.safe_load((PRESETS / "hippocampus.yaml").read_text()) | changes
    (folder / "presets").mkdir(exist_ok=True)
    (folder / "presets" / "mine.yaml").write_text(yaml.safe_dump(tree))
    return folder / "presets"


def test_hippocampus_on_the_shipped_params_keeps_every_comment(project: Path) -> None:
    before = PARAMS.read_text()
    edit = preset_edit(load_preset("hippocampus", PRESETS), PARAMS)
    assert PARAMS.read_text() == before  # nothing is written yet
    old, new = before.splitlines(), edit.text.splitlines()
    changed = [number for number, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    assert [old[i].partition(" # ")[2] for i in changed] == [new[i].partition(" # ")[2] for i in changed]
    PARAMS.write_text(edit.text)
    params = load_params(PARAMS)
    assert (params.inspect.dataset, params.inspect.layout) == ("hippocampus", "msd")
    assert params.phantom.datasets == ()
    assert params.register_.model_name == "hippocampus"
    assert (params.evaluate.baseline, params.evaluate.surface_tolerance_mm) == ("none", 1.0)
    assert len(edit.changes) == len(changed)
    assert "phantom.datasets: [phantom] -> []" in edit.changes


def test_there_and_back_is_the_shipped_file_byte_by_byte(project: Path) -> None:
    before = PARAMS.read_bytes()
    for name in sorted(path.stem for path in PRESETS.glob("*.yaml") if path.stem != "phantom"):
        PARAMS.write_text(preset_edit(load_preset(name, PRESETS), PARAMS).text)
    PARAMS.write_text(preset_edit(load_preset("phantom", PRESETS), PARAMS).text)
    assert PARAMS.read_bytes() == before


def test_every_preset_sets_the_same_keys_and_every_layout_has_one(project: Path) -> None:
    presets = {path.stem: load_preset(path.stem, PRESETS) for path in PRESETS.glob("*.yaml")}
    assert presets.keys() >= {"phantom", "hippocampus", "own", "brats_nnunet"}
    assert {preset.dataset.layout for preset in presets.values()} == set(layout_names())  # each has a preset

    def keys(tree: dict[str, Any], above: str = "") -> set[str]:
        parts = ((f"{above}{k}", v) for k, v in tree.items())
        return {name for k, v in parts for name in (keys(v, f"{k}.") if isinstance(v, dict) else {k})}

    expected = keys(presets["phantom"].params)
    for name, preset in presets.items():
        assert keys(preset.params) == expected, name
        preset_edit(preset, PARAMS)  # values are legal


def test_the_preset_for_data_of_ones_own_carries_no_tuning_of_others(project: Path) -> None:
    PARAMS.write_text(preset_edit(load_preset("hippocampus", PRESETS), PARAMS).text)
    own = load_preset("own", PRESETS)
    assert (own.dataset.download, own.dataset.layout, own.built_in) == (None, "msd", False)
    PARAMS.write_text(preset_edit(own, PARAMS).text)
    params = load_params(PARAMS)
    plan = params.plan
    planned = (plan.spacing_mm, plan.patch_size, plan.base_features, plan.first_features, plan.normalization)
    assert planned == ("auto",) * 5
    assert (plan.detection_zoom, plan.detection_window) == ("auto", "auto")
    assert params.train.of("unet").augmentation.flip_axes == ("x", "y", "z")
    assert (params.register_.model_name, params.evaluate.baseline) == ("own", "none")
    assert "ippocampus" not in PARAMS.read_text()


def test_the_users_own_values_stay(project: Path) -> None:
    PARAMS.write_text(
        PARAMS.read_text().replace("link_iou: 0.3  ", "link_iou: 0.25 ").replace("salt: split", "salt: mine")
    )
    PARAMS.write_text(preset_edit(load_preset("hippocampus", PRESETS), PARAMS).text)
    params = load_params(PARAMS)
    assert (params.predict.link_iou, params.split.salt) == (0.25, "mine")


def test_the_same_preset_again_changes_nothing(project: Path) -> None:
    edit = preset_edit(load_preset("phantom", PRESETS), PARAMS)
    assert edit.changes == ()
    assert edit.text == PARAMS.read_text()


def test_which_data_set_the_project_makes_itself() -> None:
    assert load_preset("phantom", PRESETS).built_in
    assert not load_preset("hippocampus", PRESETS).built_in


def test_an_unknown_preset_lists_the_legal_ones() -> None:
    with pytest.raises(SegtrailError, match="unknown preset 'hippo'") as caught:
        load_preset("hippo", PRESETS)
    assert caught.value.fix.startswith("use one of: ")
    assert "lidc, lits, luna16, own, phantom" in caught.value.fix
    with pytest.raises(SegtrailError, match="no presets in this folder"):
        load_preset("phantom", Path("tests/no-such-folder"))


def test_all_unknown_keys_of_a_preset_are_listed(project: Path) -> None:
    params = {
        "register": {"modle_name": "x"},
        "train": {"unnet": {"seed": 1}},
        "plan": 3,
        "report": {"title": {"a": 1}},
    }
    preset = load_preset("mine", save_preset(project, params=params))
    with pytest.raises(SegtrailError, match="4 problems") as caught:
        preset_edit(preset, PARAMS)
    assert "unknown params key 'register.modle_name' (fix: use one of: class_margin, " in caught.value.what
    assert (
        "unknown params key 'train.unnet' (fix: use one of: maskrcnn, resunet, unet, unet_2d"
        in caught.value.what
    )
    assert "plan must be a section" in caught.value.what
    assert "report.title must be one value" in caught.value.what


def test_a_value_of_a_preset_that_is_not_legal(project: Path) -> None:
    preset = load_preset("mine", save_preset(project, params={"evaluate": {"baseline": "magic"}}))
    with pytest.raises(SegtrailError, match="evaluate.baseline = 'magic'") as caught:
        preset_edit(preset, PARAMS)
    assert caught.value.where == "presets, data set hippocampus"


def test_params_that_are_wrong_already_are_blamed_themselves(project: Path) -> None:
    PARAMS.write_text(PARAMS.read_text().replace("  salt:", "  slat:"))
    with pytest.raises(SegtrailError, match="split.slat: unknown key") as caught:
        preset_edit(load_preset("hippocampus", PRESETS), PARAMS)
    assert caught.value.where == "params.yaml"


@pytest.mark.parametrize(
    "dataset",
    [
        {"name": "../up", "layout": "msd"},
        {"name": "a", "layout": "mds"},
        {
            "name": "a",
            "layout": "msd",
            "download": {"url": "file:///etc/passwd", "checksum": "md5:" + "0" * 32, "licence": ""},
        },
        {
            "name": "a",
            "layout": "msd",
            "download": {"url": "https://x/y", "checksum": "crc:1", "licence": ""},
        },
        {"name": "a", "layout": "msd", "licence": "misplaced"},
    ],
)
def test_a_preset_file_that_is_not_right(project: Path, dataset: dict[str, object]) -> None:
    with pytest.raises(SegtrailError, match="the preset is not right") as caught:
        load_preset("mine", save_preset(project, dataset=dataset))
    assert caught.value.where.endswith("mine.yaml")


def test_a_preset_that_is_no_yaml(project: Path) -> None:
    save_preset(project)
    (project / "presets/mine.yaml").write_text("dataset: [")
    with pytest.raises(SegtrailError, match="the preset is not right"):
        load_preset("mine", project / "presets")
