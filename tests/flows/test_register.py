"""Register: archive, decision and MLflow's registry, on a real store; whatever is lost comes back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import model_project as made
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow_store import delete_store, forget_stores, link_code

from flows import register, tracking, tracking_registry
from flows.archive import Version, list_versions, version_folder
from flows.decision import load_audit
from flows.locks import find_holder, hold
from pipeline import config
from pipeline.config import load_params
from pipeline.errors import SegtrailError

GOOD = (0.80, 0.81, 0.82, 0.83, 0.84, 0.85)
BETTER = (0.90, 0.91, 0.92, 0.93, 0.94, 0.95)
WORSE = (0.70, 0.71, 0.72, 0.73, 0.74, 0.75)
CODE = Path(__file__).resolve().parents[2]


def client() -> MlflowClient:
    """A client of the store of the test."""
    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def run_register() -> tuple[dict[str, Any], dict[str, str]]:
    """The stage, without Prefect."""
    return register.register_models(load_params())


def decision_file() -> dict[str, Any]:
    """What the report and DVC see."""
    return dict(json.loads(Path("data/registry/decision.json").read_text()))


def aliases() -> dict[str, str]:
    """MLflow's aliases: alias to bundle sha256."""
    found = client().get_registered_model("phantom").aliases
    return {
        alias: client().get_model_version("phantom", v).tags["segtrail.bundle_sha256"]
        for alias, v in found.items()
    }


def versions() -> dict[str, str]:
    """MLflow's versions: number to bundle sha256."""
    found = client().search_model_versions("name = 'phantom'")
    return {
        str(v.version): v.tags["segtrail.bundle_sha256"] for v in sorted(found, key=lambda v: int(v.version))
    }


def tree(folder: str | Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="session")
def templates(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two projects to copy, as registering takes seconds: with one version, and with three."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("three")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folders[0])
        shutil.copy(CODE / "params.yaml", "params.yaml")
        link_code(folders[0])
        Path(".segtrail").mkdir()
        shutil.copy(store_template, ".segtrail/mlflow.db")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folders[0]}/.segtrail/mlflow.db")
        made.write_project()
        train_again("one", GOOD, 1)
        forget_stores()
        shutil.copytree(folders[0], folders[1], symlinks=True, dirs_exist_ok=True)
        patch.chdir(folders[1])
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folders[1]}/.segtrail/mlflow.db")
        train_again("two", BETTER, 2)
        train_again("three", WORSE, 3)
        forget_stores()
    return folders


@pytest.fixture
def registered(templates: tuple[Path, Path], project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project whose only model is registered and champion; gives its bundle's sha256."""
    forget_stores()  # the copies share run ids
    shutil.copytree(templates[0], project, symlinks=True, dirs_exist_ok=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/.segtrail/mlflow.db")
    return list_versions("phantom")[0].bundle_sha256


def train_again(weights: str, dice: tuple[float, ...], minute: int) -> str:
    """Another training of the same model, registered; gives its bundle's sha256."""
    sha256 = made.train("unet", weights, minute=minute)
    made.evaluate("unet", dice)
    run_register()
    return sha256


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


def test_the_version_is_an_mlflow_model_without_pickle(registered: str) -> None:
    version = client().get_model_version("phantom", "1")
    folder = Path(client().get_model_version_download_uri("phantom", "1"))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "served_model.py", "requirements.txt", "code/pipeline/bundle.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pyc"))]
    (weights,) = folder.rglob("model.safetensors")
    assert weights.read_text() == "one"
    logged = client().get_logged_model(version.source.removeprefix("models:/"))
    assert str(logged.status) == "READY"
    assert {metric.key: metric.value for metric in logged.metrics}["test/dice"] == pytest.approx(0.825)
    assert f"nibabel=={__import__('nibabel').__version__}" in (folder / "requirements.txt").read_text()
    text = (folder / "MLmodel").read_text()
    assert not [line for line in text.splitlines() if ": /" in line]  # no path of this machine
    from mlflow.models import get_model_info

    signature = get_model_info(str(folder)).signature
    assert [(column.name, column.required) for column in signature.inputs] == [
        ("image", True),
        ("output", False),
    ]
    assert signature.outputs.input_names()[3:] == ["volume_mm3_nodule", "volume_mm3_vessel"]
    assert {spec.name: spec.default for spec in signature.params} == {
        "overlap": 0.5, "mirror": "x", "min_component_mm3": 0.0, "device": "auto",
    }  # fmt: skip


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


