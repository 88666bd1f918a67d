"""What a header says though its voxels cannot be read: numbers for a person who looks for what went wrong."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from pipeline.io.case_files import list_files
from pipeline.io.image_names import file_of

START = 1 << 16  # packed bytes that hold a header for certain


def count_bytes(path: Path) -> int:
    """Size of a file, of all files of a folder, or of a series in it; -1 when it is missing."""
    place = file_of(path)
    try:
        if place.is_dir():
            return sum(p.stat().st_size for p in list_files(str(path)))
        return place.stat().st_size
    except (OSError, ValueError):
        return -1


def read_header_facts(path: Path) -> tuple[tuple[str, str], ...]:
    """Names and values of a NIfTI header, as far as it is there; empty for every other format.

    Numbers only: no text of a header, which may name a person.
    """
    try:
        with file_of(path).open("rb") as stream:
            raw = stream.read(START)
        if raw[:2] == b"\x1f\x8b":
            raw = zlib.decompressobj(31).decompress(raw, START)
    except (OSError, zlib.error):
        return ()
    if raw[344:348] not in (b"n+1\0", b"ni1\0"):
        return ()
    try:
        header = nibabel.Nifti1Header(raw[:348], check=False)  # type: ignore[no-untyped-call]
        size = int(header["bitpix"]) // 8
        axes = [int(n) for n in header["dim"][1 : 1 + max(0, min(int(header["dim"][0]), 7))]]
        needed = int(header["vox_offset"]) + int(np.prod(axes, dtype=np.int64)) * size
        zooms = [f"{float(v):.6g}" for v in header["pixdim"][1:4]]
        return (
            ("shape in the header", " x ".join(map(str, axes))),
            ("voxel size in the header", " x ".join(zooms)),
            ("bits a voxel", str(int(header["bitpix"]))),
            ("bytes the header promises, unpacked", str(needed)),
            ("sform code, qform code", f"{int(header['sform_code'])}, {int(header['qform_code'])}"),
        )
    except (HeaderDataError, ValueError, OverflowError):
        return ()
