"""MLflow's SQLite file among many processes: made once and whole, and no writer is told that it is locked."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow_store import forget_stores

from flows.tracking_database import make_file
from flows.tracking_store import open_client

OPEN = (
    "from flows.tracking_store import open_client; open_client().create_experiment(__import__('sys').argv[1])"
)


def query(database: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def test_an_older_database_gets_a_log(
    project: Path, store_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = project / "state" / "mlflow.db"
    database.parent.mkdir()
    shutil.copy(store_template, database)
    assert query(database, "PRAGMA journal_mode") == [("delete",)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    forget_stores()
    assert [e.name for e in open_client().search_experiments()] == ["Default"]
    assert query(database, "PRAGMA journal_mode") == [("wal",)]
    forget_stores()


def test_a_session_waits_long_for_other_writers(tracked: Path) -> None:
    """Another writer keeps the file for longer than the few seconds that SQLite's own default would wait."""
    database = tracked / ".segtrail" / "mlflow.db"
    seen: list[str] = []
    store = open_client()._tracking_client.store
    with store.ManagedSessionMaker() as session:
        from sqlalchemy import text

        seen.append(str(session.execute(text("PRAGMA busy_timeout")).scalar()))
        seen.append(str(session.execute(text("PRAGMA synchronous")).scalar()))
    assert seen == ["600000", "1"]  # ms; 1 = NORMAL
    assert database.is_file()


@pytest.mark.slow
def test_processes_that_find_no_database_make_one(project: Path) -> None:
    database = project / "state" / "mlflow.db"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, f"e{i}"], env=environment, stderr=subprocess.PIPE, text=True
        )
        for i in range(4)
    ]
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    names = {name for (name,) in query(database, "SELECT name FROM experiments")}
    assert names == {"Default", "e0", "e1", "e2", "e3"}


@pytest.mark.slow
def test_what_a_kill_left_unfinished_is_no_database(project: Path) -> None:
    database = project / "state" / "mlflow.db"
    database.parent.mkdir()
    database.with_name(".mlflow.db.new").write_bytes(b"half a database")
    database.with_name("mlflow.db-wal").write_bytes(b"the log of a database that was deleted")
    make_file(database, project / "state" / "mlartifacts")
    assert query(database, "PRAGMA integrity_check") == [("ok",)]
    assert query(database, "SELECT name FROM experiments") == [("Default",)]
    assert sorted(path.name for path in database.parent.glob(".mlflow*")) == []


@pytest.mark.slow
def test_writers_lose_nothing_and_are_told_nothing(project: Path) -> None:
    """`benchmarks/writers.py` in small."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "writers.py"
    run = subprocess.run(
        [sys.executable, script, "--writers", "8", "--epochs", "3"],
        env={**os.environ, "PYTHONPATH": str(script.parents[1])}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    assert run.stdout.count("0 missing") == run.stdout.count("0 told") == 2
