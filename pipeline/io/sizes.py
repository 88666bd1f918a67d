"""How much an image file holds, before it is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def unpacked_bytes(paths: Sequence[Path]) -> int:
    """Bytes of image files once a gzip stream around them is undone; 0 for files that cannot be read.

    Args:
        paths: Files, or folders of a DICOM series each.
    """
    return sum(_unpacked(path) for path in paths)


def _unpacked(path: Path) -> int:
    try:
        return _measured(path)
    except OSError:
        return 0  # whoever reads it says what is wrong


def _measured(path: Path) -> int:
    if path.is_dir():
        return sum(part.stat().st_size for part in path.iterdir() if part.is_file())
    packed = path.stat().st_size
    with path.open("rb") as stream:
        if packed < 18 or stream.read(2) != b"\x1f\x8b":
            return packed
        stream.seek(-4, 2)
        # RFC 1952: the last four bytes say the size modulo 2^32.
        return max(packed, int.from_bytes(stream.read(4), "little"))
