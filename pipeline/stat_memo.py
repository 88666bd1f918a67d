"""What files hold, without reading again what nobody has touched.

A sha256 is believed while size, time of the last change and inode of each file are the same; this is what DVC and
Git go by. After a restart of the machine all files are read once more: a power failure can tear a file whose write
had ended.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.disk import write_whole

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TICK_NS = 20_000_000  # the clock of file systems: a second change within a tick leaves the time as it was
MISSING, UNREADABLE = "missing", "unreadable"


class StatMemo:
    """sha256 of named groups of files; threads share it.

    Args:
        path: JSON file that it is kept in. When it is lost or damaged everything is read again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._boot = _boot_id()
        self._entries: dict[str, tuple[str, str]] = {}
        self._asked: dict[str, tuple[str, str]] = {}
        self._changed = False
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if self._boot and stored["boot"] == self._boot:
                self._entries = {name: (stat, sha256) for name, (stat, sha256) in stored["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._changed = True

    def recall(self, name: str, files: Sequence[Path]) -> str | None:
        """The sha256 of `digest` if it is known without reading a file."""
        if name in self._asked:
            return self._asked[name][1]
        stat, sha256 = self._entries.get(name, ("", ""))
        if not stat or stat != signature(files):
            return None
        self._asked[name] = (stat, sha256)
        return sha256

    def digest(self, name: str, files: Sequence[Path]) -> str:
        """The sha256 of a group of files: of their bytes, and of their names when there are several.

        Asked for a name again, it gives the same answer as long as the object lives.

        Args:
            name: Of the group.
            files: In a fixed order; one may be missing, which counts too.
        """
        if (known := self.recall(name, files)) is not None:
            return known
        before, now = signature(files), time.time_ns()
        hashes = [hash_file(path) for path in files]
        sha256 = _join(files, hashes)
        # What is being written now may change again without a trace in its time.
        if UNREADABLE not in hashes and before == signature(files) and _last_change(files) < now - TICK_NS:
            self._entries[name] = (before, sha256)
            self._changed = True
        self._asked[name] = (before, sha256)
        return sha256

    def still_holds(self, name: str, files: Sequence[Path]) -> bool:
        """Whether nobody has touched a group since its sha256 was asked for."""
        return name in self._asked and self._asked[name][0] == signature(files)

    def note(self, path: Path, sha256: str) -> None:
        """Takes the sha256 of a file that this process has just written."""
        self._entries[str(path)] = self._asked[str(path)] = (signature([path]), sha256)
        self._changed = True

    def keep_only(self, names: Collection[str]) -> None:
        """Forgets all other groups."""
        for name in self._entries.keys() - set(names):
            del self._entries[name]
            self._changed = True

    def save(self) -> None:
        """Writes the memo, whole or not at all, when it has changed."""
        if not self._changed:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"boot": self._boot, "files": self._entries}
        write_whole(self.path, json.dumps(content, separators=(",", ":")))
        self._changed = False


def signature(files: Sequence[Path]) -> str:
    """Size, time of the last change and inode of each file, as a short text."""
    parts = []
    for path in files:
        try:
            found = path.stat()
            parts.append(f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}")
        except (FileNotFoundError, NotADirectoryError):
            parts.append(MISSING)
        except (OSError, ValueError):  # a name that none can have, links in a circle, a closed folder
            parts.append(UNREADABLE)
    return _join(files, parts)


def _join(files: Sequence[Path], texts: Sequence[str]) -> str:
    """One text for a group: the file's own when it is one, otherwise a digest of names and texts."""
    if len(texts) == 1:
        return texts[0]
    named = "\0".join(f"{path}:{text}" for path, text in zip(files, texts, strict=True))
    return hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of a file, or why there is none: a set is not stopped by one file, whose case will say so."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except (OSError, ValueError):
        return UNREADABLE


def _last_change(files: Sequence[Path]) -> int:
    times = []
    for path in files:
        with suppress(OSError, ValueError):
            times.append(path.stat().st_mtime_ns)
    return max(times, default=0)


def _boot_id() -> str:
    """Of this start of the machine; "" where it is not known, and nothing is believed from one run to the next."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
