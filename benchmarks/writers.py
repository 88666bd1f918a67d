"""Many processes write to one store at once: what is lost, what a user sees, and how long it takes.

Each MLflow writer is a training as Segtrail records it: run, params, data set, tags, one row a epoch, end. Each Prefect
writer is a stage: a flow run with tasks and log lines, through one server. Afterwards every run is read back and each
value compared. The script ends with 1 when anything is missing, or when a writer's log says anything at all.

    .venv/bin/python benchmarks/writers.py                      # 100 processes each, SQLite
    .venv/bin/python benchmarks/writers.py --postgres           # on a PostgreSQL server of its own (system's packages)
    .venv/bin/python benchmarks/writers.py --mlflow postgresql+psycopg2://... --prefect postgresql+asyncpg://...
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from flows import servers, stage, tracking  # noqa: E402
from flows.record_loss import INTERNAL  # noqa: E402
from flows.tracking_store import open_client  # noqa: E402

DATASET = "writers"
MODELS = ("unet", "resunet", "maskrcnn")
CASES = 5
ANSWER_S = 120.0
DRAINING = ("EventsWorker", "APILogWorker")  # these loggers say only how much is left to send at the end
FORK = multiprocessing.get_context("fork")  # one import of MLflow (200 MB) for all
Queue = Any  # multiprocessing's queues have no type that can be written down


@dataclass
class Outcome:
    """What one round of writers did.

    Attributes:
        seconds: From the start of all to the end of the last.
        missing: What should be in the store and is not, a line each.
        told: What the writers' logs said; a user would have seen it.
    """

    seconds: float = 0.0
    missing: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


class _Told(logging.Handler):
    """Keeps warnings and errors, also those of MLflow, Prefect and SQLAlchemy."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name in DRAINING:
            return
        self.lines.append(f"{record.name}: {record.getMessage()[:300]}")


def run_together(work: Callable[[int], None], writers: int) -> Outcome:
    """Runs a function in processes that begin at the same moment.

    Args:
        work: Gets the number of the writer.
        writers: Number of processes.
    """
    barrier, queue = FORK.Barrier(writers + 1), FORK.Queue()
    processes = [FORK.Process(target=_write, args=(work, i, barrier, queue)) for i in range(writers)]
    for process in processes:
        process.start()
    barrier.wait()
    started = time.monotonic()
    told = [line for _ in processes for line in queue.get()]
    for process in processes:
        process.join()
    return Outcome(time.monotonic() - started, [], told)


def _write(work: Callable[[int], None], number: int, barrier: Any, queue: Queue) -> None:
    told = _Told()
    for name in ("", "segtrail", "mlflow", "prefect", INTERNAL, "sqlalchemy"):
        logging.getLogger(name).addHandler(told)
    barrier.wait()
    try:
        work(number)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        told.lines.append(f"writer {number} ended with {error!r}"[:300])
    queue.put(told.lines)


def params_of(number: int) -> dict[str, Any]:
    return {"seed": number, "learning_rate": 0.01, **{f"option_{i}": i * number for i in range(30)}}


def metric_of(number: int, epoch: int) -> float:
    return 1000.0 * number + epoch


def record_training(number: int, epochs: int) -> None:
    """One training as its stage records it."""
    provenance = {
        "dataset": DATASET, "data_digest": "0" * 32 + ".dir", "git_commit": f"{number:040d}", "git_dirty": False,
    }  # fmt: skip
    run_id = tracking.start_training_run(MODELS[number % len(MODELS)], params_of(number), provenance)
    if run_id is None:
        raise RuntimeError("no run was started")
    for epoch in range(1, epochs + 1):
        tracking.log_epoch(run_id, {"epoch": epoch, "train_loss": metric_of(number, epoch)})
    tracking.finish_training_run(run_id, "FINISHED")


def write_to_mlflow(writers: int, epochs: int) -> Outcome:
    """Writes with many processes to the store of `MLFLOW_TRACKING_URI`, and reads everything back."""
    outcome = run_together(lambda number: record_training(number, epochs), writers)
    client = open_client()
    experiment = client.get_experiment_by_name(DATASET)
    runs = client.search_runs([experiment.experiment_id], max_results=10 * writers) if experiment else []
    by_seed = {run.data.params.get("seed"): run for run in runs}
    if len(runs) != writers:
        outcome.missing.append(f"{len(runs)} runs, expected {writers}")
    for number in range(writers):
        run = by_seed.get(str(number))
        if run is None:
            outcome.missing.append(f"the run of writer {number}")
            continue
        points = {p.step: p.value for p in client.get_metric_history(run.info.run_id, "train/loss")}
        expected = {epoch: metric_of(number, epoch) for epoch in range(1, epochs + 1)}
        params = {key: str(value) for key, value in params_of(number).items()}
        facts = {
            "status": run.info.status == "FINISHED",
            "metrics": points == expected,
            "params": params.items() <= run.data.params.items(),
            "commit": run.data.tags.get("segtrail.git_commit") == f"{number:040d}",
            "data set": len(run.inputs.dataset_inputs) == 1,
        }
        outcome.missing += [f"{name} of writer {number}" for name, whole in facts.items() if not whole]
    return outcome