@pytest.fixture
def three(
    templates: tuple[Path, Path], project: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str, str]:
    """Three versions: the second is champion, the third was refused."""
    forget_stores()
    shutil.copytree(templates[1], project, symlinks=True, dirs_exist_ok=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/.segtrail/mlflow.db")
    first, second, third = (version.bundle_sha256 for version in list_versions("phantom"))
    return first, second, third


def check_restored(three: tuple[str, str, str]) -> None:
    first, second, third = three
    assert list(versions().values()) == [first, second, third]
    assert aliases() == {"champion": second, "challenger": third}
    tags = {
        v.tags["segtrail.bundle_sha256"]: v.tags for v in client().search_model_versions("name = 'phantom'")
    }
    assert [tags[sha256].get("segtrail.gate") for sha256 in three] == ["promoted", "promoted", "refused"]
    for number, weights, dice in zip(versions(), ("one", "two", "three"), (0.825, 0.925, 0.725), strict=True):
        folder = Path(client().get_model_version_download_uri("phantom", number))
        (copy,) = folder.rglob("model.safetensors")
        assert copy.read_text() == weights
        run = client().get_run(client().get_model_version("phantom", number).run_id)
        assert run.data.metrics["test/dice"] == pytest.approx(dice)
        assert run.info.lifecycle_stage == "active"
        assert (Path(run.info.artifact_uri) / "overlays" / "best_case_00.png").is_file()


def test_deleted_store(three: tuple[str, str, str], project: Path, store_template: Path) -> None:
    files = tree("data/registry")
    delete_store(project, store_template)
    run_register()
    check_restored(three)
    assert list(versions()) == ["1", "2", "3"]
    assert tree("data/registry") == files


def test_emptied_registry(three: tuple[str, str, str]) -> None:
    runs = {run.info.run_id for run in client().search_runs(["1"])}
    client().delete_registered_model("phantom")
    run_register()
    check_restored(three)
    assert {run.info.run_id for run in client().search_runs(["1"])} == runs
    assert len(client().search_logged_models(["1"])) == 3  # taken up again, not uploaded anew


def test_deleted_runs(three: tuple[str, str, str]) -> None:
    for run in client().search_runs(["1"]):
        client().delete_run(run.info.run_id)
    run_register()
    check_restored(three)


def test_moved_and_deleted_aliases(three: tuple[str, str, str]) -> None:
    client().delete_registered_model_alias("phantom", "champion")
    client().set_registered_model_alias("phantom", "challenger", "1")
    run_register()
    check_restored(three)


def test_deleted_version_of_the_champion(three: tuple[str, str, str]) -> None:
    client().delete_model_version("phantom", "2")
    with pytest.raises(MlflowException):
        client().get_model_version_by_alias("phantom", "champion")
    run_register()
    assert aliases() == {"champion": three[1], "challenger": three[2]}
    assert sorted(versions().values()) == sorted(three)


def test_deleted_logged_models(three: tuple[str, str, str], messages: list[str]) -> None:
    for model in client().search_logged_models(["1"]):
        client().delete_logged_model(model.model_id)
    assert run_register()[1] == dict(zip(three, "456", strict=True))
    assert not any("the files are safe" in line for line in messages)
    assert aliases() == {"champion": three[1], "challenger": three[2]}
    client().get_logged_model(client().get_model_version("phantom", "5").source.removeprefix("models:/"))
    assert run_register()[1] == dict(zip(three, "456", strict=True))  # and no others later
    assert len(versions()) == 6
    folder, number, _ = tracking.find_bundle("phantom", "2")  # the files of the old number are still there
    assert ((folder / "model.safetensors").read_text(), number) == ("two", "2")


def test_trouble_with_one_name_leaves_the_others(
    registered: str, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("model_name: phantom", "model_name: zebra"))
    real = tracking_registry.list_versions

    def fail(name: str) -> list[Version]:
        if name == "phantom":
            raise MlflowException("broken")
        return real(name)

    monkeypatch.setattr(tracking_registry, "list_versions", fail)
    assert run_register()[1] == {registered: "1"}
    assert client().get_model_version_by_alias("zebra", "champion").version in (1, "1")
    assert [line for line in messages if "phantom" in line and "broken" in line]


def test_archive_without_a_decision(registered: str) -> None:
    Path("data/registry/versions/phantom/decision.json").unlink()
    assert tracking.reconcile() == {registered: "1"}
    assert aliases() == {}
    decision = run_register()[0]
    assert decision["champion_after"] == registered
    assert aliases() == {"champion": registered, "challenger": registered}


def test_deleted_artifacts(three: tuple[str, str, str], project: Path) -> None:
    shutil.rmtree(project / ".segtrail" / "mlartifacts")
    run_register()
    check_restored(three)


def test_moved_project(
    three: tuple[str, str, str],
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    forget_stores()
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.move(project, moved)
    monkeypatch.chdir(moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved}/.segtrail/mlflow.db")
    run_register()
    check_restored(three)
    assert client().get_model_version_download_uri("phantom", "1").startswith(str(moved))


def test_mlflow_away_does_not_stop_the_decision(
    registered: str, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        better = train_again("two", BETTER, 2)
        decision, numbers = run_register()
    assert numbers == {}
    assert decision["champion_after"] == better
    assert any("the files are safe" in line for line in messages)
    assert any(better[:12] in line for line in register.summarise(decision, numbers))
    run_register()
    assert aliases()["champion"] == better


def test_every_version_is_archived_whole(three: tuple[str, str, str]) -> None:
    found = list_versions("phantom")
    assert [version.bundle_sha256 for version in found] == list(three)
    shutil.rmtree("data/models")
    shutil.rmtree("data/metrics")
    first = found[0].files
    assert (first.folder / "model.safetensors").read_text() == "one"
    assert first.load_metrics()["metrics"]["test/dice"] == pytest.approx(0.825)
    for path in (
        first.plan,
        first.splits,
        first.cases,
        first.dataset,
        first.metrics / "overlays" / "best_case_00.png",
    ):
        assert path.is_file()
    assert first.provenance is not None
    assert first.provenance["data_digest"].startswith("0123")


def test_editing_a_model_does_not_reach_its_archived_copy(registered: str) -> None:
    weights = Path("data/models/unet/model.safetensors")
    with weights.open("a") as stream:
        stream.write(" and more")
    assert (version_folder("phantom", registered) / "model" / "model.safetensors").read_text() == "one"


def test_new_scores_of_the_same_model(registered: str) -> None:
    made.evaluate("unet", BETTER)
    run_register()
    assert versions() == {"1": registered}
    assert decision_file()["versions"][0]["value"] == pytest.approx(0.925)
    version = client().get_model_version("phantom", "1")
    assert version.tags["segtrail.test/dice"] == "0.9250"
    assert "0.9250" in version.description
    logged = client().get_logged_model(version.source.removeprefix("models:/"))
    assert max(m.timestamp for m in logged.metrics) == next(
        m.timestamp for m in logged.metrics if m.key == "test/dice" and m.value == pytest.approx(0.925)
    )


def test_new_scores_that_no_description_shows(registered: str) -> None:
    path = Path("data/metrics/unet/metrics.json")
    record = json.loads(path.read_text())
    record["metrics"]["test/vessel/assd_mm"] = 1.25
    made.write_json(record, path)
    run_register()
    (logged,) = client().search_logged_models(["1"])
    assert {metric.key: metric.value for metric in logged.metrics}["test/vessel/assd_mm"] == 1.25


def test_the_best_of_several_models_is_challenger(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "NETWORK_NAMES", ("unet", "wide"))
    made.write_project(("unet", "wide"))
    first, second = made.train("unet", "a", minute=1), made.train("wide", "b", minute=2)
    made.evaluate("unet", GOOD)
    made.evaluate("wide", GOOD)
    assert run_register()[0]["challenger"] == first  # a tie: the first in params.models
    made.evaluate("wide", BETTER)
    decision, numbers = run_register()
    assert (decision["challenger"], decision["champion_after"]) == (second, second)
    made.evaluate("unet", BETTER)
    assert run_register()[0]["challenger"] == second  # a tie again: who is challenger stays it
    assert numbers == {first: "1", second: "2"}
    text = Path("params.yaml").read_text().replace("metric: test/dice", "metric: test/hd95_mm")
    Path("params.yaml").write_text(text)
    made.evaluate("unet", (1.0,) * 6)
    assert run_register()[0]["challenger"] == first  # the smaller distance


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
    Path("params.yaml").write_text(text.replace("metric: test/dice", "metric: test/dize"))
    with pytest.raises(SegtrailError, match=r"unknown metric 'test/dize'[\s\S]*test/dice, test/hd95_mm"):
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


def test_damaged_bundles_are_not_registered(tracked: Path) -> None:
    made.write_project()
    made.train("unet", "one")
    made.evaluate("unet", GOOD)
    weights = Path("data/models/unet/model.safetensors")
    weights.write_text("onf")
    with pytest.raises(SegtrailError, match=r"the training did not write this file[\s\S]*model.safetensors"):
        run_register()
    weights.write_text("one")
    bundle = Path("data/models/unet/bundle.json")
    bundle.write_text(bundle.read_text().replace("0.01", "0.02"))
    with pytest.raises(SegtrailError, match=r"the training did not write this file[\s\S]*bundle.json"):
        run_register()
    assert not Path("data/registry/decision.json").exists()


def test_half_copied_version_is_removed(registered: str) -> None:
    leftover = Path("data/registry/versions/phantom/.0123456789ab.tmp")
    leftover.mkdir()
    run_register()
    assert not leftover.exists()


def test_audit_goes_on_after_a_torn_line(registered: str) -> None:
    audit = Path(".segtrail/audit.jsonl")
    audit.write_text(audit.read_text() + '{"when": "2026')
    train_again("two", BETTER, 2)
    assert [line["what"]["promoted"] for line in load_audit()] == [True, True]


def test_find_bundle(three: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, number, predict = tracking.find_bundle("phantom", "champion")
    assert ((folder / "model.safetensors").read_text(), number) == ("two", "2")
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("overlap: 0.5", "overlap: 0.25"))
    assert load_params().predict.overlap == 0.25
    assert predict["overlap"] == 0.5  # as it was scored
    folder, number, _ = tracking.find_bundle("phantom", "1")
    assert ((folder / "model.safetensors").read_text(), number) == ("one", "1")
    with pytest.raises(SegtrailError, match=r"unknown version '9'[\s\S]*champion"):
        tracking.find_bundle("phantom", "9")
    with pytest.raises(SegtrailError, match=r"unknown registered model 'x'[\s\S]*phantom"):
        tracking.find_bundle("x", "champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder, number, _ = tracking.find_bundle("phantom", "challenger")  # `dvc pull` alone is enough
    assert ((folder / "model.safetensors").read_text(), number) == ("three", "unknown")


def test_a_look_up_creates_nothing(registered: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client().delete_registered_model("phantom")
    assert tracking.find_bundle("phantom", "champion")[1] == "unknown"
    assert client().search_registered_models() == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/none/mlflow.db")
    assert tracking.find_bundle("phantom", "champion")[1] == "unknown"
    assert not (project / "none").exists()


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
    assert [line.split()[:3] for line in text.splitlines()[2:5]] == [
        ["v1", "unet", "0.8250"], ["v2", "unet", "0.9250"], ["v3", "unet", "0.7250"],
    ]  # fmt: skip
    assert text.splitlines()[3].endswith("champion")
    assert f"challenger refused ({decision['decided']}): the improvement in test/dice is -0.2000" in text


def test_the_flow(registered: str, prefect_harness: None, messages: list[str]) -> None:
    register.register_flow()
    assert "registered model phantom" in messages
