"""DVC's file of who reads and writes what, which DVC cannot read any more when it was killed while writing it."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

RWLOCK = Path(".dvc/tmp/rwlock")


def is_damaged(path: Path = RWLOCK) -> bool:
    """Whether the file is there and no JSON, so that every DVC command would stop at it."""
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def remove_damaged(path: Path = RWLOCK) -> bool:
    """Removes the file when a kill in the middle of a write has damaged it; DVC makes a new one.

    Nothing is lost: whoever stands in it as the owner of something has been killed, or writes itself in anew. A DVC
    command that is writing it at this moment holds DVC's own lock of the file and is waited for.

    Returns:
        Whether it was damaged.
    """
    if not is_damaged(path):
        return False
    with path.with_name(f"{path.name}.lock").open("a+b") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        damaged = is_damaged(path)
        if damaged:
            path.unlink()
        return damaged
