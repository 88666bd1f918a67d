"""The part of `segtrail doctor` that looks at locks, MLflow's store, processes and trainings."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from flows import dvc_lock
from flows.decision import load_decision
from flows.doctor import FAIL, OK, WARN, Check
from flows.doctor_prefect import query
from flows.environment import STATE
from flows.locks import find_holder, is_alive
from pipeline.config import load_params
from pipeline.errors import SegtrailError

SQLITE = "sqlite:///"
# Processes that a kill -9 of their parent can leave behind; ours lead sessions of their own.
OURS = ("flows.prefect_server", "prefect.server.api.server:create_app", "pipeline.train_worker", "mlflow")
PASSWORD = r"//[^/@]*@"


def check_locks(fix: bool = False) -> Iterator[Check]:
    """Who works in this project now, and whether DVC can read who reads and writes what."""
    if trouble := dvc_lock.mend() if fix else dvc_lock.find_trouble():
        found = f"{trouble}: DVC commands stop at it"
        yield (
            Check(OK, "locks", f"{found}: mended")
            if fix
            else Check(FAIL, "locks", found, "segtrail doctor --fix")
        )
    held = [(path, holder) for path in sorted(STATE.glob("*.lock")) if (holder := find_holder(path))]
    for path, holder in held:
        yield Check(WARN, "lock", f"{path.name} is held by {holder.describe()}", "wait for it")
    if not held:
        yield Check(OK, "locks", "free")


def check_mlflow() -> Iterator[Check]:
    """The store, and whether its champion is the one of the files."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    if uri.startswith(SQLITE):
        database = Path(uri.removeprefix(SQLITE))
        if not database.is_file():
            yield Check(OK, "mlflow", "no store yet: the first training or `dvc repro register` makes it")
            return
        rows = query(database, "SELECT count(*) FROM runs")
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
