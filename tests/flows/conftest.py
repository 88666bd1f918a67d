"""Fixtures of several modules: stores, models, clones and data sets; copied, as making one takes seconds."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from database_server import DatabaseServer
    from night_project import NightProject
    from small_project import SmallProject


@pytest.fixture(scope="session")
def store_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Database of an empty MLflow store (SQLite)."""
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


@pytest.fixture
def no_channel(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No channel is set, nobody waits between tries, and version 7 stands against 6."""
    from night_records import write_version

    from flows.notify_settings import KEYS
    from flows.webhook import post_message

    for key in (*KEYS, "PREFECT_API_URL"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(post_message, "__defaults__", (5.0, (0.01, 0.01)))
    write_version(6, 0.904)
    write_version(7, 0.9121)


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The private folder of this test alone, which knows no identity yet."""
    monkeypatch.setenv("SEGTRAIL_PRIVATE_DIR", str(tmp_path / "private"))
    return tmp_path / "private"


@pytest.fixture(scope="session")
def clone_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as a clone has it, to copy: git, DVC, shipped params, presets and stages."""
    from project_copy import make_bare_project

    folder = tmp_path_factory.mktemp("clone")
    make_bare_project(folder)
    return folder


@pytest.fixture
def clone(
    clone_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Path:
    """A project as a clone has it, as the working directory; `caplog` has what Segtrail tells."""
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    caplog.set_level(logging.INFO, "segtrail")
    folder = tmp_path / "project"
    shutil.copytree(clone_template, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def hippocampus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases in MSD layout, read-only."""
    from hippocampus_set import write_hippocampi

    folder = tmp_path_factory.mktemp("raw") / "Task04"
    write_hippocampi(folder)
    return folder


@pytest.fixture
def hippocampi(project: Path, shared_data: Path) -> Callable[[int], Path]:
    """Makes `data/raw/hippocampus` with the first real cases, as links that a test may replace."""
    from linked_sets import link_hippocampi

    return functools.partial(link_hippocampi, project, shared_data)


@pytest.fixture(scope="session")
def incoming_template(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """A project with three real cases under DVC, to copy."""
    from incoming_project import make_project

    folder = tmp_path_factory.mktemp("incoming") / "project"
    make_project(folder, shared_data)
    return folder


@pytest.fixture
def incoming(incoming_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty incoming folder; the working directory is the project."""
    shutil.copytree(incoming_template, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr("flows.incoming.SECOND_LOOK_S", 0.1)
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


@pytest.fixture
def added(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cases a and b in layout msd, and a bundle; data sets that DVC was given, which is not started."""
    from draft_project import make_draft_project

    return make_draft_project(project, monkeypatch)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models handed to MLflow, whose module is replaced."""
    from predicted_project import replace_tracking

    return replace_tracking(monkeypatch)


@pytest.fixture
def predicted(
    project: Path, recorded: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Path:
    """A project with five predicted test cases (one without a label), one of training and one quarantined."""
    from predicted_project import write_predicted_project

    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    caplog.set_level(logging.INFO, "segtrail")
    write_predicted_project()
    return project
