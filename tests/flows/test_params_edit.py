"""Changes of a `params.yaml` whose sections take values from another one by `<<: *unet`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from flows.params_edit import edit_params
from pipeline.config import load_params

PARAMS = Path("params.yaml")


def change(
    folder: Path, text: str, **sections: dict[str, Any]
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Text, content of `train` and list of changes after one edit of sections of `train`."""
    path = folder / "params.yaml"
    path.write_text(text)
    edit = edit_params([{"train": sections}], path, "a test")
    path.write_text(edit.text)
    load_params(path)
    return edit.text, yaml.safe_load(edit.text)["train"], edit.changes


def test_a_value_of_a_section_that_inherits_it_changes_no_other(tmp_path: Path) -> None:
    shipped = PARAMS.read_text()
    text, train, changes = change(tmp_path, shipped, unet_2d={"max_minutes": 7.0})
    assert {name: train[name]["max_minutes"] for name in ("unet", "resunet", "unet_2d")} == {
        "unet": 4.5, "resunet": 4.5, "unet_2d": 7.0,
    }  # fmt: skip
    assert changes == ("train.unet_2d.max_minutes: 4.5 -> 7.0",)
    new = set(text.splitlines()) - set(shipped.splitlines())
    assert new == {"    max_minutes: 7.0"}  # nothing else moved
    assert len(text.splitlines()) == len(shipped.splitlines()) + 1


def test_a_change_of_the_base_reaches_who_inherits_and_is_not_written_twice(tmp_path: Path) -> None:
    minutes = {"max_minutes": 9.0}
    text, train, changes = change(tmp_path, PARAMS.read_text(), unet=minutes, resunet=minutes)
    assert changes == ("train.unet.max_minutes: 4.5 -> 9.0",)
    assert text.count("max_minutes: 9.0") == 1
    assert {train[name]["max_minutes"] for name in train if name != "maskrcnn"} == {9.0}


def test_an_old_value_can_be_kept_where_the_base_changes(tmp_path: Path) -> None:
    """The base is edited first: a stale copy of its 4.5 would make the second change look done already."""
    _, train, changes = change(
        tmp_path, PARAMS.read_text(), unet={"max_minutes": 9.0}, resunet={"max_minutes": 4.5}
    )
    assert (train["unet"]["max_minutes"], train["resunet"]["max_minutes"]) == (9.0, 4.5)
    assert changes[1] == "train.resunet.max_minutes: 9.0 -> 4.5"


def test_a_key_of_an_inherited_section_makes_a_copy_of_the_section(tmp_path: Path) -> None:
    shipped = PARAMS.read_text()
    before = yaml.safe_load(shipped)["train"]
    text, train, _ = change(tmp_path, shipped, resunet={"augmentation": {"flip": 0.25}})
    assert train["resunet"]["augmentation"] == {**before["unet"]["augmentation"], "flip": 0.25}
    for name in ("unet", "unet_2d", "maskrcnn"):
        assert train[name] == before[name]
    unchanged, _, changes = change(tmp_path, text, resunet={"augmentation": {"flip": 0.25}})
    assert (unchanged, changes) == (text, ())


def test_folds_of_the_shipped_u_net_can_be_set(tmp_path: Path) -> None:
    """Sections that inherit them, the cascade among them, are legal with them too."""
    _, train, changes = change(tmp_path, PARAMS.read_text(), unet={"folds": 5})
    assert changes == ("train.unet.folds: 1 -> 5",)
    assert {train[name]["folds"] for name in train if name != "maskrcnn"} == {5}
