"""MetaImage: a header `.mhd` beside its `.raw` or `.zraw`, or both in one `.mha`.

The bytes are taken apart here, because ITK's reader returns wrong voxels without an error for a damaged
compressed file. World coordinates are LPS+ in the file, RAS+ in the affine.
Source: MetaIO, https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageFileError
from pipeline.io.stored import (
    COPY_AGAIN,
    Digest,
    StoredImage,
    affine_from_lps,
    read_contents,
    require_image,
    to_native,
)
from pipeline.volume import Affine

DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # 4 bytes in files, whatever the machine
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
LOCAL = "LOCAL"  # the voxels follow the header
LAST_KEY = "ElementDataFile"  # the header ends with its line
COUNT = re.compile(r"[0-9]{1,18}")
AUTOMATIC = 47  # zlib's name for "zlib or gzip, as the first bytes say"


def read_metaimage(path: Path, digest: Digest | None = None) -> StoredImage:
    """Reads an image of 2 or 3 axes.

    Args:
        path: Ends in `.mhd` or `.mha`.
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
    sizes, spacing = _numbers(header, "DimSize", path), _numbers(header, "ElementSpacing|ElementSize", path)
    shape = (_channels(header, path), *(int(size) for size in sizes), *[1] * (3 - len(sizes)))
    if len(sizes) not in (2, 3) or min(shape) < 1:
        what = f"DimSize is {header['DimSize']}, expected at least 1 voxel along each of 2 or 3 axes"
        raise ImageFileError("shape_invalid", what, path, "store time points as cases of their own")
    affine = _affine(header, len(sizes), spacing, path)
    data_path = path if header[LAST_KEY] == LOCAL else _data_path(header, path)
    data = rest if data_path == path else read_contents(data_path, digest)
    return StoredImage(_voxels(data, header, shape, data_path, path), affine)


def _split(contents: bytes, path: Path) -> tuple[dict[str, str], bytes]:
    """The header's keys, and the bytes after it."""
    header: dict[str, str] = {}
    start = 0
    while LAST_KEY not in header and start < len(contents):
        end = contents.find(b"\n", start)
        end = len(contents) if end < 0 else end
        key, separator, value = contents[start:end].decode("utf-8", "replace").partition("=")
        if not separator and key.strip():
            break
        header[key.strip()] = value.strip()
        start = end + 1
    missing = [key for key in ("NDims", "DimSize", "ElementType", LAST_KEY) if key not in header]
    if missing:
        what = f"the MetaImage header lacks {', '.join(missing)}"
        raise ImageFileError("unreadable", what, path, "export the file again")
    return header, contents[start:]


def _find(header: Mapping[str, str], keys: str, default: str = "") -> str:
    """Value of the first of several spellings ("a|b") that the header has."""
    return next((header[key] for key in keys.split("|") if key in header), default)


def _is_true(header: Mapping[str, str], keys: str) -> bool:
    return _find(header, keys, "False")[:1] in ("T", "t", "1")


def _numbers(header: Mapping[str, str], keys: str, path: Path, default: str = "") -> NDArray[np.float64]:
    """The finite numbers of a key, as many as there are axes or axes squared."""
    axes, text = header["NDims"], _find(header, keys, default)
    try:
        numbers = np.array([float(part) for part in text.split()])
        if len(numbers) in (int(axes), int(axes) ** 2) and np.isfinite(numbers).all():
            return numbers
    except ValueError:
        pass
    what = f"{keys.partition('|')[0]} is {text!r}, expected numbers for {axes} axes"
    raise ImageFileError("geometry_invalid", what, path, "export the file again with its geometry")


def _channels(header: Mapping[str, str], path: Path) -> int:
    text = header.get("ElementNumberOfChannels", "1")
    if not COUNT.fullmatch(text) or int(text) < 1:
        what = f"ElementNumberOfChannels is {text[:20]!r}, expected a number from 1 on"
        raise ImageFileError("shape_invalid", what, path, "export the file again")
    return int(text)


