"""A lock file that says who holds it, and whether a process still lives."""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

import psutil

from pipeline.errors import SegtrailError
from pipeline.progress import format_seconds

BUSY_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later
POLL_S = 0.5
REPORT_EVERY_S = 30.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        pid: Its process.
        host: Name of its machine.
        started: Local time with offset, ISO 8601, when it took the lock.
        command: What it was asked to do.
    """

    pid: int
    host: str
    started: str
    command: str

    def describe(self) -> str:
        """One line for a person."""
        try:
            age = time.time() - datetime.fromisoformat(self.started).timestamp()
            since = f"since {self.started[:19].replace('T', ' ')} ({format_seconds(max(age, 0))})"
        except ValueError:
            since = f"since {self.started}"
        where = "" if self.host == socket.gethostname() else f" on {self.host}"
        ended = ", which has ended: what it started still runs" if self.has_ended() else ""
        return f"process {self.pid}{where} ({self.command}) {since}{ended}"

    def has_ended(self) -> bool:
        """Whether its process is gone; False when it belongs to another machine."""
        return self.host == socket.gethostname() and not is_alive(self.pid)


class LockBusyError(SegtrailError):
    """Somebody else holds the lock and the caller did not want to wait."""

    def __init__(self, path: Path, holder: Holder | None) -> None:
        ends = "" if holder is None or holder.has_ended() else f"; kill {holder.pid} ends the other one"
        super().__init__(
            f"the lock is held by {_describe(holder)}", str(path), f"wait for it (leave out --no-wait){ends}"
        )
        self.holder = holder


@contextmanager
def hold(
    path: Path, command: str, wait: bool = True, say: Callable[[str], None] = lambda line: None
) -> Iterator[int]:
    """Holds an exclusive lock while the block runs.

    The kernel frees it when the holder ends, however it ends. A child that inherits the file descriptor keeps
    it held until it has ended too.

    Args:
        path: Lock file; created, never deleted (deleting it would let two processes lock different files).
        command: What is going on, for the message of the one who waits.
        wait: Whether to wait; a line is said at once and then every 30 s.
        say: Receives those lines.

    Yields:
        The file descriptor that carries the lock.

    Raises:
        LockBusyError: The lock is held and `wait` is False.
        SegtrailError: The file cannot be locked at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        _acquire(stream, path, wait, say)
        _write(stream, Holder(os.getpid(), socket.gethostname(), _now(), command))
        try:
            yield stream.fileno()
        finally:
            stream.truncate(0)


def find_holder(path: Path) -> Holder | None:
    """Who holds the lock, None when it is free (or was never taken)."""
    try:
        with path.open("r+", encoding="utf-8") as stream:
            if _try_lock(stream, path):
                return None
            return _read(path) or Holder(0, socket.gethostname(), "an unknown time", "it has not said what")
    except FileNotFoundError:
        return None


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not just waiting to be collected by its parent."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return False
    except psutil.AccessDenied:
        return True


def _acquire(stream: IO[str], path: Path, wait: bool, say: Callable[[str], None]) -> None:
    reported = -math.inf
    while not _try_lock(stream, path):
        holder = _read(path)
        if not wait:
            raise LockBusyError(path, holder)
        if time.monotonic() - reported >= REPORT_EVERY_S:
            say(f"waiting for {_describe(holder)}")
            reported = time.monotonic()
        time.sleep(POLL_S)


def _try_lock(stream: IO[str], path: Path) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise SegtrailError(
            f"the file system cannot lock files: {error}", str(path), "keep the project on a local disk"
        ) from error
    return True


def _write(stream: IO[str], holder: Holder) -> None:
    stream.truncate(0)
    stream.write(json.dumps(asdict(holder)) + "\n")
    stream.flush()


def _read(path: Path) -> Holder | None:
    """None while the holder has not written its name yet."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, FileNotFoundError):
        return None


def _describe(holder: Holder | None) -> str:
    return "another process" if holder is None else holder.describe()


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
