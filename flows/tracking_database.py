"""MLflow's database among many processes: it is made once and whole, and writers wait for one another.

MLflow makes its tables step by step in place. Two processes that do so at once leave an SQLite file that neither they
nor anybody after them can use, and so does a `kill -9` in the middle. And it gives up after 20 s of waiting for other
writers, which 30 processes on a busy disk need.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from flows.environment import STATE
from flows.locks import hold

LOCK = STATE / "mlflow.lock"
TABLE = "alembic_version"  # written last
CONNECT_TIMEOUT_S = 10
ATTEMPTS = 4
BUSY_S = 600  # a writer waits so long for the others
MLFLOW_WAITS = "PRAGMA busy_timeout = 20000;"  # what MLflow says at the beginning of each session
_READY: set[str] = set()  # addresses that this process has found in order


def make_file(database: Path, root: Path) -> None:
    """Makes an SQLite database with MLflow's tables; it appears under its name when it is whole.

    Args:
        database: The file; nothing is done when it exists.
        root: Folder of the artifacts of MLflow's own experiment `Default`.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    if database.is_file():
        _keep_log(database)
        return
    with hold(database.with_name(LOCK.name), "making MLflow's database"):
        if database.is_file():
            return
        unfinished = database.with_name(f".{database.name}.new")
        # A log that a deleted database has left behind would be read into the new one.
        for name in (unfinished.name, f"{database.name}-"):
            for leftover in database.parent.glob(f"{name}*"):
                leftover.unlink()
        uri = f"sqlite:///{unfinished}"
        SqlAlchemyStore(uri, str(root))._dispose_engine()  # type: ignore[no-untyped-call]
        SqlAlchemyStore._engine_map.pop(uri, None)
        _keep_log(unfinished)
        unfinished.replace(database)


def _keep_log(database: Path) -> None:
    """Gives a database a write-ahead log, with which readers never block writers; it stays with the file."""
    with (
        closing(sqlite3.connect(database, timeout=1)) as connection,
        contextlib.suppress(sqlite3.OperationalError),
    ):
        connection.execute(
            "PRAGMA journal_mode = WAL"
        )  # fails while others are at work: the next one does it


@sqlalchemy.event.listens_for(Engine, "connect")
def _flush_less(connection: Any, record: object) -> None:
    """Waits for the disk at checkpoints of the log instead of at each commit; a power cut loses no consistency."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = NORMAL")


@sqlalchemy.event.listens_for(Engine, "before_cursor_execute", retval=True)
def _wait_longer(
    connection: object, cursor: object, statement: str, parameters: Any, context: object, many: bool
) -> tuple[str, Any]:
    """Replaces the statement by which MLflow limits how long it waits for other writers."""
    return (f"PRAGMA busy_timeout = {BUSY_S * 1000}" if statement == MLFLOW_WAITS else statement), parameters


def make_tables(uri: str) -> None:
    """Makes MLflow's tables on a database server that lacks them; a server that does not answer is an error at once.

    MLflow itself would try for 100 s, each time it is asked.

    Args:
        uri: Address of the database, such as `postgresql+psycopg2://...`.

    Raises:
        SQLAlchemyError: The server does not answer, or refuses the user.
        MlflowException: The tables cannot be made.
    """
    if uri in _READY:
        return
    if not _has_tables(uri):
        with hold(LOCK, "making MLflow's database"):
            _make_tables(uri)
    _READY.add(uri)


def _has_tables(uri: str) -> bool:
    options = {"connect_timeout": CONNECT_TIMEOUT_S} if uri.startswith(("postgresql", "mysql")) else {}
    engine = sqlalchemy.create_engine(uri, connect_args=options)
    try:
        with closing(engine.connect()) as connection:
            return sqlalchemy.inspect(connection).has_table(TABLE)
    finally:
        engine.dispose()


def _make_tables(uri: str) -> None:
    """Tries again after another machine was faster: each step is a transaction, one of the two gets through."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            MlflowClient(uri).search_experiments(max_results=1)
            return
        except (MlflowException, SQLAlchemyError):
            if attempt == ATTEMPTS:
                raise
            time.sleep(attempt)
