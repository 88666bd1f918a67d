"""The MLflow store of the project: how it is opened, repaired after a move, and asked for a run."""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from alembic.util.exc import CommandError
from mlflow import MlflowClient
from mlflow.entities import Experiment, LoggedModel, Run, ViewType
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from flows.environment import STATE
from flows.locks import is_alive
from flows.tracking_database import make_file, make_tables

LOGGER = logging.getLogger("segtrail")
ARTIFACTS = "mlartifacts"
SQLITE = "sqlite:///"
# What MLflow raises when its server, database or artifact folder is away, damaged, locked or full.
TRACKING_ERRORS = (MlflowException, SQLAlchemyError, CommandError, RequestException, sqlite3.Error, OSError)
# Columns of MLflow's tables that hold absolute artifact paths.
PATH_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
MISSING = "RESOURCE_DOES_NOT_EXIST"


@contextmanager
def tolerate(what: str) -> Iterator[None]:
    """Turns a failure of MLflow into a warning: the files are the record, `register` makes up for it.

    Args:
        what: What was attempted, for the warning.
    """
    try:
        yield
    except TRACKING_ERRORS as error:
        text = str(error).strip() or type(error).__name__
        LOGGER.warning("MLflow: %s failed; the files are safe and `dvc repro` makes up for it (%s)",
                       what, text.splitlines()[0][:300])  # fmt: skip


def tracking_uri() -> str:
    """Address of the store, as `flows.environment` or the user has set it."""
    return os.environ["MLFLOW_TRACKING_URI"]


def artifact_root() -> Path | None:
    """Folder of artifacts; None when a server decides on it."""
    uri = tracking_uri()
    if uri.startswith(SQLITE):
        return Path(uri.removeprefix(SQLITE)).resolve().parent / ARTIFACTS
    return None if uri.startswith("http") else STATE.resolve() / ARTIFACTS


def open_client() -> MlflowClient:
    """Opens the store; a project folder that was moved or copied is noticed first."""
    uri, root = tracking_uri(), artifact_root()
    if root is not None and uri.startswith(SQLITE):
        database = Path(uri.removeprefix(SQLITE))
        make_file(database, root)
        relocate_artifacts(database, root)
    elif root is not None:
        make_tables(uri)
    return MlflowClient(uri)


def relocate_artifacts(database: Path, root: Path) -> int:
    """Rewrites the absolute artifact paths that MLflow keeps when the project folder has moved.

    A path belongs to the project when it runs through a folder named like the state folder and `mlartifacts`;
    what stands before it is replaced.

    Args:
        database: The SQLite file.
        root: Where artifacts lie now.

    Returns:
        Number of changed paths.
    """
    inner = f"/{root.parent.name}/{root.name}/"
    changed = 0
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "experiments" not in tables:
            return 0
        found = connection.execute(
            "SELECT DISTINCT substr(artifact_location, 1, instr(artifact_location, ?) - 1) FROM experiments "
            "WHERE instr(artifact_location, ?) > 0",
            (inner, inner),
        )
        here = root.parent.parent.as_posix()
        for (old,) in [row for row in found if row[0] != here]:
            for table, column in PATH_COLUMNS:
                if table not in tables:
                    continue
                start = old + inner
                cursor = connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (here, len(old) + 1, len(start), start),
                )
                changed += cursor.rowcount
    if changed:
        LOGGER.info("the project folder has moved: %d artifact paths in MLflow's store follow it", changed)
    return changed


def ensure_experiment(client: MlflowClient, dataset: str) -> str:
    """Id of the experiment of a data set; it is created, or restored when it was deleted."""
    experiment: Experiment | None = client.get_experiment_by_name(dataset)
    if experiment is not None:
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)
    root = artifact_root()
    try:
        return str(client.create_experiment(dataset, None if root is None else str(root / dataset)))
    except MlflowException:
        experiment = client.get_experiment_by_name(dataset)  # another process was faster
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def find_run(client: MlflowClient, experiment_id: str, run_id: str) -> Run | None:
    """A run, or the one that was made to replace it; a deleted one is restored. None when there is none.

    Args:
        client: The store.
        experiment_id: Where replacements are looked for.
        run_id: Id in `run.json`.
    """
    run = None
    if re.fullmatch(r"[0-9a-zA-Z][\w-]*", run_id):
        run = get_run(client, run_id)
    if run is None:
        replaced = client.search_runs(
            [experiment_id], f"tags.recovered_from = '{run_id}'", run_view_type=ViewType.ALL, max_results=1
        )
        run = replaced[0] if replaced else None
    if run is not None and run.info.lifecycle_stage == "deleted":
        client.restore_run(run.info.run_id)
        run = client.get_run(run.info.run_id)
    return run


def get_run(client: MlflowClient, run_id: str) -> Run | None:
    """A run by its id, None when the store does not know it."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return None


def get_logged_model(client: MlflowClient, model_id: str) -> LoggedModel | None:
    """A logged model by its id, None when the store does not know it or it has been deleted."""
    try:
        return client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return None


def store_exists() -> bool:
    """Whether there is a store to look things up in; opening one that is a file would create it."""
    uri = tracking_uri()
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).is_file()


def find_dead_runs(client: MlflowClient) -> list[Run]:
    """Runs that say RUNNING although their process on this machine is gone, as after `kill -9`."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    filter_ = f"attributes.status = 'RUNNING' and tags.`segtrail.host` = '{socket.gethostname()}'"
    pids = [(run, run.data.tags.get("segtrail.pid", "")) for run in client.search_runs(experiments, filter_)]
    return [run for run, pid in pids if pid.isdigit() and not is_alive(int(pid))]


def local_path(uri: str) -> Path | None:
    """The path behind an artifact address, None when it is not a local one."""
    if uri.startswith("file://"):
        from urllib.parse import unquote

        return Path(unquote(uri.removeprefix("file://")))
    return Path(uri) if uri.startswith("/") else None
