"""The nightly deployment, and Prefect's runner that starts its nights."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from httpx import HTTPError
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import PrefectException
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.nightly import nightly_flow
from flows.prefect_api import PAUSE_S, find_deployment
from flows.schedule_state import DEPLOYMENT, FLOW, wanted_pause
from flows.servers import log_path
from pipeline.errors import SegtrailError
from pipeline.nightly_params import NightlyParams

ENTRYPOINT = "flows.nightly.nightly_flow"
STOP_TIMEOUT_S = 90.0  # a night that is at work gets 30 s to end what it has started
LOST = (OSError, RuntimeError, HTTPError, PrefectException)  # what a server that is lost or busy gives
ATTEMPTS = 3
LOGGER = logging.getLogger("segtrail")
T = TypeVar("T")


def insist(request: Callable[[], T]) -> T:
    """Asks a server that may be too busy for its first answer; Prefect itself waits a minute each time.

    Raises:
        SegtrailError: It does not answer three times, or refuses.
    """
    attempt = 1
    while True:
        try:
            return request()
        except LOST as error:
            if attempt == ATTEMPTS:
                raise SegtrailError(
                    f"the Prefect server does not take the deployment: {error!r}",
                    os.environ.get("PREFECT_API_URL", ""), f"see {log_path()}; segtrail doctor",
                ) from error  # fmt: skip
            attempt += 1
            time.sleep(PAUSE_S)


def build_deployment(params: NightlyParams, paused: bool) -> RunnerDeployment:
    """The deployment of the nightly flow.

    Prefect sets no limit of runs: a night that is due while one is at work starts, finds the lock, and leaves a record,
    a report and an audit entry that say so.
    """
    deployment = RunnerDeployment.from_flow(
        nightly_flow,
        name=DEPLOYMENT,
        schedule=Cron(params.cron, timezone=params.timezone),
        paused=paused,
        description="New data in, dvc repro, gate, register, report. See docs/how-to/retrain-every-night.md.",
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.entrypoint = ENTRYPOINT
    deployment.work_pool_name = None  # said, so that an earlier deployment to a pool is taken back
    deployment.work_queue_name = None
    return deployment


class NightlyRunner:
    """Prefect's runner in a thread of its own: signals stay with us, and it can be started again.

    Args:
        deployment: What it serves; registered at once.
    """

    def __init__(self, deployment: RunnerDeployment) -> None:
        self._deployment = deployment
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._build()

    def _build(self) -> None:
        self._runner = Runner(name=FLOW, pause_on_shutdown=False)
        self.deployment_id = str(insist(lambda: self._runner.add_deployment(self._deployment)))

    def start(self) -> None:
        """Begins to look for nights that are due."""
        self._thread = threading.Thread(target=self._run, name="nightly", daemon=True)
        self._thread.start()

    def start_again(self) -> None:
        """The same after it has ended by itself; what a person paused meanwhile stays paused."""
        self._deployment.paused = wanted_pause(
            find_deployment(os.environ["PREFECT_API_URL"], FLOW, DEPLOYMENT)
        )
        self._build()
        self.start()

    @property
    def runs(self) -> bool:
        """Whether it looks for nights."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Ends it, and with it a night that is at work."""
        if self._thread is None or self._loop is None or not self._thread.is_alive():
            return
        if self._runner.started:
            asyncio.run_coroutine_threadsafe(self._runner.astop(), self._loop)
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._runner.start()

        try:
            asyncio.run(serve())
        except (*LOST, ExceptionGroup) as error:
            LOGGER.warning("the runner has ended: %s", error)
