"""What breaks silently in the pinned versions (PLATFORM.md 1 and 7): each test fails on a known bad version."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from packaging.version import Version
from prefect_home import make_home

PROJECT = Path(__file__).resolve().parents[1]


def locked(package: str) -> Version:
    text = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==([^\s;]+)", text, re.MULTILINE)
    assert found, f"{package} is not in requirements.lock"
    return Version(found[1])


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    for _ in range(20):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 503:  # SQLite is busy; 422 is the failure that is looked for
                raise
            time.sleep(0.5)
    pytest.fail(f"{url} stays unavailable")


def test_torchvision_has_its_operators() -> None:
    assert torchvision.extension._has_ops()
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    assert kept.tolist() == [0, 2]  # the second overlaps the first by 81 / 119


def test_lock_file_keeps_clear_of_versions_that_break_prefect() -> None:
    assert locked("fastapi") < Version("0.151"), "every /api/*/filter would answer 422"
    assert locked("sqlalchemy") < Version("2.1"), "no scheduled run would ever be made"
    assert locked("prefect") == Version("3.8.8"), "the two bounds above belong to this version"


def test_lock_file_meets_the_bounds_of_the_project() -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    wanted = [Requirement(text) for text in texts]
    broken = [str(r) for r in wanted if not r.specifier.contains(locked(canonicalize_name(r.name)))]
    assert broken == []


def test_installed_packages_are_the_locked_ones() -> None:
    from flows.doctor import OK, check_packages

    line = next(check_packages(PROJECT / "requirements.lock"))
    assert line.status == OK, str(line)


def test_importing_flows_turns_telemetry_off(tmp_path: Path) -> None:
    code = "import flows, json, os; print(json.dumps(dict(os.environ)))"
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=bare, capture_output=True, text=True, check=True
    )
    environment = json.loads(result.stdout)
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["DO_NOT_TRACK"] == "true"  # MLflow takes only this spelling
    assert environment["DVC_NO_ANALYTICS"] == "1"
    assert environment["PREFECT_HOME"] == str(tmp_path / ".segtrail" / "prefect")
    assert environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/.segtrail/mlflow.db"
    assert list(tmp_path.iterdir()) == []  # no params.yaml here: not a project, nothing is made


@pytest.fixture(scope="module")
def scheduling_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server with its scheduler, on an empty database."""
    from flows import servers

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(make_home(tmp_path_factory.mktemp("server") / "prefect")))
        patch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "2")
        patch.delenv("PREFECT_API_URL", raising=False)
        server = servers.start_server(os.getpid(), with_ui=True)
        assert server.wait(120)
        yield server.url
        server.stop()


def test_filter_routes_take_explicit_nulls(scheduling_server: str) -> None:
    body = {
        "flows": None,
        "flow_runs": None,
        "task_runs": None,
        "deployments": None,
        "offset": 0,
        "limit": None,
    }
    assert post(f"{scheduling_server}/flows/filter", body) == []
    assert post(f"{scheduling_server}/flow_runs/filter", {**body, "sort": "ID_DESC"}) == []


def test_a_scheduled_run_really_appears(scheduling_server: str) -> None:
    flow = post(f"{scheduling_server}/flows/", {"name": "nightly"})
    schedule = {"schedule": {"interval": 600, "anchor_date": "2026-01-01T00:00:00Z"}, "active": True}
    deployment = post(
        f"{scheduling_server}/deployments/",
        {
            "name": "nightly",
            "flow_id": flow["id"],
            "schedules": [schedule],
            "entrypoint": "x.py:f",
            "path": ".",
        },
    )
    query = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    end = time.monotonic() + 50
    runs: list[dict[str, Any]] = []
    while not runs and time.monotonic() < end:
        time.sleep(0.5)
        runs = post(f"{scheduling_server}/flow_runs/filter", query)
    assert runs, "the scheduler made no run: sqlalchemy 2.1 breaks it like this"
    assert {run["state_name"] for run in runs} == {"Scheduled"}
