"""Numbers on the page: those of the files, and which of them stand in the headline and the tables."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

from pipeline.report import best_model
from pipeline.report_inputs import load_report_inputs
from tests.report_files import write_csv, write_json
from tests.report_page import PARAMS, Page, render
from tests.report_project import build_project
from tests.report_scores import Recipe


def rewrite_metrics(root: Path, changes: dict[str, float | None], model: str = "unet") -> None:
    path = root / "data/metrics" / model / "metrics.json"
    record = json.loads(path.read_text())
    record["metrics"] |= changes
    write_json(path, record)


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


def test_best_model_follows_the_direction_of_the_metric(tmp_path: Path) -> None:
    build_project(tmp_path, Recipe(models={"a": 0.7, "b": 0.9}))
    rewrite_metrics(tmp_path, {"test/hd95_mm": 1.0, "test/assd_mm": None}, "a")
    rewrite_metrics(tmp_path, {"test/hd95_mm": 2.0, "test/assd_mm": 9.0}, "b")
    models = load_report_inputs(tmp_path).models
    assert best_model(models, "test/dice").name == "b"
    assert best_model(models, "test/hd95_mm").name == "a"
    assert best_model(models, "test/assd_mm").name == "b"
    assert best_model(models, "test/nothing").name == "a"


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
