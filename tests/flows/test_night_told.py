"""Real nights are told: what the record, the page and the messages say is what happened."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow_store import forget_stores, link_code
from night_project import GOOD, PROJECT, WORSE, NightProject
from webhook_server import webhook

from flows.night_folder import NIGHTS
from flows.nightly import run_night
from flows.notify_settings import KEYS


@pytest.fixture
def nights(tmp_path: Path, store_template: Path, monkeypatch: pytest.MonkeyPatch) -> NightProject:
    """A new project as the working directory, without Prefect."""
    forget_stores()
    monkeypatch.chdir(tmp_path)
    places = (PROJECT, PROJECT / "tests", PROJECT / "tests/flows")
    values = {
        "SEGTRAIL_NO_PREFECT": "1",
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/.segtrail/mlflow.db",
        "GIT_CEILING_DIRECTORIES": "/",
    }
    for key, value in values.items():
        monkeypatch.setenv(key, value)
    for key in (*KEYS, "PREFECT_API_URL"):
        monkeypatch.delenv(key, raising=False)
    project = NightProject(tmp_path)
    project.create()
    link_code(tmp_path)
    (tmp_path / ".segtrail").mkdir()
    shutil.copy(store_template, ".segtrail/mlflow.db")
    return project


def tell(project: NightProject, *lot: Any) -> tuple[dict[str, Any], str]:
    """A night with a new lot; its record and the text of its page."""
    if lot:
        project.write_lot(*lot)
        project.add()
    record = run_night("command")
    forget_stores()
    return record, (NIGHTS / record["night_id"] / "report.html").read_text(encoding="utf-8")


def headline_value(page: str) -> float:
    """The number on top of a page."""
    match = re.search(r'data-metric="test/dice" data-value="([\d.]+)"', page)
    assert match
    return float(match[1])


@pytest.mark.slow
def test_promoted_refused_and_skipped_nights_are_told(
    nights: NightProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook(200) as server:
        monkeypatch.setenv("SEGTRAIL_WEBHOOK_URL", f"{server.address}/hooks/very-secret-token")
        first, page = tell(nights, "one", GOOD, 1)
        assert "Promoted: v1 is the new champion" in page
        assert headline_value(page) == pytest.approx(0.825)  # the mean of 0.80 to 0.85
        refused, page = tell(nights, "two", WORSE, 2)
        assert "Refused: v2; v1 stays in use" in page
        assert headline_value(page) == pytest.approx(0.825)
        assert "−0.1000" in page
        skipped, page = tell(nights)
        assert "Skipped: nothing was done" in page
    told = (first, refused, skipped)
    assert [record["state"] for record in told] == ["promoted", "refused", "skipped"]
    sent = {"channel": "webhook 127.0.0.1", "sent": True, "error": ""}
    assert [record["notified"] for record in told] == [[sent], [sent], []]
    titles = [body["text"].splitlines()[0] for _, _, body in server.requests]
    assert titles == [
        "phantom: v1 promoted (test/dice 0.825, the first)",
        "phantom: v2 refused (test/dice 0.725, −0.100)",
    ]
    assert (NIGHTS / "index.html").read_text(encoding="utf-8").count("report.html") == 3
    for path in NIGHTS.rglob("*"):
        if path.is_file():
            assert b"very-secret-token" not in path.read_bytes()
