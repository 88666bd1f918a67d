"""The part of `segtrail doctor` that looks at Prefect: its database or server, and runs that were left behind."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.doctor import FAIL, OK, WARN, Check
from flows.environment import state_folder
from flows.locks import is_alive
from flows.prefect_api import ask, mark_crashed
from flows.schedule_state import find_runs_at_work
from flows.servers import HOST_TAG, PID_TAG, answers, borrow_server
from pipeline.errors import SegtrailError

# Prefect reads the database's address from either; "" and an SQLite file of Prefect's home are the default.
DATABASE_VARIABLES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
STATES = (
    "Completed",
    "Failed",
    "Crashed",
    "Cancelled",
    "Cancelling",
    "Running",
    "Pending",
    "Scheduled",
    "Paused",
)
RUNNING = "SELECT id, name FROM flow_run WHERE state_type IN ('RUNNING', 'CANCELLING')"
MESSAGE = "its process is gone (segtrail doctor)"


@dataclass(frozen=True)
class _Left:
    """A flow run that says Running although nobody works on it."""

    id: str
    name: str


def check_prefect() -> Iterator[Check]:
    """The server of `PREFECT_API_URL`, or the database that the project's own servers write."""
    if url := os.environ.get("PREFECT_API_URL"):
        if answers(url):
            yield Check(OK, "prefect", f"a server answers at {url}")
        else:
            found = f"PREFECT_API_URL is {url}, but no server answers there; stages start their own"
            yield Check(WARN, "prefect", found, "unset PREFECT_API_URL, or start that server")
    if _is_on_a_server():
        yield _check_shared()
        return
    database = _database()
    if not database.is_file():
        yield Check(OK, "prefect", "no database yet: the first stage makes it (10 s)")
        return
    rows = query(database, "SELECT state_name, count(*) FROM flow_run GROUP BY state_name")
    if rows is None:
        yield Check(
            FAIL, "prefect", f"{database} cannot be read", f"rm {database} (only the run history is lost)"
        )
    else:
        runs = ", ".join(f"{count} {name}" for name, count in rows)
        yield Check(OK, "prefect", f"{runs or 'no runs yet'} ({database.stat().st_size / 1e6:.1f} MB)")


def _check_shared() -> Check:
    """Runs by state, where the database is not a file of this project."""
    with borrow_server(_answering()) as url:
        if url is None:
            return Check(
                FAIL, "prefect", f"no server can be started on the database of {DATABASE_VARIABLES[1]}",
                "see .segtrail/prefect/server.log; check address, name and password",
            )  # fmt: skip
        try:
            counts = {name: _count(url, name.upper()) for name in STATES}
        except SegtrailError as error:
            return Check(
                FAIL,
                "prefect",
                f"{error.what} ({error.where})",
                "PREFECT_API_AUTH_STRING; docs/how-to/servers.md",
            )
    runs = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return Check(OK, "prefect", f"{runs or 'no runs yet'} (on a server)")


def _count(url: str, state: str) -> int:
    return int(ask(url, "flow_runs/count", {"flow_runs": {"state": {"type": {"any_": [state]}}}}))


def check_stale_flow_runs(fix: bool = False) -> Iterator[Check]:
    """Prefect runs that say Running although no process works on them.

    On a server that several people use only runs that this machine has started can be told.
    """
    if _is_on_a_server():
        with borrow_server(_answering()) as url:
            if url is not None:
                yield from _report(_find_shared(url), fix, url)
        return
    database = _database()
    rows = query(database, RUNNING) if database.is_file() else []
    working = _stages_at_work()
    nightly = find_runs_at_work() if rows else set()
    left = [_Left(i, name) for i, name in rows or [] if name.split()[0] not in working and i not in nightly]
    if not (left and fix):
        yield from _report(left, False, "")
        return
    with borrow_server() as url:
        yield from _report(left, True, url or "")


def _report(left: list[_Left], fix: bool, url: str) -> Iterator[Check]:
    if not left:
        yield Check(OK, "flow runs", "none is left over")
        return
    text = f"{len(left)} say Running but nobody works on them: {', '.join(run.name for run in left)}"
    if not fix:
        yield Check(WARN, "flow runs", text, "segtrail doctor --fix")
        return
    closed = sum(mark_crashed(url, run.id, MESSAGE) for run in left) == len(left)
    yield Check(OK if closed else WARN, "flow runs", f"{text}; " + ("closed" if closed else "not closed"))


def _find_shared(url: str) -> list[_Left]:
    """Runs of this machine whose process is gone."""
    state = {"type": {"any_": ["RUNNING", "CANCELLING"]}}
    tags = {"all_": [f"{HOST_TAG}{socket.gethostname()}"]}
    try:
        found = ask(url, "flow_runs/filter", {"flow_runs": {"state": state, "tags": tags}})
    except SegtrailError:
        return []  # check_prefect has told it
    return [_Left(run["id"], run["name"]) for run in found if _has_ended(run["tags"])]


def _has_ended(tags: list[str]) -> bool:
    pids = [tag.removeprefix(PID_TAG) for tag in tags if tag.startswith(PID_TAG)]
    return any(pid.isdigit() and not is_alive(int(pid)) for pid in pids)


def _stages_at_work() -> set[str]:
    """Names of the stages that run in this project."""
    names = set()
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if process.cwd() == str(Path.cwd()):
                names |= {word.removeprefix("flows.") for word in words if word.startswith("flows.")}
        except psutil.Error:
            continue
    return names


def _is_on_a_server() -> bool:
    """Whether runs are kept elsewhere than in a file of this project."""
    if any(
        os.environ.get(name, "sqlite").partition(":")[0].partition("+")[0] != "sqlite"
        for name in DATABASE_VARIABLES
    ):
        return True
    url = os.environ.get("PREFECT_API_URL", "")
    return bool(url) and not _database().is_file() and answers(url)


def _answering() -> str | None:
    """`PREFECT_API_URL`, if a server answers there."""
    url = os.environ.get("PREFECT_API_URL")
    return url if url and answers(url) else None


def _database() -> Path:
    return Path(os.environ.get("PREFECT_HOME", state_folder() / "prefect")) / "prefect.db"


def query(database: Path, sql: str) -> list[tuple[Any, ...]] | None:
    """Rows of a read-only query, None when the database cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.Error:
        return None