def _affine(header: Mapping[str, str], axes: int, spacing: NDArray[np.float64], path: Path) -> Affine:
    identity = " ".join(str(value) for value in np.eye(axes, dtype=int).flat)
    matrix = _numbers(header, "TransformMatrix|Rotation|Orientation", path, identity)
    offset = _numbers(header, "Offset|Position|Origin", path, " ".join(["0"] * axes))
    columns, origin = np.eye(3), np.zeros(3)
    if len(matrix) == axes**2 and len(offset) == len(spacing) == axes:
        # The file lists the direction of one axis after the other: its rows are the columns of the affine.
        columns[:axes, :axes] = matrix.reshape(axes, axes).T * spacing
        origin[:axes] = offset
        if spacing.min() > 0 and abs(np.linalg.det(columns)) > 1e-12:
            return affine_from_lps(columns, origin.tolist())
    what = f"spacing {spacing.tolist()} mm and directions {matrix.tolist()} map the grid to no space"
    raise ImageFileError("geometry_invalid", what, path, "export the file again with its geometry")


def _data_path(header: Mapping[str, str], path: Path) -> Path:
    name = header[LAST_KEY]
    if name.startswith("LIST") or "%" in name:
        what = f"the voxels lie in several files ({LAST_KEY} = {name}), expected one"
        raise ImageFileError("unreadable", what, path, "convert it to .nii.gz")
    data_path = path.parent / name
    try:
        there = bool(name) and data_path.is_file()
    except OSError:  # no file can have such a name
        there = False
    if not there:
        what = f"its data file {name!r} is missing"
        raise ImageFileError("missing", what, path, f"put it beside {path.name}")
    return data_path


def _voxels(
    data: bytes, header: Mapping[str, str], shape: tuple[int, ...], data_path: Path, path: Path
) -> NDArray[Any]:
    """Voxels (C, X, Y, Z), the first axis running fastest in the file."""
    kind = header["ElementType"]
    if kind not in DTYPES or not _is_true({"BinaryData": "True", **header}, "BinaryData"):
        what = f"the voxels are {kind}, binary: {header.get('BinaryData')}; expected numbers in binary form"
        raise ImageFileError("unreadable", what, path, "convert it to .nii.gz")
    big_endian = _is_true(header, "ElementByteOrderMSB|BinaryDataByteOrderMSB")
    dtype = np.dtype(DTYPES[kind]).newbyteorder(">" if big_endian else "<")
    needed = math.prod(shape) * dtype.itemsize
    if _is_true(header, "CompressedData"):
        data = _inflate(data, header.get("CompressedDataSize", ""), data_path)
    else:
        skipped = header.get("HeaderSize", "0")  # -1: the voxels are the last bytes of the file
        if skipped != "-1" and not COUNT.fullmatch(skipped):
            what = f"HeaderSize is {skipped[:20]!r}, expected a number of bytes or -1"
            raise ImageFileError("unreadable", what, path, "export the file again")
        data = data[max(len(data) - needed, 0) :] if skipped == "-1" else data[int(skipped) :]
    if len(data) != needed:
        code = "truncated" if len(data) < needed else "corrupt"
        what = f"there are {len(data)} bytes of voxels, the header promises {needed}"
        raise ImageFileError(code, what, data_path, COPY_AGAIN)
    stored = np.frombuffer(data, dtype).reshape(shape, order="F")
    return to_native(stored)


def _inflate(data: bytes, promised: str, path: Path) -> bytes:
    if promised and promised != str(len(data)):
        what = f"there are {len(data)} compressed bytes, the header promises {promised}"
        code = "truncated" if COUNT.fullmatch(promised) and len(data) < int(promised) else "corrupt"
        raise ImageFileError(code, what, path, COPY_AGAIN)
    stream = zlib.decompressobj(wbits=AUTOMATIC)
    try:
        voxels = stream.decompress(data)  # the checksum at its end is compared
    except zlib.error as error:
        what = f"the compressed voxels are damaged: {error}"
        raise ImageFileError("corrupt", what, path, COPY_AGAIN) from error
    if not stream.eof:
        raise ImageFileError("truncated", "the compressed voxels are cut off", path, COPY_AGAIN)
    if stream.unused_data:
        what = f"{len(stream.unused_data)} bytes follow the compressed voxels"
        raise ImageFileError("corrupt", what, path, COPY_AGAIN)
    return voxels
