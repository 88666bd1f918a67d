"""The lots in an incoming folder, and whether anybody still writes into them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.overlay import KEEP

REFUSED = "refused"  # folder, beside the lots, of those that were put aside
REASON = "reason.txt"
OWN_REASON = "Segtrail wrote this file; it goes when the lot comes in."  # its last line
LOOSE = "loose_files"  # name of the lot of the files that lie in no folder
CASE_FOLDERS = ("imagesTr", "labelsTr", "instancesTr")  # of the layout msd
TABLES = (
    "dataset.json",
    "patients.csv",
)  # beside cases that lie loose in the folders of msd: for all of them
JUNK = re.compile(r"\._.*|\.DS_Store|Thumbs\.db|desktop\.ini", re.IGNORECASE)  # of file managers
PARTIAL = re.compile(
    r"\.~lock\..+#|\.syncthing\.(?P<syncthing>.+)\.tmp|\.in\.(?P<sftp>.+)"
    r"|\.(?P<rsync>.+)\.[A-Za-z0-9]{6}"  # rsync writes .NAME.XXXXXX
    r"|(?P<suffixed>.+?)(\.part|\.tmp|\.temp|\.filepart|\.partial|\.crdownload|\.download|\.opdownload|\.!ut|~)",
    re.IGNORECASE,
)
CHANNEL = re.compile(r"(.+)_\d{4}")
SUFFIXES = (".nii.gz", ".nii")
Stat = tuple[int, int, int, int]  # inode, bytes, mtime and ctime in ns


@dataclass
class Lot:
    """What arrived together and comes in together.

    Attributes:
        name: Its entry in the incoming folder, or the case of files that lie loose.
        folder: That its files are relative to.
        files: That are visible, by name relative to `folder`.
        hidden: Other files, by name; they never come in.
        shared: Whether other lots lie in `folder` too.
        tables: Text files for several lots, such as `patients.csv` beside loose cases; they stay.
        links: Folders that are links, by name: what is deleted after it came in would be somebody's original.
        stats: Of its files, when it was last looked at.
    """

    name: str
    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    hidden: dict[str, Path] = field(default_factory=dict)
    shared: bool = False
    tables: dict[str, Path] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    stats: dict[Path, Stat] = field(default_factory=dict)

    @property
    def paths(self) -> list[Path]:
        """All its files."""
        return [*self.files.values(), *self.hidden.values()]

    def look(self) -> dict[Path, Stat]:
        """Inode, size and times of each file, of one that is gone nothing."""
        return {path: found for path in self.paths if (found := read_stat(path)) is not None}


def find_lots(incoming: Path, layout: str, channels: int) -> list[Lot]:
    """Lists the lots of an incoming folder, by name; nothing is opened.

    A lot is a folder that holds a file: an empty one is still to be filled, or what a kill left behind. Files that
    lie in none are one lot; in the layout msd the cases of `imagesTr` and `labelsTr` are a lot each.

    Args:
        incoming: The folder.
        layout: Of the data set.
        channels: Of its images.
    """
    lots: list[Lot] = []
    loose = Lot(LOOSE, incoming, shared=True)
    for entry in sorted(incoming.iterdir()):
        if entry.name == REFUSED or (entry.is_dir() and entry.name.startswith(".")):
            continue
        if entry.is_dir():
            if layout != "msd" or entry.name not in CASE_FOLDERS:
                lot = _list_folder(entry)
                if any(path.name != KEEP and not JUNK.fullmatch(path.name) for path in lot.paths):
                    lots.append(lot)
        elif layout == "msd" and entry.name in TABLES:
            continue
        elif entry.name.startswith("."):
            if not JUNK.fullmatch(entry.name):
                loose.hidden[entry.name] = entry
        else:
            loose.files[entry.name] = entry
    if layout == "msd":
        lots += _list_cases(incoming, channels)
    if loose.files or any(PARTIAL.fullmatch(name) for name in loose.hidden):
        lots.append(loose)
    for number, lot in enumerate(lots):  # a folder may be called like a case beside it
        if lot.name in {other.name for other in lots[:number]}:
            lot.name = f"{lot.name} ({number})"
    return sorted(lots, key=lambda lot: lot.name)


def _list_folder(folder: Path) -> Lot:
    lot = Lot(folder.name, folder, links=[folder.name] if folder.is_symlink() else [])
    for here, folders, names in os.walk(folder):
        folders.sort()
        place = Path(here).relative_to(folder)
        lot.links += [(place / name).as_posix() for name in folders if Path(here, name).is_symlink()]
        hidden = any(part.startswith(".") for part in place.parts)
        for name in sorted(names):
            if not place.parts and is_own_reason(Path(here, name)):
                continue
            group = lot.hidden if hidden or name.startswith(".") or JUNK.fullmatch(name) else lot.files
            group[(place / name).as_posix()] = Path(here, name)
        if not names and not folders and place.parts and not hidden:
            lot.files[(place / KEEP).as_posix()] = Path(here, KEEP)
    return lot


def _list_cases(incoming: Path, channels: int) -> list[Lot]:
    """Cases that lie loose in `imagesTr`, `labelsTr` and `instancesTr`; a half copy belongs to its case."""
    tables = {name: incoming / name for name in TABLES if (incoming / name).is_file()}
    found = [path for name in CASE_FOLDERS for path in _files(incoming / name)]
    labelled = {_stem(path.name) for path in found if path.parent.name != CASE_FOLDERS[0]}
    lots: dict[str, Lot] = {}
    for path in found:
        stem = _stem(path.name)
        channel = CHANNEL.fullmatch(stem)
        if path.parent.name == CASE_FOLDERS[0] and channel and stem not in labelled:
            stem = channel[1] if channels > 1 or channel[1] in labelled else stem
        lot = lots.setdefault(stem, Lot(stem, incoming, shared=True, tables=tables))
        lot.links += [path.parent.name] if path.parent.is_symlink() else []
        group = lot.hidden if path.name.startswith(".") else lot.files
        group[path.relative_to(incoming).as_posix()] = path
    return list(lots.values())


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not JUNK.fullmatch(path.name))


def _stem(name: str) -> str:
    """Of the file that a name stands for once it is whole, without the suffix of NIfTI."""
    partial = PARTIAL.fullmatch(name)
    whole = next(filter(None, partial.groupdict().values()), name) if partial else name
    return next((whole.removesuffix(suffix) for suffix in SUFFIXES if whole.endswith(suffix)), whole)


def is_own_reason(path: Path) -> bool:
    """Whether a file is the `reason.txt` of a lot that was refused, mended and moved back."""
    if path.name != REASON or not path.is_file():
        return False
    return path.read_bytes().rstrip().endswith(OWN_REASON.encode())


def read_stat(path: Path) -> Stat | None:
    """What changes when a file does; None when it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def why_waiting(lot: Lot, before: Mapping[Path, Stat], settle_s: float, now: float | None = None) -> str:
    """Why a lot cannot be whole yet; "" when it looks so.

    Args:
        lot: Its `stats` are set to what is there now.
        before: An earlier look.
        settle_s: A file that changed within so many seconds is still being copied. Counted from the time that the
            file system gives, as programs that copy set the other one back.
        now: Seconds since 1970; None = of the clock.
    """
    lot.stats = lot.look()
    if lot.links:
        return f"{lot.links[0]} is a link to a folder: put the folder itself here, or a copy"
    names = [*lot.files, *lot.hidden]
    if partial := [name for name in names if PARTIAL.fullmatch(Path(name).name)]:
        return f"{_count(partial)} still being copied: {partial[0]}"
    if not any(path.name != KEEP for path in lot.files.values()):
        return "it holds no file yet"
    changed = [path for path in {**before, **lot.stats} if before.get(path) != lot.stats.get(path)]
    if changed:
        return f"{changed[0].relative_to(lot.folder)} is growing or changing"
    if reason := _why_unreadable(lot):
        return reason
    now = time.time() if now is None else now
    young = {path: now - stat[3] / 1e9 for path, stat in lot.stats.items() if now - stat[3] / 1e9 < settle_s}
    if young:
        path, age_s = min(young.items(), key=lambda item: item[1])
        return f"{path.relative_to(lot.folder)} changed {max(age_s, 0):.0f} s ago, expected {settle_s:g} s of rest"
    return ""


def _why_unreadable(lot: Lot) -> str:
    for name, path in lot.files.items():
        try:
            with path.open("rb") as stream:
                stream.read(1)
        except OSError as error:
            if path.name != KEEP:
                return f"{name} cannot be read: {error.strerror}"
    return ""


def _count(names: list[str]) -> str:
    return "1 file is" if len(names) == 1 else f"{len(names)} files are"
