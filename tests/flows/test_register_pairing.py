"""Register: on which cases a challenger is compared with the champion, and when on none."""

from __future__ import annotations

import json
from pathlib import Path

import model_project as made
import pytest
from registered import (
    BETTER,
    GOOD,
    client,
    run_register,
    use_metric,
)

from pipeline.config import SplitParams
from pipeline.splits import choose_side


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "in_empty", "n_cases", "improvement"),
    [("mask_map_10_50", float("nan"), 5, 0.02), ("ap_dsb_50", 0.0, 6, (5 * 0.02 - 1) / 6)],
)
def test_a_false_alarm_where_the_champion_sees_nothing(
    tracked: Path, column: str, in_empty: float, n_cases: int, improvement: float
) -> None:
    nothing = float("nan")
    made.write_project(("unet", "maskrcnn"))
    use_metric(f"test/{column}")
    champion = made.train("unet", "a", minute=1)
    made.train("maskrcnn", "b", minute=2)
    made.evaluate("unet", GOOD, more={column: (0.8, 0.8, 0.8, 0.8, 0.8, nothing)})
    made.evaluate("maskrcnn", GOOD, more={column: (0.1,) * 6})
    for name, value in (("unet", 0.8), ("maskrcnn", 0.1)):
        set_pooled(name, column, value)
    empty_case("unet", "case_05")
    assert run_register()[0]["champion_after"] == champion
    challenger = made.train("maskrcnn", "c", minute=3)
    # A little better where there are objects, but with a false alarm in the empty case: that counts in full
    # where no score is known, and in the pooled number alone where objects are ranked by score.
    made.evaluate("maskrcnn", GOOD, more={column: (0.82, 0.82, 0.82, 0.82, 0.82, in_empty)})
    set_pooled("maskrcnn", column, 0.82)
    decision = run_register()[0]
    promoted = improvement > 0
    assert decision["promoted"] is promoted
    assert decision["champion_after"] == (challenger if promoted else champion)
    assert (decision["numbers"]["n_cases"], decision["numbers"]["improvement"]) == (
        n_cases,
        pytest.approx(improvement),
    )


def set_pooled(model: str, column: str, value: float) -> None:
    """The value over all cases, which is not the mean of the cases."""
    path = Path("data/metrics") / model / "metrics.json"
    record = json.loads(path.read_text())
    names = [f"test/{part}{column}" for part in ("", "nodule/", "vessel/")]
    record["metrics"] |= {f"{name}{end}": value for name in names for end in ("", "_ci_low", "_ci_high")}
    made.write_json(record, path)


