"""Free text in NIfTI headers, where converters write names, dates and paths: it is blanked, voxels stay as they are."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

FIELDS = ("descrip", "aux_file", "intent_name", "db_name")
# Versions of FSL, and the word that MSD writes: they name nobody, and public files stay as they are.
HARMLESS = re.compile(rb"none|\d\.\d{1,2}(\.\d{1,2}){0,2}(:[0-9a-f]{8})?")
HEADER_FILES = (".hdr", ".hdr.gz")  # their voxels lie in another file
SUFFIXES = (".nii", ".nii.gz", *HEADER_FILES)
ORDERS: tuple[tuple[Literal["little", "big"], Literal["<", ">"]], ...] = (("little", "<"), ("big", ">"))
GZIP_MARK, GZIP_NAME = b"\x1f\x8b", 8  # of a gzip member; the bit that says that a file name follows
LONGEST_HEADER = 1 << 20  # header and extensions that are looked at
LEVEL = 6


def blank_header_text(path: Path, name: str = "") -> bytes | None:
    """Contents of a NIfTI file without the text of its header, its extensions and its gzip name.

    Args:
        path: The file.
        name: That it shall have; "" = its own. A gzip frame may hold no other.

    Returns:
        The file's new bytes; None where nothing needs a change, or the file cannot be read (`inspect` says why).
    """
    if not path.name.lower().endswith(SUFFIXES):
        return None
    try:
        packed = path.name.lower().endswith(".gz")
        with gzip.open(path) if packed else path.open("rb") as stream:
            start = stream.read(LONGEST_HEADER)
        header, changed = _blank(start, path.name.lower().endswith(HEADER_FILES))
        if not changed and not (packed and _names_another_file(path, name or path.name)):
            return None
        contents = path.read_bytes()
        if not packed:
            return header + contents[len(header) :]
        return gzip.compress(header + gzip.decompress(contents)[len(header) :], LEVEL, mtime=0)
    except (OSError, EOFError, zlib.error, ValueError):
        return None


def _blank(start: bytes, alone: bool) -> tuple[bytes, bool]:
    """The header and its extensions, blanked, and whether anything was there; `alone`: no voxels follow."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    for kind in (Nifti1Header, Nifti2Header):
        size = kind.template_dtype.itemsize
        order = {kind.sizeof_hdr.to_bytes(4, name): sign for name, sign in ORDERS}.get(start[:4])
        if order is not None and len(start) >= size:
            break
    else:
        raise ValueError("no NIfTI header")
    header, changed = bytearray(start[:size]), False
    fields = dict(kind.template_dtype.fields or {})
    for name in (name for name in FIELDS if name in fields):
        dtype, offset = fields[name][:2]
        text = bytes(header[offset : offset + dtype.itemsize])
        if text.strip(b"\0 ") and not HARMLESS.fullmatch(text.rstrip(b"\0 ")):
            header[offset : offset + dtype.itemsize] = bytes(dtype.itemsize)
            changed = True
    _, at = fields["vox_offset"][:2]
    offset = int(np.frombuffer(header, fields["vox_offset"][0].newbyteorder(order), 1, at)[0])
    extensions = start[size:] if alone else start[size : max(offset, size)]
    return bytes(header) + bytes(len(extensions)), changed or any(extensions)


def _names_another_file(path: Path, name: str) -> bool:
    """Whether a gzip file holds the name of another file than this one."""
    with path.open("rb") as stream:
        start = stream.read(1 << 12)
    if start[:2] != GZIP_MARK or not start[3] & GZIP_NAME or start[3] & 4:
        return False
    stored = start[10:].split(b"\0", 1)[0].decode("latin-1")
    return Path(stored).name.removesuffix(".gz") != Path(name).name.removesuffix(".gz")
