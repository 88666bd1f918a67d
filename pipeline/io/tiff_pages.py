"""Pages of a TIFF file: are they the slices of one volume, and are they all there?"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from PIL import Image

from pipeline.errors import ImageFileError
from pipeline.io.stored import COPY_AGAIN

DESCRIPTION = 270  # the tag in which microscopes say what the pages are
# By version (43 is BigTIFF): how offsets and the number of a directory's entries are stored; bytes of an entry.
LAYOUTS = {42: ("I", "H", 12), 43: ("Q", "Q", 20)}
# What else than slices pages may be, as ImageJ ("channels=2") and OME (SizeC="2") write it.
OTHER_AXES = (
    ("channels", re.compile(r"^channels=(\d+)", re.MULTILINE), re.compile(r'\bSizeC="(\d+)"')),
    ("time points", re.compile(r"^frames=(\d+)", re.MULTILINE), re.compile(r'\bSizeT="(\d+)"')),
)
IMAGES = re.compile(r"^images=(\d+)", re.MULTILINE)


def count_slices(image: Image.Image, contents: bytes, path: Path) -> int:
    """Number of pages of an open picture, each of them a slice.

    Raises:
        ImageFileError: The pages are a film, channels or time points, or some of them are missing.
    """
    pages = int(getattr(image, "n_frames", 1))
    if image.format != "TIFF":
        if pages > 1:
            what = f"the file is a film of {pages} pictures, expected 1"
            raise ImageFileError("shape_invalid", what, path, "store each picture as a file of its own")
        return 1
    if pages != (linked := _count_linked(contents, path)):
        what = f"{pages} whole pages can be found, the file links {linked}"
        raise ImageFileError("truncated", what, path, COPY_AGAIN)
    described = str(getattr(image, "tag_v2", {}).get(DESCRIPTION, ""))
    _require_slices(described, path)
    promised = IMAGES.search(described) if described.startswith("ImageJ=") else None
    if promised and int(promised[1]) != pages:
        what = f"ImageJ's description promises {promised[1]} pages, the file has {pages}"
        raise ImageFileError(
            "truncated", what, path, "save the stack as TIFF again, with a directory for each page"
        )
    return pages


def _require_slices(described: str, path: Path) -> None:
    if not described.startswith(("ImageJ=", "<?xml", "<OME")):
        return
    for name, *patterns in OTHER_AXES:
        counts = [int(found[1]) for pattern in patterns if (found := pattern.search(described))]
        if max(counts, default=1) > 1:
            what = f"the pages hold {max(counts)} {name}, expected slices alone"
            raise ImageFileError("shape_invalid", what, path, f"store the {name} as files of their own")


def _count_linked(contents: bytes, path: Path) -> int:
    """Number of page directories in the chain that begins in the file's head."""
    order = "<" if contents[:2] == b"II" else ">"
    version = struct.unpack_from(order + "H", contents, 2)[0]
    offset_format, count_format, entry_bytes = LAYOUTS.get(version, LAYOUTS[42])
    place = 8 if version == 43 else 4
    seen: set[int] = set()
    try:
        while (start := struct.unpack_from(order + offset_format, contents, place)[0]) and start not in seen:
            seen.add(start)
            entries = struct.unpack_from(order + count_format, contents, start)[0]
            place = start + struct.calcsize(count_format) + entries * entry_bytes
    except struct.error as error:
        what = f"the list of pages leads beyond the end of the file ({len(contents)} bytes)"
        raise ImageFileError("truncated", what, path, COPY_AGAIN) from error
    return len(seen)
