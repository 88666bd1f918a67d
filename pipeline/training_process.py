"""What a training needs as a process: it ends with its parent, and it works alone in its folder."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import SegtrailError

WATCH_S = 0.5
PARENT = "SEGTRAIL_TRAIN_PARENT"


def end_with_parent() -> None:
    """Kills this process within a second of its parent's end, so that no training runs on unseen.

    The parent names itself in the environment: it may have ended before this line is reached. Processes that
    Lightning starts for further devices watch the first one.
    """
    named = os.environ.pop(PARENT, "")
    parent = int(named) if named else os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def hold_lock(scratch: Path, patience_s: float = 5.0) -> Any:
    """Takes the lock of a scratch folder for the life of the process.

    Args:
        scratch: The folder; created.
        patience_s: Seconds to wait for a holder that is about to end.

    Raises:
        SegtrailError: Another process holds it.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "lock"
    stream = path.open("a+")
    deadline = time.monotonic() + patience_s
    while not _try_lock(stream) and time.monotonic() < deadline:
        time.sleep(WATCH_S)
    if not _try_lock(stream):
        stream.seek(0)
        raise SegtrailError(
            f"another process (pid {stream.read().strip() or 'unknown'}) is training this model",
            str(path),
            "wait until it has finished, or end it",
        )
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream


def _try_lock(stream: TextIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
