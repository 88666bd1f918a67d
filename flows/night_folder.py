"""The folders of nights, and a reserve of space so that a full disk can be told of."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flows.environment import STATE
from pipeline.disk import FULL

T = TypeVar("T")
NIGHTS = STATE / "nights"
RESERVE = NIGHTS / "reserve"
RESERVE_BYTES = 1 << 18  # room for the record, the audit entry and a short report of one night
NIGHT = "SEGTRAIL_NIGHT"  # variable with the id of the night that a process works for


def night_folder(night_id: str) -> Path:
    """Where everything of a night lies."""
    return NIGHTS / night_id


def night_tags(night_id: str) -> list[str]:
    """Tags of the Prefect runs of a night; a server may hold several projects."""
    return [f"night:{night_id}", f"project:{socket.gethostname()}:{Path.cwd()}"]


def free_reserve() -> None:
    """Gives the reserve up, so that what tells of a full disk finds room."""
    RESERVE.unlink(missing_ok=True)


def with_reserve(write: Callable[[], T]) -> T:
    """Calls a function; when the disk is full, once more without the reserve."""
    try:
        return write()
    except OSError as error:
        if error.errno not in FULL:
            raise
        free_reserve()
        return write()


def make_reserve() -> None:
    """Takes the reserve, unless there is no room for it either."""
    try:
        with RESERVE.open("ab") as stream:
            os.posix_fallocate(stream.fileno(), 0, RESERVE_BYTES)
    except OSError:
        free_reserve()


def make_folder(stem: str) -> str:
    """Makes the folder of a night that begins in this second; gives its name."""
    NIGHTS.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}-{number}"
        try:
            night_folder(name).mkdir()
        except FileExistsError:
            number += 1
            continue
        return name
