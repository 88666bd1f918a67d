"""Folders of links: what a tree of raw files would hold, without a copy of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import SegtrailError, collect

KEEP = ".keep"  # put into empty folders, which DVC would forget: they may mean something (an image without masks)


def list_files(folder: Path) -> dict[str, Path]:
    """All files by relative path; links are followed, hidden files and folders left out.

    A folder that holds nothing else has a file `.keep`, which need not exist.

    Raises:
        SegtrailError: Links that lead nowhere or in a circle, things that are no files; all are listed.
    """
    files: dict[str, Path] = {}
    errors = []
    for path, folders, names in os.walk(folder, followlinks=True):
        here = Path(path)
        if here.is_symlink() and here.resolve() in (above.resolve() for above in here.parents):
            errors.append(SegtrailError("the link leads to a folder above it", path, "remove the link"))
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = [here / name for name in sorted(names) if not name.startswith(".")]
        if not visible and not folders and here != folder:
            files[(here / KEEP).relative_to(folder).as_posix()] = here / KEEP
        for file in visible:
            if file.is_file():
                files[file.relative_to(folder).as_posix()] = file
            else:
                errors.append(
                    SegtrailError("not a file, or a link to nothing", str(file), "remove or mend it")
                )
    if errors:
        raise collect(errors)
    return files


@contextmanager
def overlaid(source: Path, also: Sequence[Path], folder: Path) -> Iterator[Path]:
    """A folder with what `source` holds, and with files that stand beside it or in the place of its own.

    Args:
        source: Only read.
        also: Files; without any, `source` itself is given.
        folder: Where links are made meanwhile.
    """
    if not also:
        yield source
        return
    whole = folder / source.resolve().name
    shutil.rmtree(folder, ignore_errors=True)
    whole.mkdir(parents=True)
    try:
        entries = {path.name: path for path in (*source.iterdir(), *also)}
        for name, path in entries.items():
            (whole / name).symlink_to(path.resolve())
        yield whole
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_tree(source: Path, folder: Path) -> None:
    """Makes a folder of links to every file of another one; hidden files are left out."""
    for name, path in list_files(source).items():
        place_file(path, folder / name)


def place_file(source: Path, link: Path) -> None:
    """Links a file into a folder of links; the `.keep` of an empty folder, which need not exist, is made."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if source.exists():
        link.symlink_to(source.resolve())
    else:
        link.touch()


def clear_place(path: Path) -> Path:
    """Takes a link away, so that a file may be written in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path
