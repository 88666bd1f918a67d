"""The page of the report: whole, closed in itself, and what it tells of cases, decisions and versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.report import flatten
from pipeline.report_pictures import MOST_PICTURE_BYTES
from tests.report_files import write_json
from tests.report_page import Page, render
from tests.report_project import EVIL, build_project
from tests.report_scores import PIXEL, Recipe

SECTIONS = [
    "result",
    "data",
    "split",
    "plan",
    "training",
    "results",
    "objects",
    "cases",
    "registry",
    "versions",
]


def test_has_all_sections_in_order_and_is_well_formed(root: Path) -> None:
    page = Page(render(root))
    assert [name for name in page.values("id") if name in SECTIONS] == SECTIONS
    anchors = [href for href in page.values("href") if href.startswith("#")]
    assert anchors == [f"#{name}" for name in SECTIONS[1:]]


def test_asks_for_nothing_from_outside_and_holds_no_script(root: Path) -> None:
    text = render(root)
    page = Page(text)
    addresses = [
        a for name in ("src", "href", "srcset", "data", "poster", "action") for a in page.values(name)
    ]
    assert addresses and all(a.startswith(("#", "data:image/png;base64,")) for a in addresses)
    assert not {"script", "link", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in text


def test_same_files_same_bytes(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    build_project(other, Recipe())
    assert render(root) == render(other)


def test_text_from_files_is_escaped(root: Path) -> None:
    facts, metrics = root / "data/inspected/dataset.json", root / "data/metrics/unet/metrics.json"
    name = "<b onload=x>"
    write_json(facts, json.loads(facts.read_text()) | {"name": name, "description": '"><img src=y>'})
    write_json(metrics, json.loads(metrics.read_text()) | {"dataset": name})
    text = render(root)
    page = Page(text)
    assert EVIL in page.text and "<b onload=x>" in page.text
    assert "<script" not in text and "<b onload" not in text and "<img src=y" not in text


def test_class_and_case_names_are_escaped_in_charts(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(classes=("a<b", "c&d")))
    table = tmp_path / "data/metrics/unet/cases.csv"
    table.write_text(table.read_text().replace("case_001", "<i>one</i>"))
    text = render(tmp_path)
    assert "a<b" in Page(text).text and "a<b" not in text and "<i>one" not in text


def test_no_case_was_quarantined(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(quarantined=False))
    page = Page(render(tmp_path))
    assert "None: all 40 cases passed every check." in page.text and "No objections" in page.text


def test_names_every_quarantined_and_warned_case_with_code_and_reason(root: Path) -> None:
    text = Page(render(root)).text
    for expected in ("case_101 quarantined unreadable the file ends after", "not_finite", "24.00 mm apart"):
        assert expected in text
    assert "case_004 warn position_outlier" in text
    assert "43 cases 40 usable 1 of these with a warning 3 quarantined" in text


def test_pictures_are_inside_until_the_page_is_full(root: Path) -> None:
    folder = root / "data/metrics/unet/overlays"
    median = next(folder.glob("objects_median_*.png"))
    median.write_bytes(PIXEL + bytes(MOST_PICTURE_BYTES))
    text = render(root)
    assert text.count("<img ") == 6 and f"Left out to keep this page small: <code>{median.as_posix()}" in text
    assert len(text) < 3_000_000


def test_refused_challenger_gives_the_reason(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(promoted=False))
    text = Page(render(tmp_path)).text
    assert "The challenger was refused: the improvement in test/dice is 0.0040" in text
    assert "version 2, unet (bundle 756e6574c0ff): not promoted" in text
    assert "Champion now version 1, unet (bundle 0123456789ab)" in text


def test_decision_with_nothing_but_a_name_and_the_bundle(root: Path) -> None:
    run = json.loads((root / "data/models/unet/run.json").read_text())
    versions = [{"bundle_sha256": run["bundle_sha256"]}]
    write_json(root / "data/registry/decision.json", {"name": "phantom", "versions": versions})
    text = Page(render(root)).text
    assert "There is no champion" in text and run["bundle_sha256"][:12] in text


def test_hashes_and_params_stand_on_the_page(root: Path) -> None:
    text = Page(render(root)).text
    for expected in (
        "4d1f9c7a" * 5,
        "ab" * 32,
        "77" * 32,
        "9a0364b9e99bb480dd25e1f0284c8555.dir",
        "augmentation.flip 0.5",
    ):
        assert expected in text
    assert "data/models/unet" in text and "2.15.0" in text


def test_empty_history(root: Path) -> None:
    (root / "data/models/unet/history.csv").write_text("epoch,train_loss\n")
    assert Page(render(root)).text.count("No values were recorded.") == 3


def test_flatten_gives_dotted_keys() -> None:
    assert flatten({"a": 1, "b": {"c": [1, 2], "d": {"e": True}}}) == {
        "a": "1",
        "b.c": "1, 2",
        "b.d.e": "True",
    }


def test_learned_rules_and_what_they_gained_stand_beside_the_training(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe())
    path = tmp_path / "data/models/unet/bundle.json"
    before = render(tmp_path)
    assert "Learned post-processing" not in Page(before).text
    rule = {
        "kind": "minimum_volume", "index": 1, "label": "nodule", "minimum_mm3": 12.5, "dice_before": 0.81239,
        "dice_after": 0.83, "classes": {"nodule": {"before": 0.81239, "after": 0.83}}, "cases": 8,
        "cases_changed": 6,
    }  # fmt: skip
    write_json(path, json.loads(path.read_text()) | {"postprocessing": [rule]})
    text = Page(render(tmp_path)).text
    assert (
        "remove components of nodule below 12.5 mm3 (2D: mm2) 0.8124 0.8300 nodule 0.8124 to 0.8300 6 of 8"
        in text
    )
