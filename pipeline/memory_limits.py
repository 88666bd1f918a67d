"""How much main memory there is for this process: the machine's, or what its container or batch job may use.

Linux tells both through files; control groups of version 2 and 1 are read. Swap does not count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
# Limit, use and statistics of a group, in version 2 and version 1.
FILES = (
    ("", "memory.max", "memory.current", "memory.stat"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
)


@dataclass(frozen=True)
class _Group:
    """A control group with a limit: bytes it may use, uses, and could give back."""

    limit: int
    used: int
    reclaimable: int


def limit_bytes(cgroups: Path = CGROUPS, proc: Path = PROC) -> int:
    """Most bytes that this process may ever hold: the machine's memory, or the smallest limit above it.

    Args:
        cgroups: Where control groups are mounted.
        proc: Where the kernel tells of processes.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(group.limit for group in _groups(cgroups, proc))])


def free_bytes(cgroups: Path = CGROUPS, proc: Path = PROC) -> int:
    """Bytes that are free now, on the machine and below each limit; files that were read count as free."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", (proc / "meminfo").read_text(), re.M)
    except OSError:
        found = None
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    free = int(found[1]) * 1024 if found else available
    return max(0, min([free, *(g.limit - g.used + g.reclaimable for g in _groups(cgroups, proc))]))


def _groups(cgroups: Path, proc: Path) -> Iterator[_Group]:
    """The groups of this process that have a limit, with all groups above them."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for (mount, *names), controller in zip(FILES, ("", "memory"), strict=True):
        paths = [p for _, c, p in (line.split(":", 2) for line in lines) if controller in c.split(",")]
        for path in paths:
            inside = Path(path.lstrip("/"))
            for folder in (inside, *inside.parents):
                if group := _read(cgroups / mount / folder, *names):
                    yield group


def _read(folder: Path, limit: str, used: str, statistics: str) -> _Group | None:
    try:
        most, now = (int((folder / name).read_text()) for name in (limit, used))
        found = re.search(r"^(?:total_)?inactive_file (\d+)$", (folder / statistics).read_text(), re.M)
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return None
    return _Group(most, now, int(found[1]) if found else 0)
