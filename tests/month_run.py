"""Plays the nights of a month, one after the other, and looks at what is left."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from month_checks import (
    check_champion,
    check_lineage,
    check_locks,
    check_nights,
    check_remote,
    check_runs,
    table,
)
from month_nights import Night
from month_project import choose_cases
from month_schedule import Month
from webhook_server import webhook

FIRST_CASES = 40
DISK = "3g"


def play(folder: Path, shared: Path, nights: Sequence[Night]) -> str:
    """A month in a new project.

    Args:
        folder: An empty one.
        shared: Folder of the sample data.
        nights: What is done to them.

    Returns:
        The table of the nights; it is printed as well, line by line as they end.
    """
    with webhook(200) as hook, disk(folder / "disk") as place:
        month = Month(place / "project", shared, hook, choose_cases(shared))
        month.folder.mkdir()
        played: list[tuple[str, list[str]]] = []
        try:
            month.create(FIRST_CASES)
            month.serve()
            for night in nights:
                print(f"{night.title} ...", flush=True)
                records = night.play(month)
                played.append((night.title, [record["night_id"] for record in records]))
                for record in records:
                    print(f"  {record['night_id']} {record['state']}: {record['reason']}", flush=True)
            check_runs(month)
            month.stop()
            check_nights(month)
            check_locks(month)
            check_lineage(month)
            first = month.load(played[0][1][0])["decision"]["champion_after"]
            before, after = check_champion(month, first)
            check_remote(month)
        finally:
            month.close()
            if played:
                print(table(month, played), flush=True)
            keep(month, folder)
        print(f"on the test cases of the end: first champion {before:.3f}, last one {after:.3f}", flush=True)
        return table(month, played)


def keep(month: Month, folder: Path) -> None:
    """Saves what tells of the nights from the disk, which goes."""
    if (month.folder / ".segtrail/nights").is_dir():
        shutil.copytree(month.folder / ".segtrail/nights", folder / "nights")
    for log in (month.folder.parent / "schedule.log", month.folder / ".segtrail/prefect/server.log"):
        if log.is_file():
            shutil.copy(log, folder)


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A disk of its own that can be made full, where one may be mounted; else the folder."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
