"""Worker processes: a call runs outside this process, and a death is seen, named and mended once.

A worker is `python -m pipeline.workers MODULE:FUNCTION FD`: it knows only the function's module, not that of the
caller, and ends when its caller does.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from typing import Any

from pipeline.errors import SegtrailError

LOGGER = logging.getLogger("segtrail")
WATCH_S = 0.5
FIX = "close other programs, use a machine with more memory, or set SEGTRAIL_WORKERS=1"


class WorkerDiedError(Exception):
    """A worker ended without an answer.

    Args:
        code: Exit code as `subprocess` has it: negative is a signal.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        if self.code >= 0:
            return f"exit code {self.code} (its message stands above)"
        name = signal.Signals(-self.code).name
        by_whom = " (kill -9, or the kernel when memory ran out)" if self.code == -signal.SIGKILL else ""
        return f"signal {name}{by_whom}"


class Worker:
    """One process that answers calls, one after the other.

    Args:
        function: "module:function"; arguments and result are values of JSON.
        threads: Of OpenMP and PyTorch inside.
    """

    def __init__(self, function: str, threads: int) -> None:
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.workers", function, str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        theirs.close()

    def call(self, arguments: tuple[Any, ...]) -> Any:
        """Calls the function there.

        Raises:
            WorkerDiedError: The process ended before it answered; also by any other error, which it has printed.
            SegtrailError: As the function raised it.
        """
        try:
            self.connection.send_bytes(json.dumps(arguments).encode())
            error, result = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            raise WorkerDiedError(self.process.wait()) from None
        if error is not None:
            raise SegtrailError(*error)
        return result

    def close(self) -> None:
        """Ends the process, also in the middle of a call."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


class WorkerPool:
    """Calls a function in worker processes, at most so many at once; threads share it.

    A call whose worker died is made once more with no other beside it, and from then on half as many run at
    once. Workers are started when they are needed, and kept.

    Args:
        function: As for `Worker`.
        workers: At most so many processes.
    """

    def __init__(self, function: str, workers: int) -> None:
        self.function = function
        self.limit = workers
        self.threads = max(1, (os.cpu_count() or 1) // workers)
        self._idle: list[Worker] = []
        self._all: list[Worker] = []
        self._running = 0
        self._alone = 0  # calls that want to be the only one
        self._change = threading.Condition()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._all:
            worker.close()

    def run(self, where: str, fix: str, *arguments: Any) -> Any:
        """Calls the function in a worker.

        Args:
            where: What the call is about, for the error.
            fix: What makes such a call smaller, for the error.
            *arguments: Of the function.

        Raises:
            SegtrailError: The worker died twice; or as the function raised it.
        """
        try:
            return self._call(arguments, alone=False)
        except WorkerDiedError as death:
            with self._change:
                self.limit = max(1, self.limit // 2)
            LOGGER.warning(
                "%s: the worker process died of %s; once more, alone, then with %d worker(s)",
                where, death, self.limit,
            )  # fmt: skip
        try:
            return self._call(arguments, alone=True)
        except WorkerDiedError as death:
            raise SegtrailError(
                f"the worker process died twice, the second time alone: {death}", where, f"{FIX}, or {fix}"
            ) from None

    def _call(self, arguments: tuple[Any, ...], alone: bool) -> Any:
        with self._turn(alone):
            with self._change:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                worker = Worker(self.function, self.threads)
                self._all.append(worker)
            try:
                return worker.call(arguments)
            finally:
                if worker.process.poll() is None:
                    self._idle.append(worker)

    @contextmanager
    def _turn(self, alone: bool) -> Iterator[None]:
        with self._change:
            self._alone += alone
            self._change.wait_for(
                lambda: self._running == 0 if alone else not self._alone and self._running < self.limit
            )
            self._running += 1
        try:
            yield
        finally:
            with self._change:
                self._running -= 1
                self._alone -= alone
                self._change.notify_all()


def _serve(function: str, connection: Connection) -> None:
    """Answers calls until the caller closes its end."""
    module, _, name = function.partition(":")
    work = getattr(importlib.import_module(module), name)
    while True:
        try:
            arguments = json.loads(connection.recv_bytes())
        except EOFError:
            return
        answer: tuple[Any, Any]
        try:
            answer = None, work(*arguments)
        except SegtrailError as error:
            answer = (error.what, error.where, error.fix), None
        connection.send_bytes(json.dumps(answer).encode())


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the caller, who ends this process
    threading.Thread(target=_end_with, args=(int(sys.argv[3]),), daemon=True).start()
    _serve(sys.argv[1], Connection(int(sys.argv[2])))
