"""Register: archive, decision and MLflow's registry, on a real store."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import model_project as made
import pytest
from registered import (
    BETTER,
    GOOD,
    WORSE,
    aliases,
    client,
    decision_file,
    run_register,
    train_again,
    tree,
    versions,
)

from flows import register, tracking
from flows.decision import load_audit
from flows.locks import find_holder, hold


def test_the_first_model_becomes_champion(registered: str) -> None:
    decision = decision_file()
    assert (decision["challenger"], decision["champion_before"], decision["champion_after"]) == (
        registered,
        None,
        registered,
    )
    assert decision["promoted"]
    assert decision["reasons"] == ["there was no champion"]
    (line,) = decision["versions"]
    assert (line["bundle_sha256"], line["model"], line["value"], line["n"]) == (
        registered,
        "unet",
        pytest.approx(0.825),
        6,
    )
    assert line["git_commit"] == "c0ffee"  # of the training, not of this moment
    assert line["data_digest"] == "0123456789abcdef0123456789abcdef.dir"
    assert versions() == {"1": registered}
    assert aliases() == {"champion": registered, "challenger": registered}
    version = client().get_model_version("phantom", "1")
    assert version.tags["segtrail.gate"] == "promoted"
    assert version.tags["segtrail.test/dice"] == "0.8250"
    assert version.status == "READY"
    assert client().get_run(version.run_id).data.metrics["test/dice"] == pytest.approx(0.825)
    (entry,) = load_audit()
    assert entry["what"]["champion_after"] == registered
    assert "@" in entry["who"]


def test_registering_again_changes_nothing(registered: str) -> None:
    files, run_count = tree("data/registry"), len(client().search_runs(["1"]))
    decision, numbers = run_register()
    assert tree("data/registry") == files  # so that DVC does not run the report again
    assert numbers == {registered: "1"}
    assert decision == decision_file()
    assert versions() == {"1": registered}
    assert len(client().search_runs(["1"])) == run_count
    assert len(load_audit()) == 1


def test_a_better_model_is_promoted_and_a_worse_one_refused(registered: str) -> None:
    better = train_again("two", BETTER, 2)
    decision = decision_file()
    assert (decision["champion_before"], decision["champion_after"], decision["promoted"]) == (
        registered,
        better,
        True,
    )
    assert decision["numbers"]["improvement"] == pytest.approx(0.1)
    assert aliases() == {"champion": better, "challenger": better}
    worse = train_again("three", WORSE, 3)
    decision = decision_file()
    assert (decision["challenger"], decision["champion_after"], decision["promoted"]) == (
        worse,
        better,
        False,
    )
    assert aliases() == {"champion": better, "challenger": worse}
    assert versions() == {"1": registered, "2": better, "3": worse}
    refused = client().get_model_version("phantom", "3").tags
    assert refused["segtrail.gate"] == "refused"
    assert "the improvement in test/dice is -0.2000" in refused["segtrail.gate_reasons"]
    assert [line["what"]["promoted"] for line in load_audit()] == [True, True, False]
    files = tree("data/registry")
    run_register()
    assert tree("data/registry") == files  # the time of the refusal is kept too


def test_going_back_to_the_champions_training_decides_nothing(registered: str) -> None:
    train_again("two", WORSE, 2)
    again = train_again("one", GOOD, 1)  # DVC's run cache restores the same files
    assert again == registered
    decision = decision_file()
    assert (decision["challenger"], decision["champion_after"]) == (registered, registered)
    assert decision["reasons"] == ["the best model is the champion already"]
    assert len(versions()) == 2


def test_runs_of_killed_processes_are_ended(registered: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie: nobody has collected it
    own = tracking.start_training_run("unet", {}, {"dataset": "phantom", "data_digest": "d"})
    dead = tracking.start_training_run("unet", {}, {"dataset": "phantom", "data_digest": "d"})
    assert own is not None
    assert dead is not None
    client().set_tag(dead, "segtrail.pid", str(child.pid))
    run_register()
    child.wait()
    assert client().get_run(dead).info.status == "KILLED"
    assert client().get_run(own).info.status == "RUNNING"
    for run_id in (own, dead):
        tracking.finish_training_run(run_id, "FAILED")


def test_one_register_at_a_time(registered: str, messages: list[str]) -> None:
    release, taken = threading.Event(), threading.Event()

    def other() -> None:
        with hold(register.LOCK, "register"):
            taken.set()
            release.wait(20)

    holder = threading.Thread(target=other)
    holder.start()
    assert taken.wait(20)
    threading.Timer(0.3, release.set).start()
    run_register()
    holder.join()
    assert any("waiting for process" in line and "(register)" in line for line in messages)
    assert find_holder(register.LOCK) is None


def write_scratch(key: str, bundle_sha256: str | None, age_s: int) -> Path:
    """A training's scratch folder, finished when it has the sha256 of a bundle."""
    folder = Path(".segtrail/checkpoints/unet") / key
    folder.mkdir(parents=True)
    for name in ("lock", "last.ckpt"):
        (folder / name).touch()
    if bundle_sha256 is not None:
        made.write_json({"bundle_sha256": bundle_sha256}, folder / "finished" / "run.json")
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (10**9 - age_s, 10**9 - age_s))
    return folder


def test_scratch_of_registered_trainings_is_deleted(registered: str) -> None:
    done, abandoned = write_scratch("done", registered, 20), write_scratch("abandoned", None, 30)
    newer, at_work = write_scratch("newer", None, 10), write_scratch("at_work", None, 40)
    other = Path(".segtrail/checkpoints/other/key")
    other.mkdir(parents=True)
    with hold(at_work / "lock", "a training"):
        os.utime(at_work / "lock", (10**9 - 40, 10**9 - 40))
        run_register()
    assert [folder.exists() for folder in (done, abandoned, newer, at_work, other)] == [
        False, False, True, True, True,
    ]  # fmt: skip


def test_scratch_of_a_training_that_is_not_registered_stays(registered: str) -> None:
    kept = [write_scratch("other", "another bundle", 20), write_scratch("begun", None, 30)]
    torn = write_scratch("torn", "", 10)
    (torn / "finished" / "run.json").write_text("{")
    run_register()
    assert all(folder.is_dir() for folder in (*kept, torn))


def test_summary_table(three: tuple[str, str, str]) -> None:
    decision, numbers = run_register()
    text = "\n".join(register.summarise(decision, numbers))
    assert [line.split()[:4] for line in text.splitlines()[2:5]] == [
        ["v1", "unet", "0.8000", "0.8250"], ["v2", "unet", "0.8000", "0.9250"], ["v3", "unet", "0.8000", "0.7250"],
    ]  # fmt: skip
    assert text.splitlines()[3].endswith("champion")
    assert f"challenger refused ({decision['decided']}): the improvement in test/dice is -0.2000" in text


def test_the_flow(registered: str, prefect_harness: None, messages: list[str]) -> None:
    register.register_flow()
    assert "registered model phantom" in messages
