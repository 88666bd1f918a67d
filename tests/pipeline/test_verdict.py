"""The traffic light: every colour of every check."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipeline.cases import CaseRecord
from pipeline.report_inputs import ReportInputs, load_report_inputs
from pipeline.verdict import Check, judge, overall
from tests.report_project import build_project
from tests.report_scores import Recipe

DICE = "test/dice"
BASE = "baseline_otsu_lung/dice"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    root = tmp_path_factory.mktemp("project")
    build_project(root, Recipe(quarantined=False))
    return load_report_inputs(root)


def check(inputs: ReportInputs, name: str) -> Check:
    return next(c for c in judge(inputs, inputs.models[0], DICE) if c.name == name)


def with_metrics(inputs: ReportInputs, **changes: float | None) -> ReportInputs:
    """Replaces numbers; `dice` and `base` stand for model and baseline, with their `_low` and `_high`."""
    names = {"dice": DICE, "base": BASE}
    numbers: dict[str, float | None] = dict(inputs.models[0].metrics)
    for key, value in changes.items():
        head, _, end = key.partition("_")
        numbers[names[head] + (f"_ci_{end}" if end else "")] = value
    return dataclasses.replace(inputs, models=(dataclasses.replace(inputs.models[0], metrics=numbers),))


def with_decision(inputs: ReportInputs, **changes: Any) -> ReportInputs:
    return dataclasses.replace(inputs, decision={**inputs.decision, **changes})


def test_everything_in_order_is_green(inputs: ReportInputs) -> None:
    checks = judge(inputs, inputs.models[0], DICE)
    assert {c.light for c in checks} == {"green"} and overall(checks) == "green"


def test_overall_is_the_worst_and_neutral_does_not_count() -> None:
    def lights(*names: str) -> str:
        return overall([Check("", name, "", "") for name in names])

    assert lights("green", "neutral") == "green"
    assert lights("green", "amber", "neutral") == "amber"
    assert lights("amber", "red", "green") == "red"


def test_registry(inputs: ReportInputs) -> None:
    challenger = inputs.decision["challenger"]
    assert check(with_decision(inputs, champion_after=None, promoted=False), "Registry").light == "red"
    refused = check(
        with_decision(inputs, champion_after="f" * 64, promoted=False, reasons=["too few"]), "Registry"
    )
    assert refused.light == "amber" and "too few" in refused.text
    first = check(with_decision(inputs, champion_before=None), "Registry")
    assert first.light == "amber" and "none to compare it with" in first.text
    still = check(with_decision(inputs, champion_before=challenger, promoted=False), "Registry")
    assert still.light == "green" and "already" in still.text


def test_a_decision_about_another_training_is_told(inputs: ReportInputs) -> None:
    stale = check(with_decision(inputs, challenger="0" * 64, champion_after="0" * 64), "Registry")
    assert stale.light == "amber" and "dvc repro register" in stale.text


@pytest.mark.parametrize(
    ("numbers", "light"),
    [
        (
            {"dice": 0.8, "dice_low": 0.7, "dice_high": 0.9, "base": 0.3, "base_low": 0.2, "base_high": 0.4},
            "green",
        ),
        (
            {"dice": 0.8, "dice_low": 0.3, "dice_high": 0.9, "base": 0.3, "base_low": 0.2, "base_high": 0.4},
            "amber",
        ),
        ({"dice": 0.8, "dice_low": None, "dice_high": None, "base": 0.3}, "amber"),
        ({"dice": 0.3, "base": 0.3}, "red"),
        ({"dice": 0.2, "base": 0.3}, "red"),
        ({"base": None}, "neutral"),
    ],
)
def test_baseline(inputs: ReportInputs, numbers: dict[str, float | None], light: str) -> None:
    assert check(with_metrics(inputs, **numbers), "Baseline").light == light


def test_baseline_of_a_distance_is_better_when_lower(inputs: ReportInputs) -> None:
    metrics = {"test/hd95_mm": 2.0, "test/hd95_mm_ci_low": 1.0, "test/hd95_mm_ci_high": 3.0}
    metrics |= {
        f"baseline_otsu_lung/hd95_mm{end}": v for end, v in (("", 9.0), ("_ci_low", 8.0), ("_ci_high", 9.5))
    }
    model = dataclasses.replace(inputs.models[0], metrics=metrics)
    assert next(c for c in judge(inputs, model, "test/hd95_mm") if c.name == "Baseline").light == "green"


def test_a_baseline_without_detection_metrics_is_compared_by_dice(inputs: ReportInputs) -> None:
    found = next(c for c in judge(inputs, inputs.models[0], "test/cpm") if c.name == "Baseline")
    assert found.light == "green" and found.text.startswith("Dice 0.")


def test_evidence(inputs: ReportInputs) -> None:
    model = inputs.models[0]
    few = dataclasses.replace(inputs, models=(dataclasses.replace(model, cases=model.cases[:2]),))
    assert check(few, "Evidence").light == "amber"
    assert check(with_metrics(inputs, dice=None), "Evidence").light == "red"
    assert check(inputs, "Evidence").text == "Defined in 7 of 8 test cases, 7 patients."


def test_data(inputs: ReportInputs) -> None:
    bad = CaseRecord("x", "x", "", (), "", "", verdict="quarantined")
    warned = CaseRecord("y", "y", "", (), "", "", verdict="warn")
    assert check(dataclasses.replace(inputs, cases=(*inputs.cases, bad)), "Data").light == "amber"
    found = check(dataclasses.replace(inputs, cases=(*inputs.cases, warned)), "Data")
    assert found.light == "green" and "1 with a warning" in found.text


def test_split(inputs: ReportInputs) -> None:
    cases = tuple(dataclasses.replace(c, patient_id="one") for c in inputs.cases)
    leak = check(dataclasses.replace(inputs, cases=cases), "Split")
    assert leak.light == "red" and "one" in leak.text
    bare = {
        c: {**p, "classes": {}} if inputs.sides[c] == "test" else p for c, p in inputs.fingerprints.items()
    }
    absent = check(dataclasses.replace(inputs, fingerprints=bare), "Split")
    assert absent.light == "amber" and "nodule in test" in absent.text


def test_few_validation_patients_are_told_unless_all_models_are_cross_validated(inputs: ReportInputs) -> None:
    validation = [case_id for case_id, side in inputs.sides.items() if side == "validation"]
    assert len(validation) == 8
    few = dataclasses.replace(inputs, sides={**inputs.sides, **dict.fromkeys(validation[3:], "train")})
    found = check(few, "Split")
    assert found.light == "amber" and found.text.startswith("Only 3 labelled patients in validation")
    assert "split.validation_fraction" in found.text and "train.<model>.folds" in found.text
    folded = dataclasses.replace(inputs.models[0], run={**inputs.models[0].run, "folds": 5})
    assert check(dataclasses.replace(few, models=(folded,)), "Split").light == "green"
    assert check(dataclasses.replace(few, models=(folded, inputs.models[0])), "Split").light == "amber"
