"""Fixtures of tests that need MLflow: a real store (SQLite) for each test, copied, as creating one takes seconds."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def store_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Database of an empty store."""
    from mlflow_store import create_template

    database = tmp_path_factory.mktemp("template") / "mlflow.db"
    create_template(database)
    return database


@pytest.fixture
def tracked(project: Path, store_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with an empty MLflow store of its own, and the code that a served model takes along."""
    from mlflow_store import link_code

    (project / ".segtrail").mkdir()
    shutil.copy(store_template, project / ".segtrail" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/.segtrail/mlflow.db")
    link_code(project)
    return project


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What Segtrail logs during the test, one entry a line."""
    logger, found = logging.getLogger("segtrail"), list[str]()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    collector, level = Collector(), logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.INFO)
    yield found
    logger.setLevel(level)
    logger.removeHandler(collector)
