"""Register: which of several models is challenger, by which metric, and what stops the choice."""

from __future__ import annotations

import json
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
    use_metric,
)

from flows import register
from pipeline.errors import SegtrailError


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


@pytest.mark.parametrize(
    ("baseline", "more"),
    [(0.9, ["its test/dice 0.825 is worse than that of the baseline otsu lung, 0.900"]), (0.8, [])],
)
def test_a_first_champion_that_is_worse_than_the_baseline_is_told(
    tracked: Path, baseline: float, more: list[str]
) -> None:
    made.write_project()
    made.train("unet", "a")
    made.evaluate("unet", GOOD)
    path = Path("data/metrics/unet/metrics.json")
    record = json.loads(path.read_text())
    record["metrics"]["baseline_otsu_lung/dice"] = baseline
    made.write_json(record, path)
    decision, _ = run_register()
    assert decision["promoted"]
    assert decision["reasons"] == ["there was no champion", *more]


def test_among_models_of_one_validation_metric_the_validation_cases_choose(tracked: Path) -> None:
    made.write_project(("unet", "unet_2d", "maskrcnn"))
    unet, flat = (
        made.train("unet", "a", validation=0.85),
        made.train("unet_2d", "b", minute=1, validation=0.80),
    )
    maskrcnn = made.train("maskrcnn", "c", minute=2, validation=0.3)
    made.evaluate("unet", GOOD)
    made.evaluate("unet_2d", BETTER)  # better on the test cases, which must not choose
    made.evaluate("maskrcnn", WORSE)
    decision, numbers = run_register()
    assert (decision["challenger"], decision["champion_after"]) == (unet, unet)
    assert decision["validation"] == [
        {
            "metric": "validation_dice", "winner": unet,
            "scores": [
                {"bundle_sha256": unet, "model": "unet", "score": 0.85},
                {"bundle_sha256": flat, "model": "unet_2d", "score": 0.80},
            ],
        },
        {
            "metric": "validation_mask_map_10_50", "winner": maskrcnn,
            "scores": [{"bundle_sha256": maskrcnn, "model": "maskrcnn", "score": 0.3}],
        },
    ]  # fmt: skip
    assert numbers == {unet: "1", flat: "2", maskrcnn: "3"}  # all of them are versions
    text = "\n".join(register.summarise(decision, numbers))
    assert "by validation_dice (validation cases): unet of unet 0.8500, unet_2d 0.8000" in text
    assert "by validation_mask_map" not in text  # nobody to choose from
    again, _ = run_register()
    assert again == decision
    made.evaluate("maskrcnn", BETTER)  # of another kind: between kinds the test metric decides
    assert run_register()[0]["challenger"] == maskrcnn


def test_equal_validation_scores_leave_things_as_they_are(tracked: Path) -> None:
    made.write_project(("unet", "unet_2d"))
    unet, flat = made.train("unet", "a", validation=0.8), made.train("unet_2d", "b", minute=1, validation=0.8)
    made.evaluate("unet", GOOD)
    made.evaluate("unet_2d", BETTER)
    assert run_register()[0]["challenger"] == unet  # the first in params.models
    flat = made.train("unet_2d", "c", minute=2, validation=0.81)
    made.evaluate("unet_2d", BETTER)
    assert run_register()[0]["challenger"] == flat
    unet = made.train("unet", "d", minute=3, validation=0.81)
    made.evaluate("unet", BETTER)
    assert run_register()[0]["challenger"] == flat  # who is challenger stays it


def test_models_without_a_validation_score_compete_by_the_test_metric(tracked: Path) -> None:
    made.write_project(("unet", "unet_2d", "resunet"))
    made.train("unet", "a", validation=None)
    third = made.train("resunet", "c", minute=2, validation=0.5)
    flat = made.train("unet_2d", "b", minute=1, validation=None)
    made.evaluate("unet", GOOD)
    made.evaluate("unet_2d", BETTER)
    made.evaluate("resunet", WORSE)
    decision, _ = run_register()
    assert decision["challenger"] == flat
    assert decision["validation"][0]["winner"] == third


def test_a_decision_from_before_validation_chose_still_reads(registered: str) -> None:
    for path in (Path("data/registry/decision.json"), Path("data/registry/versions/phantom/decision.json")):
        record = json.loads(path.read_text())
        del record["validation"]
        for line in record["versions"]:
            del line["validation_metric"], line["validation_score"]
        made.write_json(record, path)
    decided = record["decided"]
    decision = run_register()[0]
    assert (decision["champion_after"], decision["decided"]) == (registered, decided)
    assert decision["validation"][0]["winner"] == registered


@pytest.mark.slow
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