def empty_case(model: str, case_id: str) -> None:
    """A case without any voxel in reference and prediction: its metric is undefined."""
    path = Path("data/metrics") / model / "cases.csv"
    lines = [
        line.replace(",50,40,", ",0,0,").replace("nan", "") if line.startswith(case_id) else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")


def test_a_champion_from_before_the_metric_was_measured(registered: str) -> None:
    use_metric("test/cpm")
    challenger = made.train("unet", "two", minute=2)
    made.evaluate("unet", BETTER, more={"cpm": BETTER})
    decision = run_register()[0]
    assert (decision["challenger"], decision["champion_after"]) == (challenger, registered)
    assert decision["reasons"] == [
        "the champion was scored without test/cpm",
        "the champion could not be rescored on 6 cases: their files are not here",
    ]


def test_other_settings_are_no_comparison_and_other_words_are(registered: str) -> None:
    use_metric("test/mask_map_50")
    made.evaluate("unet", GOOD, more={"mask_map_50": GOOD})
    run_register()
    made.train("unet", "two", minute=2)
    made.evaluate("unet", BETTER, more={"mask_map_50": BETTER})
    path = Path("data/metrics/unet/metrics.json")
    record = json.loads(path.read_text())
    record["settings"]["max_detections"] = 5
    made.write_json(record, path)
    assert run_register()[0]["reasons"] == [
        "the champion was scored with evaluate.max_detections = 100, the challenger with 5",
        "the champion could not be rescored on 6 cases: their files are not here",
    ]
    record["settings"] |= {"max_detections": 100, "max_marks": 5}
    record["protocol"] = {"average_precision": "the same, in other words"}
    made.write_json(record, path)
    assert run_register()[0]["promoted"]


def test_without_the_files_of_new_test_cases_those_that_both_have_decide(registered: str) -> None:
    made.write_cases([*made.TEST_CASES, "case_06", "case_07"])
    challenger = made.train("unet", "two", minute=2)
    made.evaluate("unet", (*BETTER, 0.1, 0.1), (*made.TEST_CASES, "case_06", "case_07"))
    decision = run_register()[0]
    assert decision["champion_after"] == challenger
    assert decision["reasons"][1:] == [
        "the champion could not be rescored on 2 cases: their files are not here"
    ]
    numbers = decision["numbers"]
    assert (numbers["n_cases"], numbers["n_not_rescored"]) == (6, 2)
    assert numbers["improvement"] == pytest.approx(0.1)
    assert "n_rescored" not in numbers


def test_scores_on_other_files_of_the_same_case_do_not_count(registered: str) -> None:
    made.write_cases(made.TEST_CASES, changed=["case_03"])
    made.train("unet", "two", minute=2)
    made.evaluate("unet", BETTER)
    decision = run_register()[0]
    assert decision["reasons"][1:] == [
        "the champion could not be rescored on 1 cases: their files are not here"
    ]
    assert decision["numbers"]["n_cases"] == 5


def test_a_case_that_one_of_them_was_trained_on_compares_nothing(tracked: Path) -> None:
    """Another salt moves patients from one side to the other, and a patient's new case with him."""
    made.write_project()
    names = [f"p{number:02d}" for number in range(24)]
    before, after = (write_sides(names, salt) for salt in ("first", "second"))
    write_sides(names, "first")
    champion = made.train("unet", "one")
    made.evaluate("unet", [0.5] * len(before), before)
    assert run_register()[0]["champion_after"] == champion
    write_sides(names, "second")
    challenger = made.train("unet", "two", minute=2)
    made.evaluate("unet", [0.9 if name in before else 0.1 for name in after], after)
    shared = set(before) & set(after)
    assert 3 <= len(shared) < len(after)
    decision = run_register()[0]
    assert decision["champion_after"] == challenger  # by the shared ones: the others would have refused it
    assert decision["numbers"] == {
        "n_cases": len(shared), "n_patients": len(shared), "n_left_out": len(after) - len(shared),
        **{
            f"{label}improvement{end}": pytest.approx(0.4)
            for label in ("", "nodule/", "vessel/") for end in ("", "_ci_low", "_ci_high")
        },
    }  # fmt: skip
    assert decision["reasons"][1:] == [
        f"{len(after) - len(shared)} test cases are left out: the champion was trained on their patients "
        "(the split has changed since)"
    ]


def write_sides(names: list[str], salt: str) -> list[str]:
    """The split of a salt, half of it test; its test cases."""
    made.write_cases(names)
    params = SplitParams(salt=salt, test_fraction=0.5, validation_fraction=0.1)
    sides = {name: choose_side(name, params) for name in names}
    rows = [{"case_id": name, "patient_id": name, "split": side} for name, side in sides.items()]
    made.write_csv(rows, ("case_id", "patient_id", "split"), "data/splits/splits.csv")
    return [name for name, side in sides.items() if side == "test"]


def test_challenger_that_left_out_test_cases(tracked: Path) -> None:
    made.write_project()
    made.train("unet", "one")
    made.evaluate("unet", GOOD[:4], made.TEST_CASES[:4])
    decision = run_register()[0]
    assert decision["champion_after"] is None
    assert decision["reasons"] == ["the challenger has not been scored on 2 of the test cases"]
    assert client().get_registered_model("phantom").aliases.keys() == {"challenger"}


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["test/dice", "test/whole/dice", "test/vessel/dice"])
def test_a_champion_from_before_the_regions_is_told_from_one_that_was_not_scored(
    tracked: Path, metric: str
) -> None:
    """Nothing can be paired; counts of cases and intervals would only mislead."""
    made.write_project()
    first = made.train("unet", "one", minute=1)
    made.evaluate("unet", GOOD)
    run_register()
    use_metric(metric)
    second = made.train("unet", "two", minute=2)
    made.evaluate("unet", BETTER, regions=("whole", "tip"))
    decision, _ = run_register()
    assert (decision["challenger"], decision["champion_after"]) == (second, first)
    reason, other = decision["reasons"]
    assert reason == (
        "the champion was scored by the classes nodule, vessel, the challenger by the regions whole, tip: no case can "
        "be compared; give register.model_name another name, or delete data/registry/versions/phantom/decision.json "
        "to choose anew"
    )
    assert other == "the champion could not be rescored on 6 cases: their files are not here"
    Path("data/registry/versions/phantom/decision.json").unlink()
    assert run_register()[0]["champion_after"] == second  # the advice works


def test_a_champion_by_regions_and_a_challenger_by_classes(tracked: Path) -> None:
    made.write_project()
    made.train("unet", "one", minute=1)
    made.evaluate("unet", GOOD, regions=("whole", "tip"))
    run_register()
    made.train("unet", "two", minute=2)
    made.evaluate("unet", BETTER)
    reason, _ = run_register()[0]["reasons"]
    assert reason.startswith(
        "the champion was scored by the regions whole, tip, the challenger by the classes"
    )


def test_regions_that_one_of_them_has_too_are_compared(tracked: Path) -> None:
    made.write_project()
    made.train("unet", "one", minute=1)
    made.evaluate("unet", GOOD, regions=("whole", "tip"))
    run_register()
    second = made.train("unet", "two", minute=2)
    made.evaluate("unet", BETTER, regions=("whole", "tip"))
    assert run_register()[0]["champion_after"] == second
