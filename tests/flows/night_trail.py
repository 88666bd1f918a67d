"""Whole nights in a project of their own, and what each must leave."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow_store import forget_stores, link_code
from night_project import GOOD, PROJECT, NightProject
from registered import aliases

from flows.audit import check_chain, load_audit
from flows.decision import load_decision
from flows.locks import find_holder
from flows.night_folder import NIGHTS
from flows.nightly import LOCK, run_night
from flows.nights import load_nights

STEPS = ("sweep", "pull", "take_in", "changes", "inspect", "drift", "repro", "decision", "commit", "push")
CLOSING = ("audit", "report", "notify")


def settle(project: Path, patch: pytest.MonkeyPatch) -> NightProject:
    """Makes a folder the project of this process and of all it starts; without Prefect."""
    forget_stores()
    patch.chdir(project)
    patch.setenv("SEGTRAIL_NO_PREFECT", "1")
    patch.setenv(
        "PYTHONPATH", os.pathsep.join(map(str, (PROJECT, PROJECT / "tests", PROJECT / "tests/flows")))
    )
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/.segtrail/mlflow.db")
    patch.setenv("PREFECT_HOME", f"{project}/.segtrail/prefect")
    patch.setenv("GIT_CEILING_DIRECTORIES", "/")
    patch.delenv("PREFECT_API_URL", raising=False)
    return NightProject(project)


def make_first_night(folder: Path, store: Path) -> None:
    """A project after its first night, which ended well.

    Args:
        folder: An empty one.
        store: Database of an empty MLflow store.
    """
    with pytest.MonkeyPatch.context() as patch:
        nights = settle(folder, patch)
        nights.create()
        link_code(folder)
        (folder / ".segtrail").mkdir()
        shutil.copy(store, ".segtrail/mlflow.db")
        nights.write_lot("one", GOOD, 1)
        nights.add()
        record = run_night("schedule", datetime.now(UTC))
        assert record["state"] == "promoted", record["reason"]
        forget_stores()


def names(record: dict[str, Any]) -> list[str]:
    return [step["name"] for step in record["steps"]]


def champion() -> str:
    """Of the files, after a look that MLflow has the same."""
    sha256 = load_decision("phantom")["champion_after"]
    forget_stores()
    assert aliases()["champion"] == sha256
    return str(sha256)


def check_trail() -> None:
    """Each night has its entry in the audit log and its report, nobody holds the lock, and nothing runs any more."""
    assert check_chain().problems == []
    entries = [line for line in load_audit() if line["by"] == "night"]
    found = load_nights()
    assert sorted(line["what"]["night"] for line in entries) == [record["night_id"] for record in found]
    for record in found:
        (entry,) = [line for line in entries if line["what"]["night"] == record["night_id"]]
        assert entry["what"] == {"night": record["night_id"], "state": record["state"], "name": "phantom"}
        assert entry["why"] == [record["reason"]]
        assert (NIGHTS / record["night_id"] / record["report"]).is_file()
        assert record["state"] != "running"
    assert find_holder(LOCK) is None
    assert processes() == []


def processes() -> list[psutil.Process]:
    """Those of the project beside this one."""
    here = str(Path.cwd())
    return [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == here and p.pid != os.getpid()]
