"""Memory that a CPU network frees is kept for its next layer, not handed back to the system."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
LARGEST_KEPT = 256 << 20  # bytes; larger blocks, such as volumes, come from the system and go back to it
MOST_KEPT = 1 << 30  # bytes of freed memory


def keep_freed_memory() -> bool:
    """Lets blocks of up to 256 MiB be reused within this process.

    glibc maps every block above 32 MiB anew and unmaps it when it is freed, so each layer of a network waits
    for the system to clear its pages: a third of the time of a forward pass (docs/explanation/inference.md).

    Returns:
        Whether this system's C library can.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    wanted = ((MMAP_THRESHOLD, LARGEST_KEPT), (TRIM_THRESHOLD, MOST_KEPT), (ARENA_MAX, 1))
    # One arena: those of threads hold no large blocks.
    return bool(sum(library.mallopt(key, value) for key, value in wanted) == len(wanted))
