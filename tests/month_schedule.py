"""The schedule of a month: `segtrail schedule`, nights that Prefect's scheduler starts, and how they are killed."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psutil
from month_project import MonthProject, Record, wait_until
from project_copy import environment, load_json

from flows.locks import is_alive
from flows.night_folder import NIGHT
from flows.prefect_api import ask, find_deployment, list_runs

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
ALL_STATES = (*ENDED, "SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED")
# As quick as the services can look.
QUICK = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
}


@dataclass
class Month(MonthProject):
    """The project with what serves its schedule.

    Attributes:
        serving: Process of `segtrail schedule`.
    """

    serving: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """`segtrail schedule`, until it says that it serves."""
        log = self.folder.parent / "schedule.log"
        before = log.stat().st_size if log.is_file() else 0
        more = {"SEGTRAIL_WEBHOOK_URL": self.hook.address, "SEGTRAIL_NOTIFY": "all", "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as output:
            self.serving = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "schedule"],
                cwd=self.folder, env=environment() | QUICK | more,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

        def ready() -> bool:
            text = log.read_bytes()[before:].decode()
            assert self.serving is not None
            assert self.serving.poll() is None, text
            return "Ctrl-C ends it." in text

        wait_until(ready)

    def stop(self) -> None:
        """Ctrl-C, so to say."""
        if self.serving is not None and self.serving.poll() is None:
            self.serving.terminate()
            self.serving.wait(120)
        self.serving = None

    def kill_serving(self) -> None:
        """`kill -9` of the serving process; its server follows."""
        assert self.serving is not None
        self.serving.kill()
        self.serving.wait()

    @property
    def url(self) -> str:
        return str(load_json(self.folder / ".segtrail/schedule/served.json")["url"])

    @property
    def deployment(self) -> str:
        found = find_deployment(self.url, "nightly", "nightly")
        assert found is not None
        return str(found["id"])

    def plan(self, count: int = 1, every_s: int = 10) -> list[datetime]:
        """Makes nights due within seconds, by the schedule of the deployment; the times at which they are due.

        Prefect's scheduler makes the runs. One that was too busy to do so in time is given later times.
        """
        lead = 5.0
        while True:
            first = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=lead)
            due = [first + timedelta(seconds=every_s * number) for number in range(count)]
            self._add_schedule(first, every_s, count)
            while datetime.now(UTC) < first + timedelta(seconds=2):
                known = {
                    run["expected_start_time"] for run in list_runs(self.url, self.deployment, ALL_STATES)
                }
                if {datetime.fromisoformat(text) for text in known} >= set(due):
                    return due
                time.sleep(0.5)
            assert lead < 200, "Prefect's scheduler makes no runs"
            lead *= 2

    def _add_schedule(self, first: datetime, every_s: int, count: int) -> None:
        route = f"deployments/{self.deployment}/schedules"
        rule = f"DTSTART:{first:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=SECONDLY;INTERVAL={every_s};COUNT={count}"
        ask(self.url, route, [{"schedule": {"rrule": rule, "timezone": "UTC"}, "active": True}])  # type: ignore[arg-type]

    # The nights

    def records(self) -> list[Record]:
        """Of all nights, oldest first."""
        found = [load_json(path) for path in self.folder.glob(".segtrail/nights/*/night.json")]
        return sorted(
            found, key=lambda record: (record["started"], len(record["night_id"]), record["night_id"])
        )

    def begin(self, how: str = "schedule", count: int = 1, every_s: int = 10) -> Record:
        """Makes a night start, by the schedule or by `run-now`; its record once it has one."""
        known = {record["night_id"] for record in self.records()}
        if how == "schedule":
            self.plan(count, every_s)
        else:
            self.segtrail("schedule", "run-now")
        return self.started_since(known)

    def started_since(self, known: set[str]) -> Record:
        """The first night that is not known yet."""
        wait_until(lambda: {record["night_id"] for record in self.records()} - known)
        return next(record for record in self.records() if record["night_id"] not in known)

    def load(self, night_id: str) -> Record:
        record: Record = load_json(self.folder / ".segtrail/nights" / night_id / "night.json")
        return record

    def log(self, night_id: str) -> str:
        path = self.folder / ".segtrail/nights" / night_id / "repro.log"
        return path.read_text() if path.is_file() else ""

    def finish(self, record: Record) -> Record:
        """Waits for the end of a night and of its Prefect run."""
        wait_until(lambda: not is_alive(record["pid"]))
        run_id = self.load(record["night_id"])["prefect_run_id"]
        if run_id:
            wait_until(lambda: ask(self.url, f"flow_runs/{run_id}")["state_type"] in ENDED)
        return self.load(record["night_id"])

    def night(self, how: str = "schedule") -> Record:
        """A whole night."""
        return self.finish(self.begin(how))

    def kill(self, record: Record, with_stages: bool) -> None:
        """`kill -9` of a night: of its process alone, or of all it has started, as when the power goes."""
        process = psutil.Process(record["pid"])
        victims = process.children(recursive=True) if with_stages else []
        for victim in (process, *victims):
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue

    def processes_of(self, night_id: str) -> list[psutil.Process]:
        """What a night has started."""
        found = []
        for process in self.processes():
            try:
                if process.environ().get(NIGHT) == night_id:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        """Ends whatever is left."""
        self.stop()
        for process in self.processes():
            process.kill()
