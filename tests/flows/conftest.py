"""Fixtures of tests that need MLflow: a real store (SQLite) for each test, copied, as creating one takes seconds."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from database_server import DatabaseServer
    from night_project import NightProject
    from small_project import SmallProject


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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[DatabaseServer]:
    """A PostgreSQL server of the tests' own."""
    import database_server

    if reason := database_server.why_not():
        pytest.skip(reason)
    server = database_server.start_database_server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def templates(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two projects to copy, as registering takes seconds: with one version, and with three."""
    from registered import make_templates

    one, three = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("three")
    make_templates(one, three, store_template)
    return one, three


@pytest.fixture
def registered(templates: tuple[Path, Path], project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project whose only model is registered and champion; gives its bundle's sha256."""
    from registered import copy_template

    return copy_template(templates[0], project, monkeypatch)[0]


@pytest.fixture
def three(
    templates: tuple[Path, Path], project: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str, str]:
    """Three versions: the second is champion, the third was refused."""
    from registered import copy_template

    first, second, third = copy_template(templates[1], project, monkeypatch)
    return first, second, third


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallProject]:
    """A project of two short stages, with git and DVC."""
    from small_project import SmallProject

    project = SmallProject(tmp_path)
    project.create()
    yield project
    project.close()


@pytest.fixture(scope="session")
def first_night(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after its first night, to copy."""
    from night_trail import make_first_night

    folder = tmp_path_factory.mktemp("nights")
    make_first_night(folder, store_template)
    return folder


@pytest.fixture
def nightly_project(
    first_night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[NightProject]:
    """A project of one night, which ended well, as the working directory."""
    from night_trail import settle

    shutil.copytree(first_night, tmp_path / "project", symlinks=True)
    nights = settle(tmp_path / "project", monkeypatch)
    yield nights
    nights.close()
