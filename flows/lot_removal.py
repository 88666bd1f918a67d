"""What leaves an incoming folder: files that are safe in the data set, and lots that are put aside."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from flows.lots import JUNK, OWN_REASON, REASON, REFUSED, Lot, is_own_reason, read_stat
from pipeline.disk import write_whole

LOGGER = logging.getLogger("segtrail")
JOURNAL = ".moving.json"


def remove_files(lot: Lot, paths: Iterable[Path]) -> None:
    """Deletes files that are safe in the data set, and folders that are empty then.

    A file that has changed since the lot was looked at stays, and is told.
    """
    for path in paths:
        if not path.exists():
            continue
        if read_stat(path) != lot.stats.get(path):
            LOGGER.warning("%s changed while it came in; it stays, and is looked at next time", path)
            continue
        path.unlink()
    _prune(lot)


def put_aside(incoming: Path, lot: Lot, paths: Mapping[Path, str], reason: str) -> None:
    """Moves files to `refused/<lot>/`, with a `reason.txt`; one that is killed is finished by `finish_moves`.

    Args:
        incoming: The incoming folder.
        lot: Whose files they are.
        paths: Files, and their names in that folder.
        reason: For a person.
    """
    folder, number = incoming / REFUSED / lot.name, 1
    while folder.is_dir() and any(folder.iterdir()):
        number += 1
        folder = incoming / REFUSED / f"{lot.name}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    moves = {
        path.relative_to(incoming).as_posix(): f"lot_{name}" if name == REASON else name
        for path, name in paths.items()
    }
    # The journal holds everything, so that from here on a kill loses neither the rest of the files nor the reason.
    write_whole(folder / JOURNAL, json.dumps({"moves": moves, "reason": reason}))
    _move(incoming, folder)
    _prune(lot)


def finish_moves(incoming: Path) -> None:
    """Finishes what a killed `put_aside` has begun."""
    for journal in sorted((incoming / REFUSED).glob(f"*/{JOURNAL}")):
        _move(incoming, journal.parent)


def _move(incoming: Path, folder: Path) -> None:
    told = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
    write_whole(folder / REASON, f"{told['reason'].rstrip()}\n\n{OWN_REASON}\n")
    for source, name in told["moves"].items():
        if (incoming / source).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (incoming / source).rename(folder / name)
    (folder / JOURNAL).unlink()


def _prune(lot: Lot) -> None:
    """Removes the lot's own folder where nothing but a file manager's files is left; of loose files none."""
    if lot.shared or not lot.folder.is_dir():
        return
    folders = [path for path in lot.folder.rglob("*") if path.is_dir()]
    for folder in (*sorted(folders, key=lambda path: len(path.parts), reverse=True), lot.folder):
        entries = list(folder.iterdir())
        if all((JUNK.fullmatch(e.name) and e.is_file()) or is_own_reason(e) for e in entries):
            for entry in entries:
                entry.unlink()
            folder.rmdir()
