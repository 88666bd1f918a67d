"""The part of `segtrail doctor` that looks at locks, servers, processes and recorded runs."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from flows.decision import load_decision
from flows.doctor import FAIL, OK, WARN, Check
from flows.environment import STATE, state_folder
from flows.locks import find_holder, is_alive
from flows.servers import answers, start_server
from pipeline.config import load_params
from pipeline.errors import SegtrailError

SQLITE = "sqlite:///"
# Processes that a kill -9 of their parent can leave behind; ours lead sessions of their own.
OURS = ("flows.prefect_server", "prefect.server.api.server:create_app", "pipeline.train_worker", "mlflow")
ATTEMPTS = 5
PASSWORD = r"//[^/@]*@"
RUNNING = "SELECT id, name FROM flow_run WHERE state_type IN ('RUNNING', 'CANCELLING')"


def check_locks() -> Iterator[Check]:
    """Who works in this project now."""
    held = [(path, holder) for path in sorted(STATE.glob("*.lock")) if (holder := find_holder(path))]
    for path, holder in held:
        yield Check(WARN, "lock", f"{path.name} is held by {holder.describe()}", "wait for it")
    if not held:
        yield Check(OK, "locks", "free")


def check_prefect() -> Iterator[Check]:
    """The server of `PREFECT_API_URL`, or the project's own database."""
    if url := os.environ.get("PREFECT_API_URL"):
        if answers(url):
            yield Check(OK, "prefect", f"a server answers at {url}")
        else:
            found = f"PREFECT_API_URL is {url}, but no server answers there; stages start their own"
            yield Check(WARN, "prefect", found, "unset PREFECT_API_URL, or start that server")
    database = _prefect_database()
    if not database.is_file():
        yield Check(OK, "prefect", "no database yet: the first stage makes it (10 s)")
        return
    rows = _query(database, "SELECT state_name, count(*) FROM flow_run GROUP BY state_name")
    if rows is None:
        yield Check(
            FAIL, "prefect", f"{database} cannot be read", f"rm {database} (only the run history is lost)"
        )
    else:
        runs = ", ".join(f"{count} {name}" for name, count in rows)
        yield Check(OK, "prefect", f"{runs or 'no runs yet'} ({database.stat().st_size / 1e6:.1f} MB)")


def check_mlflow() -> Iterator[Check]:
    """The store, and whether its champion is the one of the files."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    if uri.startswith(SQLITE):
        database = Path(uri.removeprefix(SQLITE))
        if not database.is_file():
            yield Check(OK, "mlflow", "no store yet: the first training or `dvc repro register` makes it")
            return
        rows = _query(database, "SELECT count(*) FROM runs")
        if rows is None:
            fix = f"rm {database}, then dvc repro register (rebuilds it from data/)"
            yield Check(FAIL, "mlflow", f"{database} cannot be read", fix)
            return
        yield Check(OK, "mlflow", f"{rows[0][0]} runs ({database.stat().st_size / 1e6:.1f} MB)")
    else:
        yield Check(OK, "mlflow", f"store at {re.sub(PASSWORD, '//', uri)}")
    yield from _check_champion()


def _check_champion() -> Iterator[Check]:
    try:
        name = load_params().register_.model_name
        champion = load_decision(name).get("champion_after")
    except SegtrailError as error:
        yield Check(FAIL, "registry", error.what, error.fix)
        return
    if not champion:
        yield Check(OK, "registry", f"{name} has no champion yet")
        return
    from flows.tracking_registry import SHA256
    from flows.tracking_store import TRACKING_ERRORS, open_client

    try:
        version = open_client().get_model_version_by_alias(name, "champion")
    except TRACKING_ERRORS as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        yield Check(WARN, "registry", f"MLflow does not know {name}@champion: {text}", "dvc repro register")
        return
    served = version.tags.get(SHA256, "")
    if served == champion:
        yield Check(OK, "registry", f"{name}@champion is version {version.version} ({champion[:12]})")
    else:
        found = f"{name}@champion is {served[:12] or 'unknown'} in MLflow, {champion[:12]} in decision.json"
        yield Check(WARN, "registry", found, "dvc repro register")


def check_orphans(fix: bool = False) -> Iterator[Check]:
    """Servers and workers of this project whose parent is gone."""
    orphans = find_orphans()
    for process in orphans:
        text = f"process {process.pid} has lost its parent: {' '.join(process.cmdline())[:90]}"
        if fix:
            process.terminate()
            _, alive = psutil.wait_procs([process], timeout=10)
            for stubborn in alive:
                stubborn.kill()
            yield Check(OK, "orphans", f"{text}; ended")
        else:
            yield Check(WARN, "orphans", text, f"segtrail doctor --fix (or kill {process.pid})")
    if not orphans:
        yield Check(OK, "orphans", "none")


def find_orphans() -> list[psutil.Process]:
    """Processes of this project that nothing waits for any more."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            ours = any(name == word or word.endswith(f"/{name}") for word in words for name in OURS)
            if ours and process.cwd() == str(Path.cwd()) and _is_orphan(process, words):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _is_orphan(process: psutil.Process, words: list[str]) -> bool:
    if "--owner" in words:
        return not is_alive(int(words[words.index("--owner") + 1]))
    leads = os.getsid(process.pid) == process.pid or "prefect.server.api.server:create_app" in words
    parent = process.parent()
    return leads and (parent is None or not any("python" in word for word in parent.cmdline()[:1]))


