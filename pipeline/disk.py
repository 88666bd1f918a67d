"""Files that are whole or not there: written beside their place and moved, linked where they are there already."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import SegtrailError

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_TEXTS = ("No space left on device", "os error 28", "database or disk is full")
MIB = 1 << 20


def temporary_path(path: Path) -> Path:
    """A name beside a path that no other process or thread takes; hidden, ends in `.tmp`."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")


def write_whole(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    temporary = temporary_path(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second name; a copy where the file system cannot, or on another one."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.ENOENT, *FULL):
            raise
        shutil.copyfile(source, target)


@contextmanager
def explain_full_disk(folder: Path, fix: str) -> Iterator[None]:
    """Makes one clear error of a write for which there was no space.

    Args:
        folder: Where is written; it need not exist.
        fix: What to do once there is space.

    Raises:
        SegtrailError: The disk, or the user's share of it, is full.
    """
    try:
        yield
    except SegtrailError:
        raise
    except Exception as error:
        if not _is_full(error):
            raise
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(there).free / MIB
        quota = getattr(error, "errno", None) == errno.EDQUOT
        kind = "user's share of the disk is used up" if quota else "disk is full"
        what = f"the {kind}: {free:.0f} MiB are free"
        where = getattr(error, "filename", None) or folder
        raise SegtrailError(what, str(where), f"make space, then {fix}") from error


def _is_full(error: Exception) -> bool:
    """Whether there was no space; libraries (safetensors, SQLite, MLflow) say so in words of their own."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(text in str(error) for text in FULL_TEXTS)
