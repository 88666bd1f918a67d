"""How much an image file holds, before it is read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.io.image_names import PAIR_SUFFIXES, image_suffix, parse_hdf5_name

HEADER_BYTES = 2048
VOXEL_BYTES = 4
# Shape in the text header of a MetaImage or NRRD file.
SIZES = re.compile(rb"^(?:DimSize *=|sizes:) *((?:\d{1,6} ?){1,4}) *\r?$", re.MULTILINE)


def unpacked_bytes(paths: Sequence[Path]) -> int:
    """Bytes of image files once they are unpacked; 0 for files that cannot be read.

    Of formats that say it in a header in front (MetaImage, NRRD) these are 4 for each voxel, at least.

    Args:
        paths: Files, data sets of HDF5 files, or folders of a DICOM series each.
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
    inside = parse_hdf5_name(path)
    if inside is not None:
        from pipeline.io.hdf5 import measure_hdf5

        return measure_hdf5(path)
    if image_suffix(path) in PAIR_SUFFIXES:
        from pipeline.io.nifti_reading import halves_of

        return sum(_unpacked_file(half) for half in halves_of(path))
    return _unpacked_file(path)


def _unpacked_file(path: Path) -> int:
    packed = path.stat().st_size
    with path.open("rb") as stream:
        if packed < 18 or (start := stream.read(HEADER_BYTES))[:2] != b"\x1f\x8b":
            stated = SIZES.search(start) if packed >= 18 else None
            voxels = math.prod(map(int, stated[1].split())) if stated else 0
            return max(packed, VOXEL_BYTES * voxels)
        stream.seek(-4, 2)
        # RFC 1952: the last four bytes say the size modulo 2^32.
        return max(packed, int.from_bytes(stream.read(4), "little"))