def check_stale_flow_runs(fix: bool = False) -> Iterator[Check]:
    """Prefect runs that say Running although no process works on them."""
    database = _prefect_database()
    rows = _query(database, RUNNING) if database.is_file() else []
    working = _stages_at_work()
    stale = [(run_id, name) for run_id, name in rows or [] if name.split()[0] not in working]
    if not stale:
        yield Check(OK, "flow runs", "none is left over")
        return
    names = ", ".join(name for _, name in stale)
    text = f"{len(stale)} say Running but nobody works on them: {names}"
    if not fix:
        yield Check(WARN, "flow runs", text, "segtrail doctor --fix")
        return
    server = start_server(os.getpid())
    try:
        closed = server.wait() and all(_mark_crashed(server.url, i) for i, _ in stale)
    finally:
        server.stop()
    yield Check(OK if closed else WARN, "flow runs", f"{text}; " + ("closed" if closed else "not closed"))


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


def _mark_crashed(url: str, run_id: str) -> bool:
    state = {"type": "CRASHED", "name": "Crashed", "message": "its process is gone (segtrail doctor)"}
    body = json.dumps({"state": state, "force": True}).encode()
    request = urllib.request.Request(
        f"{url}/flow_runs/{run_id}/set_state", body, {"Content-Type": "application/json"}
    )
    for _ in range(ATTEMPTS):  # 503 while SQLite is busy
        try:
            with urllib.request.urlopen(request, timeout=30):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    return False


def check_stale_training_runs(fix: bool = False) -> Iterator[Check]:
    """MLflow runs that say RUNNING although their process is gone."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        return
    from flows.tracking_store import TRACKING_ERRORS, open_client

    try:
        client = open_client()
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        running = client.search_runs(ids, "attributes.status = 'RUNNING'")
        stale = [run for run in running if _has_ended(run.data.tags)]
        for run in stale if fix else []:
            client.set_terminated(run.info.run_id, "KILLED")
    except TRACKING_ERRORS as error:
        yield Check(WARN, "mlflow runs", f"cannot be listed: {error}", "segtrail ui, see .segtrail/logs")
        return
    if not stale:
        yield Check(OK, "mlflow runs", "none is left over")
        return
    text = f"{len(stale)} say RUNNING but their process is gone"
    if fix:
        yield Check(OK, "mlflow runs", f"{text}; closed")
    else:
        yield Check(WARN, "mlflow runs", text, "segtrail doctor --fix (dvc repro register does so, too)")


def _has_ended(tags: dict[str, Any]) -> bool:
    pid = tags.get("segtrail.pid", "")
    here = tags.get("segtrail.host", socket.gethostname()) == socket.gethostname()
    return here and pid.isdigit() and not is_alive(int(pid))


def _prefect_database() -> Path:
    return Path(os.environ.get("PREFECT_HOME", state_folder() / "prefect")) / "prefect.db"


def _query(database: Path, sql: str) -> list[tuple[Any, ...]] | None:
    """Rows of a read-only query, None when the database cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.Error:
        return None
