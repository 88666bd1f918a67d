"""NRRD: header and voxels in one `.nrrd`, or a header `.nhdr` that names the file of its voxels.

The bytes are taken apart here, so that length and checksum are compared before a voxel is believed.
Source: Teem, https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import bz2
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageFileError
from pipeline.io.nrrd_geometry import place_axes
from pipeline.io.stored import (
    COPY_AGAIN,
    Digest,
    StoredImage,
    inflate_gzip,
    read_contents,
    require_image,
    to_native,
)

MAGIC = b"NRRD000"
# The specification's names of each type; "signed" and "int" may be written or left out.
TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int")
    + ("int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
DTYPES = {name: dtype for dtype, names in TYPES.items() for name in names}
RAW, GZIPPED, BZIPPED = ("raw",), ("gzip", "gz"), ("bzip2", "bz2")
SAME_FIELD = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}  # old spellings
NEEDED = ("type", "dimension", "sizes", "encoding")


def read_nrrd(path: Path, digest: Digest | None = None) -> StoredImage:
    """Reads an image of 2 or 3 axes in space, with at most one further axis, which becomes that of the channels.

    Args:
        path: Ends in `.nrrd` or `.nhdr`.
        digest: Is given the bytes of the header file, then of the data file.

    Returns:
        (C, X, Y, Z): integers as stored, floats as float32; a 2D image has Z = 1.

    Raises:
        ImageFileError: A file is missing, the header is damaged, or the voxels are not as many bytes as it
            promises.
    """
    contents = read_contents(path, digest)
    require_image(contents, path)
    header, rest = _split(contents, path)
    sizes = _sizes(header, path)
    data_path = _data_path(header, path)
    data = rest if data_path == path else read_contents(data_path, digest)
    stored = _voxels(data, header, sizes, data_path, path)
    axes = place_axes(header, sizes, path)
    array = stored.reshape(sizes, order="F").transpose([axis for axis in axes.order if axis is not None])
    missing = tuple(index for index, axis in enumerate(axes.order) if axis is None)
    return StoredImage(to_native(np.expand_dims(array, missing)), axes.affine, remarks=axes.remarks)


def _split(contents: bytes, path: Path) -> tuple[dict[str, str], bytes]:
    """The header's fields by name, and the bytes after the empty line that ends it."""
    if not contents.startswith(MAGIC):
        what = f"the file is not NRRD (it starts with {contents[:8]!r})"
        raise ImageFileError("unreadable", what, path, "convert it to .nii.gz")
    header: dict[str, str] = {}
    start = contents.find(b"\n") + 1 or len(contents)
    while start < len(contents):
        end = contents.find(b"\n", start)
        end = len(contents) if end < 0 else end
        line = contents[start:end].decode("utf-8", "replace").strip()
        start = end + 1
        if not line:
            break
        name, separator, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):  # a remark, or a key of somebody's own
            continue
        if not separator:
            raise ImageFileError(
                "unreadable", f"the header has the line {line[:40]!r}", path, "export the file again"
            )
        name = name.strip().lower()
        header[SAME_FIELD.get(name, name)] = value.strip()
    if missing := [name for name in NEEDED if name not in header]:
        what = f"the NRRD header lacks {', '.join(missing)}"
        raise ImageFileError("unreadable", what, path, "export the file again")
    return header, contents[start:]


def _sizes(header: Mapping[str, str], path: Path) -> tuple[int, ...]:
    parts = header["sizes"].split()
    if all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        sizes = tuple(map(int, parts))
        if str(len(sizes)) == header["dimension"] and min(sizes, default=0) > 0:
            return sizes
    what = (
        f"sizes are {header['sizes'][:40]!r}, expected numbers from 1 on for {header['dimension'][:9]} axes"
    )
    raise ImageFileError("shape_invalid", what, path, "export the file again")


def _data_path(header: Mapping[str, str], path: Path) -> Path:
    name = header.get("data file")
    if name is None:
        return path
    if name.upper().startswith("LIST") or "%" in name:
        what = f"the voxels lie in several files (data file: {name}), expected one"
        raise ImageFileError("unreadable", what, path, "convert it to .nii.gz")
    data_path = path.parent / name
    try:
        there = bool(name) and data_path.is_file()
    except OSError:  # no file can have such a name
        there = False
    if not there:
        raise ImageFileError(
            "missing", f"its data file {name!r} is missing", path, f"put it beside {path.name}"
        )
    return data_path


def _voxels(
    data: bytes, header: Mapping[str, str], sizes: tuple[int, ...], data_path: Path, path: Path
) -> NDArray[Any]:
    """All voxels in the order of the file."""
    kind, endian = header["type"].lower(), header.get("endian", "").lower()
    if kind not in DTYPES:
        what = f"the voxels are of type {kind!r}, expected whole numbers or floats"
        raise ImageFileError("unreadable", what, path, "convert it to .nii.gz")
    dtype = np.dtype(DTYPES[kind])
    if dtype.itemsize > 1 and endian not in ("little", "big"):
        what = f"endian is {endian!r}, expected little or big"
        raise ImageFileError("unreadable", what, path, "export the file again")
    needed = math.prod(sizes) * dtype.itemsize
    data = _unpack(data, header, needed, data_path, path)
    if len(data) != needed:
        code = "truncated" if len(data) < needed else "corrupt"
        what = f"there are {len(data)} bytes of voxels, the header promises {needed}"
        raise ImageFileError(code, what, data_path, COPY_AGAIN)
    return np.frombuffer(data, dtype.newbyteorder(">" if endian == "big" else "<"))


def _unpack(data: bytes, header: Mapping[str, str], needed: int, data_path: Path, path: Path) -> bytes:
    encoding = header["encoding"].lower()
    lines, skipped = header.get("line skip", "0"), header.get("byte skip", "0")
    if not lines.isdigit() or not (skipped.isdigit() or (skipped == "-1" and encoding in RAW)):
        what = f"line skip is {lines[:9]!r}, byte skip {skipped[:9]!r}, expected numbers"
        raise ImageFileError("unreadable", what, path, "export the file again")
    for _ in range(min(int(lines), len(data))):
        data = data[data.find(b"\n") + 1 or len(data) :]
    if encoding in GZIPPED:
        if data[:2] != b"\x1f\x8b":
            what = f"the voxels are no gzip stream (they start with {data[:4]!r})"
            raise ImageFileError("corrupt" if data else "truncated", what, data_path, COPY_AGAIN)
        data = inflate_gzip(data, data_path)
    elif encoding in BZIPPED:
        data = _inflate_bzip2(data, data_path)
    elif encoding not in RAW:
        what = f"the voxels are stored as {encoding!r}, expected raw, gzip or bzip2"
        raise ImageFileError("unreadable", what, path, "convert it to .nii.gz")
    # -1: the voxels are the last bytes of the file
    return data[max(len(data) - needed, 0) :] if skipped == "-1" else data[int(skipped) :]


def _inflate_bzip2(data: bytes, path: Path) -> bytes:
    try:
        return bz2.decompress(data)  # its checksums are compared
    except ValueError as error:
        raise ImageFileError("truncated", "the compressed voxels are cut off", path, COPY_AGAIN) from error
    except OSError as error:
        what = f"the compressed voxels are damaged: {error}"
        raise ImageFileError("corrupt", what, path, COPY_AGAIN) from error
