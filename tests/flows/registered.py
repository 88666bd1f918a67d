"""What tests of `register` share: the stage as a plain call, and what MLflow says afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import model_project as made
import pytest
from mlflow import MlflowClient
from mlflow_store import forget_stores, link_code

from flows import register
from flows.archive import list_versions
from pipeline.config import load_params

GOOD = (0.80, 0.81, 0.82, 0.83, 0.84, 0.85)
BETTER = (0.90, 0.91, 0.92, 0.93, 0.94, 0.95)
CODE = Path(__file__).resolve().parents[2]
WORSE = (0.70, 0.71, 0.72, 0.73, 0.74, 0.75)


def client() -> MlflowClient:
    """A client of the store of the test."""
    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def run_register() -> tuple[dict[str, Any], dict[str, str]]:
    """The stage, without Prefect."""
    return register.register_models(load_params())


def use_metric(name: str) -> None:
    """Sets `register.metric`."""
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(re.sub(r"(?m)^  metric: \S+", f"  metric: {name}", text))


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


def train_again(weights: str, dice: tuple[float, ...], minute: int) -> str:
    """Another training of the same model, registered; gives its bundle's sha256."""
    sha256 = made.train("unet", weights, minute=minute)
    made.evaluate("unet", dice)
    run_register()
    return sha256


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


def make_templates(one: Path, three: Path, store_template: Path) -> None:
    """Fills two project folders: with one registered version, and with three (promoted, promoted, refused)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(one)
        shutil.copy(CODE / "params.yaml", "params.yaml")
        link_code(one)
        Path(".segtrail").mkdir()
        shutil.copy(store_template, ".segtrail/mlflow.db")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{one}/.segtrail/mlflow.db")
        made.write_project()
        train_again("one", GOOD, 1)
        forget_stores()
        shutil.copytree(one, three, symlinks=True, dirs_exist_ok=True)
        patch.chdir(three)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{three}/.segtrail/mlflow.db")
        train_again("two", BETTER, 2)
        train_again("three", WORSE, 3)
        forget_stores()


def copy_template(template: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes `project` a copy of a template; gives the sha256 of its versions."""
    forget_stores()  # the copies share run ids
    shutil.copytree(template, project, symlinks=True, dirs_exist_ok=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/.segtrail/mlflow.db")
    return [version.bundle_sha256 for version in list_versions("phantom")]
