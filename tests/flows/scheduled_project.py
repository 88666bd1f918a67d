"""A project whose nights cost nothing: schedule, server and runner are real, the flow only notes that it ran."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect_home import make_home
from project_copy import change_params, environment
from small_project import WAIT_S, end_all

PROJECT = Path(__file__).resolve().parents[2]
# A working directory comes before the installed packages: this one takes the place of `flows/nightly.py`.
NIGHTLY = """\
import fcntl, json, os, time
from pathlib import Path
from prefect import flow, runtime


@flow(name="nightly", persist_result=False)
def nightly_flow():
    run = {"id": str(runtime.flow_run.id), "pid": os.getpid(), "tags": list(runtime.flow_run.tags)}
    run["due"] = runtime.flow_run.scheduled_start_time.isoformat()
    with Path("lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one night at a time, as the real ones do it
        except BlockingIOError:
            Path("busy").write_text(run["id"])
            return
        with Path("ran").open("a") as stream:
            print(json.dumps(run), file=stream)
        while Path("hold").exists():
            time.sleep(0.05)
"""
# As quick as the services can look.
QUICK = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
}


@dataclass
class ScheduledProject:
    """The project's folder and the processes a test has started in it."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def create(self, cron: str = "0 2 * * *") -> None:
        make_home(self.folder / ".segtrail" / "prefect")
        package = self.folder / "flows"
        package.mkdir()
        for path in (PROJECT / "flows").glob("*.py"):
            (package / path.name).symlink_to(path)
        (package / "nightly.py").unlink()
        (package / "nightly.py").write_text(NIGHTLY)
        (self.folder / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
        change_params(self.folder, {("nightly", "cron"): cron})

    def start(self, *arguments: str, module: str = "flows.cli", **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=self.folder, text=True,
            env=environment() | {"PYTHONPATH": str(PROJECT)} | QUICK | more,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *arguments: str, **more: str) -> tuple[int, str]:
        """Exit code and what was said."""
        process = self.start("schedule", *arguments, **more)
        text, _ = process.communicate(timeout=WAIT_S)
        return process.returncode, text

    def serve(self, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        """Serves the schedule; gives the process and what it said until it was ready."""
        process = self.start("schedule", *arguments)
        assert process.stdout is not None
        text = ""
        while "Ctrl-C ends it." not in text:
            line = process.stdout.readline()
            assert line, text
            text += line
        return process, text

    def status(self) -> dict[str, Any]:
        code, text = self.run("status", "--json")
        assert code == 0, text
        record: dict[str, Any] = json.loads(text)
        return record

    def ran(self) -> list[dict[str, Any]]:
        """The runs of the flow so far."""
        path = self.folder / "ran"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def hold(self) -> None:
        """Makes nights wait."""
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink(missing_ok=True)

    def close(self) -> None:
        self.release()
        end_all(self.started)


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> str:
    """Ends what `serve` has started; gives what it said at last."""
    process.send_signal(number)
    text, _ = process.communicate(timeout=WAIT_S)
    return text


def read_run(url: str, run_id: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/flow_runs/{run_id}", timeout=60) as answer:
        run: dict[str, Any] = json.load(answer)
        return run
