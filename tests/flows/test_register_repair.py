"""Register brings MLflow in line with the files, whatever has been lost there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import get_model_info
from mlflow_store import delete_store, forget_stores
from registered import (
    BETTER,
    aliases,
    check_restored,
    client,
    run_register,
    train_again,
    tree,
    versions,
)

from flows import register, tracking, tracking_registry
from flows.archive import Version, version_folder
from flows.decision import load_audit
from pipeline.config import PredictParams, load_params


def test_deleted_store(three: tuple[str, str, str], project: Path, store_template: Path) -> None:
    files = tree("data/registry")
    delete_store(project, store_template)
    run_register()
    check_restored(three)
    assert list(versions()) == ["1", "2", "3"]
    assert tree("data/registry") == files


def test_a_version_of_before_a_setting_is_served_with_it(
    three: tuple[str, str, str], project: Path, store_template: Path
) -> None:
    """The code that travels with the rebuilt version asks for every setting; the archive lacks the newer one."""
    record = version_folder("phantom", three[0]) / "version.json"
    old = json.loads(record.read_text())
    del old["predict"]["postprocessing"]
    old["predict"]["overlap"] = 0.25
    record.write_text(json.dumps(old, indent=2))
    delete_store(project, store_template)
    run_register()
    signature = get_model_info(client().get_model_version_download_uri("phantom", "1")).signature
    defaults = {spec.name: spec.default for spec in signature.params}
    assert defaults.pop("device") == "auto"
    now = load_params().predict
    assert PredictParams(**defaults) == now.model_copy(update={"overlap": 0.25})
    assert "postprocessing" not in json.loads(record.read_text())["predict"]  # the archive stays as it was


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
