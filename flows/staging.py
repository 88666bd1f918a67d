"""A new tree of raw files is built beside the old one and takes its place, or nothing changes.

Files are copied (as clones where the file system has them), never hard-linked to the user's own: DVC makes its
files read-only and would take the user's along, and an edit of his would silently spoil DVC's cache.
"""

from __future__ import annotations

import fcntl
import filecmp
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flows.fetch import ByteProgress
from flows.overlay import KEEP, list_files
from pipeline.errors import SegtrailError

FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file until one of the two is written
CHUNK_BYTES = 1 << 20


@dataclass
class Change:
    """What a new tree changes in the one before; paths relative to the tree."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    same: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def __str__(self) -> str:
        numbers = f"{len(self.added)} added, {len(self.changed)} changed, {len(self.removed)} removed"
        return f"{numbers}, {self.same} as before"


class Filter(Protocol):
    """What stands between the user's files and the tree.

    Attributes:
        files: Those that come in, by the name they get.
    """

    files: Mapping[str, Path]

    def contents(self, path: Path) -> bytes | None:
        """What a file shall hold; None where it comes in as it is."""


def build_tree(source: Path, target: Path, staging: Path, door: Filter | None = None) -> Change:
    """Builds at `staging` what shall stand at `target`.

    Unchanged files are linked from the old tree, so DVC need not hash them again.

    Args:
        source: Folder of the user; only read.
        target: The tree before, which may be missing; only read.
        staging: Made anew.
        door: Chooses, renames and changes files; None takes all of them as they are.

    Raises:
        SegtrailError: The source cannot be read, or the disk is full.
    """
    files = list_files(source) if door is None else door.files
    old = list_files(target) if target.is_dir() and not target.is_symlink() else {}
    change = Change(removed=sorted(old.keys() - files.keys()))
    shutil.rmtree(staging, ignore_errors=True)
    try:
        progress = ByteProgress("compare and copy" if old else "copy", sum(map(_size, files.values())))
        for name, path in files.items():
            copy = staging / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            contents = None if door is None else door.contents(path)
            if name in old and _is_same(path, old[name], contents):
                change.same += 1
                _link(old[name], copy)
            else:
                (change.changed if name in old else change.added).append(name)
                _copy(path, copy) if contents is None else copy.write_bytes(contents)
            progress.add(copy.stat().st_size)
    except OSError as error:
        raise SegtrailError(
            f"the data cannot be copied: {error}", str(source), "free space or mend the file, then repeat"
        ) from error
    return change


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_same(first: Path, second: Path, contents: bytes | None) -> bool:
    """Whether two files hold the same bytes; `contents` stand for those of the first."""
    if contents is not None:
        return second.read_bytes() == contents
    if first.name == KEEP:
        return second.exists()
    return first.samefile(second) or filecmp.cmp(first, second, shallow=False)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # file systems without hard links
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    if source.name == KEEP:
        target.touch()
        return
    with source.open("rb") as reader, target.open("wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
        except OSError:  # most file systems have no clones
            shutil.copyfileobj(reader, writer, CHUNK_BYTES)


def swap_in(staging: Path, target: Path) -> None:
    """Puts the new tree in the place of the old one; only inside `restored_on_failure`."""
    if _is_there(target):
        target.rename(_undo(target) / "data")
    staging.rename(target)


@contextmanager
def restored_on_failure(target: Path, params: Path) -> Iterator[None]:
    """Takes back what the block did to a tree, its DVC record and the params when it does not end well.

    Args:
        target: The tree, `data/raw/<name>`.
        params: The file `params.yaml`.
    """
    text = params.read_bytes()
    undo, draft = _undo(target), target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for path in _records(target):
        if path.exists():
            shutil.copy2(path, draft / f"{path.name}.kept")  # another suffix: DVC reads every *.dvc it finds
    if _is_there(target):
        (draft / "existed").touch()
    draft.rename(undo)  # from here on a kill is mended by the next call's `recover`
    with ExitStack() as stack:
        stack.callback(recover, target)
        stack.callback(replace_bytes, params, text)
        yield
        undo.rename(draft)  # the change is whole
        stack.pop_all()
    shutil.rmtree(draft)


def recover(target: Path) -> None:
    """Takes an unfinished change of a tree back, this process's own or that of a killed one."""
    undo = _undo(target)
    if not undo.exists():
        return
    kept = undo / "data"
    if _is_there(kept) or not (undo / "existed").exists():
        _remove(target)
        if _is_there(kept):
            kept.rename(target)
    for path in _records(target):
        saved = undo / f"{path.name}.kept"
        if saved.exists():
            shutil.copy2(saved, path)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree(undo)


def is_known(target: Path) -> bool:
    """Whether a tree is there, or one that `recover` may bring back."""
    return target.is_dir() or _undo(target).exists()


def replace_bytes(path: Path, content: bytes) -> None:
    """Replaces a file in one step; one that holds the content already is not touched."""
    if path.read_bytes() == content:
        return
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)


def _undo(target: Path) -> Path:
    """Folder that holds what is needed to take an unfinished change back."""
    return target.with_name(f".{target.name}.undo")


def _records(target: Path) -> tuple[Path, Path]:
    """What `dvc add` writes beside a tree."""
    return target.with_name(f"{target.name}.dvc"), target.with_name(".gitignore")


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
