"""Register: which of several models and champions is compared on which cases."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import model_project as made
import pytest
from mlflow_store import delete_store
from registered import (
    BETTER,
    GOOD,
    WORSE,
    aliases,
    client,
    run_register,
)

from pipeline.errors import SegtrailError


def use_metric(name: str) -> None:
    """Sets `register.metric`."""
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(re.sub(r"(?m)^  metric: \S+", f"  metric: {name}", text))


def test_the_best_of_several_models_is_challenger(tracked: Path) -> None:
    made.write_project(("unet", "maskrcnn"))
    first, second = made.train("unet", "a", minute=1), made.train("maskrcnn", "b", minute=2)
    made.evaluate("unet", GOOD)
    made.evaluate("maskrcnn", GOOD)
    assert run_register()[0]["challenger"] == first  # a tie: the first in params.models
    made.evaluate("maskrcnn", BETTER)
    decision, numbers = run_register()
    assert (decision["challenger"], decision["champion_after"]) == (second, second)
    made.evaluate("unet", BETTER)
    assert run_register()[0]["challenger"] == second  # a tie again: who is challenger stays it
    assert numbers == {first: "1", second: "2"}
    use_metric("test/hd95_mm")
    made.evaluate("unet", (1.0,) * 6)
    assert run_register()[0]["challenger"] == first  # the smaller distance


@pytest.mark.parametrize("column", ["mask_map_10_50", "cpm", "ap_dsb_50"])
def test_a_detection_metric_chooses_and_the_gate_pairs_its_cases(tracked: Path, column: str) -> None:
    made.write_project(("unet", "maskrcnn"))
    use_metric(f"test/{column}")
    unet, maskrcnn = made.train("unet", "a", minute=1), made.train("maskrcnn", "b", minute=2)
    made.evaluate("unet", BETTER, more={column: GOOD})  # the better Dice, and the worse detection
    made.evaluate("maskrcnn", GOOD, more={column: BETTER})
    decision, _ = run_register()
    assert (decision["challenger"], decision["champion_after"]) == (maskrcnn, maskrcnn)
    assert [line["value"] for line in decision["versions"]] == pytest.approx([0.825, 0.925])
    unet = made.train("unet", "c", minute=3)
    made.evaluate("unet", GOOD, more={column: (0.95, 0.96, 0.97, 0.98, 0.99, 1.0)})
    decision, _ = run_register()
    assert (decision["challenger"], decision["champion_after"], decision["promoted"]) == (unet, unet, True)
    assert decision["numbers"]["improvement"] == pytest.approx(0.05)
    maskrcnn = made.train("maskrcnn", "d", minute=4)
    made.evaluate("maskrcnn", BETTER, more={column: (0.99, 0.99, 0.99, 0.99, 0.99, 0.99)})
    decision, _ = run_register()  # better in the mean, but not in each case: the interval reaches below 0
    assert (decision["challenger"], decision["champion_after"]) == (maskrcnn, unet)
    assert f"the improvement in test/{column} is 0.0150 with lower bound" in decision["reasons"][0]


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
    assert decision["reasons"][0] == "the champion was scored without test/cpm"


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
        "the champion was scored with evaluate.max_detections = 100, the challenger with 5"
    ]
    record["settings"] |= {"max_detections": 100, "max_marks": 5}
    record["protocol"] = {"average_precision": "the same, in other words"}
    made.write_json(record, path)
    assert run_register()[0]["promoted"]


def test_champion_without_scores_on_new_test_cases(registered: str) -> None:
    made.write_cases([*made.TEST_CASES, "case_06", "case_07"])
    made.train("unet", "two", minute=2)
    made.evaluate("unet", (*BETTER, 0.9, 0.9), (*made.TEST_CASES, "case_06", "case_07"))
    decision = run_register()[0]
    assert decision["reasons"] == ["the champion has not been scored on 2 of the test cases"]
    assert decision["champion_after"] == registered


def test_champion_scored_on_other_files_of_the_same_case(registered: str) -> None:
    made.write_cases(made.TEST_CASES, changed=["case_03"])
    made.train("unet", "two", minute=2)
    made.evaluate("unet", BETTER)
    assert run_register()[0]["reasons"] == ["the champion has not been scored on 1 of the test cases"]


def test_challenger_that_left_out_test_cases(tracked: Path) -> None:
    made.write_project()
    made.train("unet", "one")
    made.evaluate("unet", GOOD[:4], made.TEST_CASES[:4])
    decision = run_register()[0]
    assert decision["champion_after"] is None
    assert decision["reasons"] == ["the challenger has not been scored on 2 of the test cases"]
    assert client().get_registered_model("phantom").aliases.keys() == {"challenger"}


def test_two_data_sets_keep_a_champion_each(registered: str, project: Path, store_template: Path) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("model_name: phantom", "model_name: other"))
    other = made.train("unet", "two", minute=2)
    made.evaluate("unet", WORSE)
    assert run_register()[0]["champion_after"] == other
    delete_store(project, store_template)
    run_register()
    assert aliases()["champion"] == registered
    assert client().get_model_version_by_alias("other", "champion").tags["segtrail.bundle_sha256"] == other
    Path("params.yaml").write_text(text)
    made.train("unet", "one", minute=1)
    made.evaluate("unet", GOOD)
    assert run_register()[0]["champion_after"] == registered


def test_clear_errors(tracked: Path) -> None:
    made.write_project()
    with pytest.raises(
        SegtrailError, match=r"6 problems[\s\S]*data/models/unet/bundle.json[\s\S]*dvc repro train@unet"
    ):
        run_register()
    made.train("unet", "one")
    made.evaluate("unet", GOOD)
    text = Path("params.yaml").read_text()
    for name in ("test/dize", "test/mask_map_10_50_small"):  # by size: not known for each case
        use_metric(name)
        with pytest.raises(SegtrailError, match=rf"unknown metric '{name}'[\s\S]*test/dice, .*test/hd95_mm"):
            run_register()
    assert not Path("data/registry").exists()
    Path("params.yaml").write_text(text)
    run_register()
    (champion,) = Path("data/registry/versions/phantom").glob("*/version.json")
    shutil.rmtree(champion.parent)
    made.train("unet", "two", minute=2)
    with pytest.raises(
        SegtrailError, match=r"is not in the archive[\s\S]*dvc checkout data/registry"
    ) as caught:
        run_register()
    assert caught.value.fix.endswith("or delete data/registry/versions/phantom/decision.json to choose anew")
    Path("data/registry/versions/phantom/decision.json").unlink()
    assert run_register()[0]["reasons"] == ["there was no champion"]