def run_flow(number: int) -> None:
    """One stage, as `python -m flows.<stage>` runs it."""
    from prefect import flow
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    def work(writer: int) -> None:
        stage.map_cases(lambda i: i, range(CASES), f"writer {writer}", lambda i: f"case {i}", workers=1)

    servers.find_server.cache_clear()
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    stage.run_stage(flow(name="writer")(work), number)
    EventsWorker.drain_all()  # otherwise at exit, when nobody counts what they say any more
    APILogWorker.drain_all()


def write_to_prefect(writers: int, url: str) -> Outcome:
    """Runs one flow a process through one server, and reads everything back.

    Args:
        writers: Number of processes.
        url: API of the server.
    """
    os.environ["PREFECT_API_URL"] = (
        url  # before Prefect is imported: its threads keep the address of that moment
    )
    import prefect.main  # noqa: F401

    outcome = run_together(run_flow, writers)
    end = time.monotonic() + ANSWER_S
    while (missing := _find_missing(url, writers)) and time.monotonic() < end:
        time.sleep(2)  # task runs and log lines are written behind the run
    outcome.missing = missing
    return outcome


def _find_missing(url: str, writers: int) -> list[str]:
    import httpx

    missing = []
    with httpx.Client(base_url=url, timeout=60) as client:

        def ask(kind: str, **query: Any) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            while page := client.post(f"{kind}/filter", json={"offset": len(found), **query}).json():
                found += page
            return found

        runs = {run["name"]: run for run in ask("flow_runs", flows={"name": {"any_": ["writer"]}})}
        tasks, lines = ask("task_runs"), ask("logs")
    for number in range(writers):
        run = runs.get(f"writer {number}")
        if run is None:
            missing.append(f"the flow run of writer {number}")
            continue
        own = [task for task in tasks if task["flow_run_id"] == run["id"]]
        said = {line["message"] for line in lines if line["flow_run_id"] == run["id"]}
        facts = {
            "state": run["state_type"] == "COMPLETED",
            "task runs": [task["state_type"] for task in own] == ["COMPLETED"] * CASES,
            "log lines": all(any(f"case {i}" in text for text in said) for i in range(CASES)),
        }
        missing += [f"{name} of writer {number}" for name, whole in facts.items() if not whole]
    return missing


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--writers", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--mlflow", default="", metavar="URI", help="default: a new SQLite file")
    parser.add_argument("--prefect", default="", metavar="URI", help="default: a new SQLite file")
    parser.add_argument("--postgres", action="store_true", help="both on a PostgreSQL server of its own")
    options = parser.parse_args(arguments)
    if not options.postgres:
        return run_rounds(options)
    from database_server import start_database_server

    database = start_database_server(connections=300)  # as compose.yaml has it
    try:
        for name in ("mlflow", "prefect"):
            database.create(name)
        options.mlflow, options.prefect = database.mlflow_uri("mlflow"), database.prefect_uri("prefect")
        return run_rounds(options)
    finally:
        database.stop()


def run_rounds(options: argparse.Namespace) -> int:
    """MLflow's writers, then Prefect's; 1 when anything is missing or was told."""
    failed = False
    with tempfile.TemporaryDirectory(prefix="writers_") as folder:
        os.environ["MLFLOW_TRACKING_URI"] = options.mlflow or f"sqlite:///{folder}/mlflow.db"
        os.environ["PREFECT_HOME"] = f"{folder}/prefect"
        if options.prefect:
            os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = options.prefect
        Path(folder, "prefect").mkdir()
        server = servers.start_server(os.getpid())
        if not server.wait():
            sys.exit(f"no Prefect server: see {servers.log_path()}")
        try:
            rounds = {
                "MLflow": lambda: write_to_mlflow(options.writers, options.epochs),
                "Prefect": lambda: write_to_prefect(options.writers, server.url),
            }
            for name, write in rounds.items():
                outcome = write()
                failed = failed or bool(outcome.missing or outcome.told)
                print(f"{name}: {options.writers} writers, {outcome.seconds:.1f} s")
                for word, lines in (("missing", outcome.missing), ("told", outcome.told)):
                    print(f"  {len(lines)} {word}", *lines[:10], sep="\n    ")
        finally:
            server.stop()
            log = servers.log_path().read_text(encoding="utf-8", errors="replace").splitlines()
            print(f"  {len(log)} lines in the Prefect server's log", *log[:10], sep="\n    ")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
