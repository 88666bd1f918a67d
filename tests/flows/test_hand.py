"""What a person decides: promote, rollback, history; and that the gate keeps it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import model_project as made
import pytest
from mlflow_store import delete_store
from registered import (
    BETTER,
    WORSE,
    aliases,
    client,
    decision_file,
    run_register,
    train_again,
    tree,
    versions,
)

from flows import cli, doctor
from flows.audit import append_audit, check_chain, load_audit
from flows.decision import load_decision
from flows.hand import promote_version, roll_back_champion, tell_history
from pipeline.errors import SegtrailError

BEST = (0.96, 0.97, 0.98, 0.97, 0.98, 0.99)


def champion() -> str:
    """By the files, which must all say the same, and by MLflow."""
    found = {
        decision_file()["champion_after"],
        load_decision("phantom")["champion_after"],
        aliases()["champion"],
    }
    (sha256,) = found
    return str(sha256)


@pytest.mark.slow
def test_a_rollback_survives_reruns_and_ends_with_something_better(
    three: tuple[str, str, str], messages: list[str]
) -> None:
    first, second, third = three
    assert cli.main(["rollback", "--reason", "false alarms\n in the liver"]) == 0
    assert champion() == first
    assert any(f"phantom@champion: v2 ({second[:12]}) to v1 ({first[:12]})" in line for line in messages)
    files, entries = tree("data/registry"), len(load_audit())
    decision, _ = run_register()
    assert (tree("data/registry"), len(load_audit())) == (files, entries)  # nothing is decided anew
    assert decision["reasons"] == [f"rollback by {decision['hand']['who']}: false alarms in the liver"]
    made.train("unet", "two", minute=2)  # DVC's run cache brings the better one back
    made.evaluate("unet", BETTER)
    decision, _ = run_register()
    assert (decision["challenger"], decision["champion_after"], champion()) == (second, first, first)
    assert (
        "rolled back from it (false alarms in the liver); only a person brings it back"
        in decision["reasons"][0]
    )
    assert run_register()[0] == decision
    worse = train_again("four", WORSE, 4)  # new, and the gate refuses it
    assert champion() == first
    assert decision_file()["hand"]["reason"] == "false alarms in the liver"
    best = train_again("five", BEST, 5)
    assert champion() == best
    assert decision_file()["hand"] is None
    made.train("unet", "two", minute=2)
    made.evaluate("unet", (1.0,) * 6)  # even so: it was rolled back from
    run_register()
    assert champion() == best
    assert worse in versions().values()
    assert check_chain().problems == []


def test_promoting_a_refused_challenger(three: tuple[str, str, str]) -> None:
    _, second, third = three
    decision = promote_version(f"phantom@{third[:10]}", "the scanner was changed")
    assert champion() == third
    assert (decision["promoted"], decision["champion_before"]) == (True, second)
    files = tree("data/registry")
    run_register()
    assert tree("data/registry") == files
    tags = client().get_model_version("phantom", "3").tags
    assert tags["segtrail.gate"] == "refused"  # what the gate said stays beside what the person did
    assert tags["segtrail.hand"].startswith(f"champion by promote of {decision['hand']['who']}, ")
    assert tags["segtrail.hand"].endswith(": the scanner was changed")
    assert (
        client().get_model_version("phantom", "2").tags["segtrail.hand"].startswith("replaced by promote of ")
    )
    last = load_audit()[-1]
    assert (last["by"], last["who"], last["what"]["command"]) == (
        "person",
        decision["hand"]["who"],
        "promote",
    )
    assert (last["what"]["champion_before"], last["what"]["champion_after"]) == (second, third)
    assert last["why"] == [f"promote by {last['who']}: the scanner was changed"]


def test_promote_and_rollback_walk_back_through_the_champions(three: tuple[str, str, str]) -> None:
    first, second, third = three
    promote_version("phantom@v3", "a")
    roll_back_champion("phantom", "b")
    assert champion() == second
    roll_back_champion(None, "c")
    assert champion() == first
    with pytest.raises(SegtrailError, match="no champion before the present one"):
        roll_back_champion(None, "d")
    promote_version("phantom@3", "e")  # a person may bring back what was rolled back from
    assert champion() == third
    assert third not in load_decision("phantom")["withdrawn"]
    roll_back_champion(None, "f")
    assert champion() == first  # not to the second: that one was rolled back from
    run_register()
    assert champion() == first


def test_history(three: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = (sha256[:12] for sha256 in three)
    promote_version("phantom@3", "by  order")
    roll_back_champion(None, "a mistake")
    capsys.readouterr()
    assert cli.main(["history"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["when", "who", "what", "from", "to", "reason"]
    told = [
        ("promoted ", f"-              v1 ({first})", "there was no champion"),
        ("promoted ", f"v1 ({first})  v2 ({second})", "test/dice improves by 0.1000 over 6 paired cases"),
        ("refused ", f"v2 ({second})  v3 ({third})", "the improvement in test/dice is -0.2000"),
        ("promoted by hand ", f"v2 ({second})  v3 ({third})", "by order"),
        ("rolled back ", f"v3 ({third})  v2 ({second})", "a mistake"),
    ]
    assert len(rows) == len(told)
    for row, parts in zip(rows, told, strict=True):
        assert all(" ".join(part.split()) in " ".join(row.split()) for part in parts), row
        assert "@" in row.split()[1]
    Path(".segtrail/audit.jsonl").unlink()  # as in a clone
    lines = tell_history("phantom")
    assert "holds nothing about phantom" in lines[0]
    assert [second in line for line in lines[2:]] == [False, True]


def test_wrong_versions_names_and_reasons(three: tuple[str, str, str]) -> None:
    files, entries = tree("data/registry"), len(load_audit())
    for place, reason, message in (
        ("phantom", "x", r"expected NAME@VERSION"), ("phantom@9", "x", r"unknown version '9'[\s\S]*champion"),
        ("fantom@1", "x", r"unknown registered model 'fantom'[\s\S]*phantom"), ("phantom@1", "  ", "reason has 0"),
        ("phantom@1", "x" * 1001, "1001 characters"), ("phantom@2", "x", "is the champion already"),
        ("phantom@champion", "x", "is the champion already"),
    ):  # fmt: skip
        with pytest.raises(SegtrailError, match=message):
            promote_version(place, reason)
    with pytest.raises(SegtrailError, match="unknown registered model 'other'"):
        roll_back_champion("other", "x")
    (weights,) = Path("data/registry/versions/phantom").glob(f"{three[0][:12]}/model/model.safetensors")
    weights.write_text("rotten")
    for act in (lambda: promote_version("phantom@1", "x"), lambda: roll_back_champion(None, "x")):
        with pytest.raises(SegtrailError, match="the training did not write this file"):
            act()
    weights.write_text("one")
    assert (tree("data/registry"), len(load_audit())) == (files, entries)
    with pytest.raises(SystemExit):
        cli.main(["promote", "phantom@1"])  # without a reason


def test_the_first_rollback_of_a_project_from_before_it_was_possible(three: tuple[str, str, str]) -> None:
    for path in (Path("data/registry/decision.json"), Path("data/registry/versions/phantom/decision.json")):
        record = json.loads(path.read_text())
        for key in ("by", "hand", "withdrawn", "champions"):
            del record[key]
        made.write_json(record, path)
    assert [c["bundle_sha256"] for c in load_decision("phantom")["champions"]] == list(three[:2])
    roll_back_champion(None, "x")
    assert champion() == three[0]


def test_in_a_clone_without_audit_and_store(
    three: tuple[str, str, str], project: Path, store_template: Path
) -> None:
    shutil.rmtree(project / ".segtrail")
    (project / ".segtrail").mkdir()
    delete_store(project, store_template)
    roll_back_champion(None, "x")
    assert champion() == three[0]
    late, line = load_audit()
    assert late["late"]
    assert (late["what"]["champion_after"], line["what"]["champion_after"]) == (three[1], three[0])


def test_a_decision_that_was_changed_outside_is_said_and_noted(
    three: tuple[str, str, str], messages: list[str]
) -> None:
    """`dvc checkout` of an older state, or an editor."""
    path = Path("data/registry/versions/phantom/decision.json")
    record = json.loads(path.read_text())
    made.write_json(record | {"champion_after": three[0], "reasons": ["edited"]}, path)
    (line,) = [line for line in doctor.check_audit() if line.status == doctor.WARN]
    assert line.found == "the last decision about phantom is not in the log"
    decision, _ = run_register()
    assert any(f"The champion is {three[0][:12]}: edited" in line for line in messages)
    late = next(line for line in load_audit() if "late" in line)
    assert late["what"]["champion_after"] == three[0]
    assert decision["champion_after"] == champion()


def test_doctor_names_the_line(three: tuple[str, str, str]) -> None:
    (good,) = doctor.check_audit()
    assert (good.status, good.name) == ("ok", "audit")
    assert good.found.startswith("3 entries, none cut, changed, removed or moved; the last one is ")
    log = Path(".segtrail/audit.jsonl")
    log.write_text(log.read_text().replace("there was no champion", "there was a reason"))
    bad = list(doctor.check_audit())
    assert [(line.status, line.found) for line in bad] == [
        ("fail", "line 1 was changed: line 2 holds another hash of it")
    ]
    assert "audit.head" in bad[0].fix


def test_mlflow_away(three: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/none/mlflow.db")
    roll_back_champion(None, "x")
    assert load_decision("phantom")["champion_after"] == three[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
    run_register()
    assert champion() == three[0]


def test_another_name_leaves_the_decision_that_is_shown(three: tuple[str, str, str]) -> None:
    """`data/registry/decision.json` is about the models at hand; the report reads it."""
    append_audit(
        {"when": "", "who": "", "by": "gate", "what": {}, "why": []}
    )  # a line without a name is no trouble
    shutil.copytree("data/registry/versions/phantom", "data/registry/versions/other")
    path = Path("data/registry/versions/other/decision.json")
    made.write_json(json.loads(path.read_text()) | {"name": "other"}, path)
    shown = decision_file()
    roll_back_champion("other", "x")
    assert decision_file() == shown
    assert load_decision("other")["champion_after"] == three[0]
    assert champion() == three[1]
