"""What an earlier night has left behind when it was killed: its record, its processes and its Prefect runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from flows import dvc_lock
from flows.archive import SHORT
from flows.decision import load_decision
from flows.night_folder import NIGHT, night_tags
from flows.night_repro import LOG
from flows.nights import CLOSING, FAILED, KILLED, RECORD, RUNNING, Night, find_dead_nights
from flows.prefect_api import ask, mark_crashed
from flows.schedule_state import find_url
from flows.servers import borrow_server, is_recording
from pipeline.errors import SegtrailError
from pipeline.progress import format_seconds

LOGGER = logging.getLogger("segtrail")
Record = dict[str, Any]
STOP_S = 15.0
FIX = "nothing is lost: the next night continues"
AT_WORK = ("RUNNING", "CANCELLING", "PENDING")


def sweep(name: str) -> tuple[list[Night], list[str]]:
    """Ends and closes what killed nights have left; called by the one night that holds the lock.

    Args:
        name: The registered model.

    Returns:
        The nights that were killed, and a sentence for each thing that was done.
    """
    nights, said = [Night(record) for record in find_dead_nights()], []
    for night in nights:
        ended = _end_processes(_find_processes(night.record["night_id"]))
        _close_record(night, load_decision(name).get("champion_after"))
        said.append(f"night {night.record['night_id']}: {night.record['reason']}")
        said += [f"{ended} of its processes were still at work and have been ended"] if ended else []
    if nights:
        closed = _close_runs([night.record for night in nights])
        said += [f"{closed} Prefect runs are Crashed now"] if closed else []
    if trouble := dvc_lock.mend():
        said.append(f"{trouble}: mended")
    return nights, said


def _close_record(night: Night, champion: str | None) -> None:
    """Says how far a killed night came."""
    record = night.record
    last = record["steps"][-1] if record["steps"] else {"name": "start", "state": RUNNING}
    text = f"killed in step {last['name']}"
    wrote = max(
        (night.folder / name).stat().st_mtime for name in (RECORD, LOG) if (night.folder / name).is_file()
    )
    seen = datetime.fromtimestamp(wrote, UTC)
    started = datetime.fromisoformat(record["started"])
    if last["state"] == RUNNING:
        last |= {"state": FAILED, "message": "killed"}
    else:
        text = f"killed after step {last['name']}"
    if record["state"] != RUNNING:  # it had decided; once audited, its reason stays as it is
        if last["name"] not in CLOSING:
            record |= {"reason": f"{record['reason']}; then {text}", "fix": record["fix"] or FIX}
        night.save()
        return
    if champion and champion != record["champion"]:
        text += f"; it had made {champion[:SHORT]} champion"
    seconds = max((seen - started).total_seconds(), 0.0)
    record |= {
        "state": KILLED,
        "reason": f"{text}, {format_seconds(seconds)} after its start",
        "fix": FIX,
        "ended": seen.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }
    night.save()


def _find_processes(night_id: str) -> list[psutil.Process]:
    """Processes that work for a night, wherever they hang in the tree of processes."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(NIGHT) == night_id and process.cwd() == str(Path.cwd()):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _end_processes(processes: Sequence[psutil.Process]) -> int:
    """Asks processes to end, then kills them; how many there were."""
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(list(processes), timeout=STOP_S)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=STOP_S)  # their locks are free then
    return len(processes)


def _close_runs(records: Sequence[Record]) -> int:
    """Marks the Prefect runs of killed nights, their stages among them, as crashed; how many."""
    url = find_url()
    if url is None and not is_recording():
        return 0
    try:
        with borrow_server(url) as found:
            if found is None:
                return 0
            return sum(_close_runs_of(record, found) for record in records)
    except SegtrailError as error:
        LOGGER.warning("%s (%s)", error.what, error.where)
        return 0


def _close_runs_of(record: Record, url: str) -> int:
    state = {"type": {"any_": list(AT_WORK)}}
    wanted = [{"tags": {"all_": night_tags(record["night_id"])}, "state": state}]
    if record["prefect_run_id"]:
        wanted.append({"id": {"any_": [record["prefect_run_id"]]}, "state": state})
    found = {run["id"] for filter_ in wanted for run in ask(url, "flow_runs/filter", {"flow_runs": filter_})}
    message = f"night {record['night_id']} was killed: process {record['pid']} is gone"
    return sum(mark_crashed(url, run_id, message) for run_id in found)
