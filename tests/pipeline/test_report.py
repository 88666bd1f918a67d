"""The page as a reviewer's browser sees it, parsed with the standard library."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.config import ReportParams
from pipeline.report import best_model, flatten, render_report
from pipeline.report_inputs import load_report_inputs
from pipeline.report_pictures import MOST_PICTURE_BYTES
from tests.report_files import write_csv, write_json
from tests.report_project import EVIL, build_project
from tests.report_scores import PIXEL, Recipe

PARAMS = ReportParams(title="Segtrail report", worst_cases=3)
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
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that every tag is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, attribute: str) -> list[str]:
        return [str(attrs[attribute]) for _, attrs in self.tags if attribute in attrs]


def render(root: Path, params: ReportParams = PARAMS) -> str:
    return render_report(load_report_inputs(root), params)


def rewrite_metrics(root: Path, changes: dict[str, float | None], model: str = "unet") -> None:
    path = root / "data/metrics" / model / "metrics.json"
    record = json.loads(path.read_text())
    record["metrics"] |= changes
    write_json(path, record)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build_project(tmp_path, Recipe())
    return tmp_path


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


def test_numbers_are_those_of_metrics_json(root: Path) -> None:
    record = json.loads((root / "data/metrics/unet/metrics.json").read_text())["metrics"]
    cells = {a["data-metric"]: a["data-value"] for _, a in Page(render(root)).tags if "data-metric" in a}
    ends = re.compile(r"_(ci_low|ci_high|n|small|medium|large)$")
    shown = {key for key in record if key.count("/") == 2 and not ends.search(key)}
    assert (
        set(cells) == shown and len(shown) == 24 + 24
    )  # overlaps of model and baseline, objects of the model
    for key, value in cells.items():
        assert float(value or "nan") == record[str(key)]


def test_headline_is_the_metric_of_the_gate_with_interval_and_counts(root: Path) -> None:
    rewrite_metrics(root, {"test/dice": 0.81249, "test/dice_ci_low": 0.7, "test/dice_ci_high": 0.9})
    page = Page(render(root))
    assert page.values("data-headline") == ["test/dice"]
    assert (
        "Dice, nodule, on the test set 0.812 95 % interval 0.700 to 0.900 n = 7 cases of 7 patients"
        in page.text
    )
    assert "not defined in 1 more test case" in page.text


def test_null_is_a_dash_with_an_explanation(root: Path) -> None:
    ends = ("", "_ci_low", "_ci_high")
    rewrite_metrics(root, {f"test/nodule/hd95_mm{end}": None for end in ends} | {"test/nodule/hd95_mm_n": 0})
    text = render(root)
    row = text[text.index(">HD95 <") :]
    row = row[: row.index("</tr>")]
    assert row.count('class="none"') == 2 and 'title="not defined">–<' in row and ">None<" not in text
    assert "– means not defined" in text


def test_a_pooled_number_is_not_called_a_mean(root: Path) -> None:
    assert "The dark bar is the mean, the line" in Page(render(root)).text
    path = root / "data/registry/decision.json"
    path.write_text(path.read_text().replace("test/dice", "test/mask_map_50"))
    assert (
        "The dark bar is the pooled value, which is not the mean of the dots, the line"
        in Page(render(root)).text
    )


def test_nan_in_a_json_file_counts_as_not_defined(root: Path) -> None:
    path = root / "data/metrics/unet/metrics.json"
    path.write_text(re.sub(r'("test/dice"): [0-9.]+', r"\1: NaN", path.read_text()))
    page = Page(render(root))
    assert "Not to be used" in page.text and "nan" not in page.text.lower().split()


def test_no_baseline(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(baseline=False))
    page = Page(render(tmp_path))
    assert "No baseline was measured" in page.text and "Otsu" not in page.text


def test_baseline_stands_beside_the_model(root: Path) -> None:
    metrics = [a for _, a in Page(render(root)).tags if str(a.get("data-metric", "")).endswith("nodule/dice")]
    assert [a["data-metric"] for a in metrics] == ["test/nodule/dice", "baseline_otsu_lung/nodule/dice"]


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


def test_several_models_and_classes(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(classes=("Anterior", "Posterior"), models={"a": 0.7, "b": 0.9}, cases=60))
    page = Page(render(tmp_path))
    cells = [a for _, a in page.tags if a.get("data-metric") == "test/dice"]
    assert [a["data-model"] for a in cells] == ["a", "b"]
    assert "Best model b of 2" in page.text and "Mean over classes" in page.text
    assert "Worst cases of b" in page.text and "Outlines in three planes: a" in page.text


def test_regions_take_the_place_of_the_classes_in_overlaps(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(classes=("core", "edema"), baseline=False))
    facts, table = tmp_path / "data/inspected/dataset.json", tmp_path / "data/metrics/unet/cases.csv"
    write_json(facts, json.loads(facts.read_text()) | {"regions": {"whole": [1, 2]}})
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    whole = [
        row | {"label": "whole", "kind": "region", "dice": "0.9"} for row in rows if row["label"] == "core"
    ]
    write_csv(table, [*whole, *(row | {"kind": "class"} for row in rows)])
    path = tmp_path / "data/metrics/unet/metrics.json"
    record = json.loads(path.read_text())
    record["metrics"] |= {"test/whole/dice": 0.9, "test/dice": 0.9}
    write_json(path, record)
    page = Page(render(tmp_path))
    assert "Dice, mean over regions, on the test set" in page.text
    for title in ("Mean over regions", "whole", "core", "edema"):
        assert title in page.text
    worst = page.text[page.text.index("Worst cases of unet") : page.text.index("Pictures of single cases")]
    assert worst.count("0.900") >= PARAMS.worst_cases
    assert "edema" not in worst
    cells = {a["data-metric"] for _, a in page.tags if a.get("data-metric", "").endswith("/dice")}
    assert cells == {"test/dice", "test/whole/dice", "test/core/dice", "test/edema/dice"}


def test_a_detection_metric_may_be_the_headline(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(models={"unet": 0.8, "maskrcnn": 0.7}))
    path = tmp_path / "data/registry/decision.json"
    write_json(path, json.loads(path.read_text()) | {"metric": "test/cpm"})
    page = Page(render(tmp_path))
    assert page.values("data-headline") == ["test/cpm"]
    assert "CPM, nodule, on the test set" in page.text and "CPM case by case" in page.text
    worst = page.text[page.text.index("Worst cases of unet") : page.text.index("Pictures of single cases")]
    assert "maskrcnn" in worst and "Otsu" not in worst  # the baseline has no such value
    assert "No values were recorded" not in page.text


def test_metrics_without_objects_have_no_section(root: Path) -> None:
    path = root / "data/metrics/unet/metrics.json"
    record = json.loads(path.read_text())
    record["metrics"] = {k: v for k, v in record["metrics"].items() if "/dice" in k}
    write_json(path, record)
    page = Page(render(root))
    assert "objects" not in page.values("id") and "#objects" not in page.values("href")


def test_worst_cases_are_sorted_and_as_many_as_asked(root: Path) -> None:
    text = render(root)
    part = text[text.index("Worst cases of") : text.index("Pictures of single cases")]
    values = [float(v) for v in re.findall(r'<td class="num best" rowspan="1">([0-9.]+)</td>', part)]
    assert len(values) == 3 and values == sorted(values) and values[0] == 0.0


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


def test_best_model_follows_the_direction_of_the_metric(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(models={"a": 0.7, "b": 0.9}))
    rewrite_metrics(tmp_path, {"test/hd95_mm": 1.0, "test/assd_mm": None}, "a")
    rewrite_metrics(tmp_path, {"test/hd95_mm": 2.0, "test/assd_mm": 9.0}, "b")
    models = load_report_inputs(tmp_path).models
    assert best_model(models, "test/dice").name == "b"
    assert best_model(models, "test/hd95_mm").name == "a"
    assert best_model(models, "test/assd_mm").name == "b"
    assert best_model(models, "test/nothing").name == "a"


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


def test_configurations_stand_side_by_side_and_the_headline_is_of_the_one_that_was_chosen(
    tmp_path: Path,
) -> None:
    build_project(tmp_path, Recipe(models={"unet": 0.7, "unet_2d": 0.8, "maskrcnn": 0.6}))
    runs = {m: json.loads((tmp_path / f"data/models/{m}/run.json").read_text()) for m in ("unet", "unet_2d")}
    lines = [
        {"bundle_sha256": runs[m]["bundle_sha256"], "model": m, "score": score}
        for m, score in (("unet", 0.84), ("unet_2d", 0.79))
    ]
    for line in lines:
        path = tmp_path / f"data/models/{line['model']}/bundle.json"
        result = {"validation_metric": "validation_dice", "validation_score": line["score"]}
        write_json(path, json.loads(path.read_text()) | result)
    path = tmp_path / "data/models/maskrcnn/bundle.json"
    write_json(path, json.loads(path.read_text()) | {"validation_metric": "cross_validation_dice"})
    path = tmp_path / "data/registry/decision.json"
    group = {"metric": "validation_dice", "winner": lines[0]["bundle_sha256"], "scores": lines}
    changes = {"challenger": lines[0]["bundle_sha256"], "validation": [group]}
    write_json(path, json.loads(path.read_text()) | changes)
    inputs = load_report_inputs(tmp_path)
    value = {model.name: f"{model.metrics['test/dice']:.3f}" for model in inputs.models}
    assert value["unet_2d"] > value["unet"]
    text = Page(render(tmp_path)).text
    assert re.search(rf"unet Dice 0.8400 {value['unet']} \S+ to \S+ \d+ challenger, best by validation", text)
    assert re.search(rf"unet_2d Dice 0.7900 {value['unet_2d']} \S+ to \S+ \d+ did not compete", text)
    assert re.search(r"maskrcnn Dice, cross-validated 0.8301 \S+ \S+ to \S+ \d+ – ", text)
    assert "the decision of the registry does not name this model" in text
    assert "Best model unet of 3" in text
    other = inputs.models[0]
    assert other.name == "maskrcnn"
    scores = [{"bundle_sha256": other.run["bundle_sha256"], "model": other.name, "score": 0.8301}]
    alone = {
        "metric": "cross_validation_dice",
        "winner": other.run["bundle_sha256"],
        "scores": scores,
    }
    write_json(path, json.loads(path.read_text()) | {"validation": [group, alone]})
    text = Page(render(tmp_path)).text
    assert re.search(r"maskrcnn Dice, cross-validated .* \d+ competed, not the best by test score", text)
    assert "does not name this model" not in text


def test_means_over_different_cases_are_told(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(models={"unet": 0.7, "maskrcnn": 0.6}))
    note = "Where n differs in a row (Dice), the numbers are over different cases"
    assert "Where n differs" not in Page(render(tmp_path)).text
    path = tmp_path / "data/metrics/unet/metrics.json"
    record = json.loads(path.read_text())
    record["metrics"] |= {"test/dice_n": 8, "test/nodule/dice_n": 8}
    write_json(path, record)
    assert Page(render(tmp_path)).text.count(note) == 1
