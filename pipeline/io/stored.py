"""What an image file holds, whatever its format: voxels and where they lie, checked bytes, whole writes."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.cases import Finding
from pipeline.errors import ImageFileError, SegtrailError
from pipeline.volume import Affine, LabelMap, spacing_mm

GZIP = b"\x1f\x8b"
ORIENTATION_UNKNOWN = "orientation_unknown"
COPY_AGAIN = "copy or download the file again"
# Header scaling stores 1 as 0.99999997, arithmetic in float32 as 1.0001; interpolation leaves far larger fractions.
LABEL_TOLERANCE = 1e-3
SAME_SIZE = 0.01  # share by which rounding in a header may change a voxel size
LABEL_DTYPES = (np.uint8, np.uint16, np.int16, np.int32, np.int64)


@dataclass(frozen=True)
class StoredImage:
    """What one image holds.

    Attributes:
        array: (C, X, Y, Z), writable, native byte order; integers as stored, everything else float32.
        affine: (4, 4) to RAS+ mm.
        form_conflict_mm: How far apart the two affines of a NIfTI header (sform, qform) lay the corners;
            readers disagree which one counts. 0 in every other format.
        remarks: What the reader had to take for granted, for inspection to tell; none is fatal.
    """

    array: NDArray[Any]
    affine: Affine
    form_conflict_mm: float = 0.0
    remarks: tuple[Finding, ...] = ()


def affine_from_lps(columns: NDArray[Any], origin: Sequence[float]) -> Affine:
    """Affine to RAS+ of a grid that is described in LPS+, as DICOM and ITK do.

    Args:
        columns: (3, 3); column i is the step in mm from one voxel to the next along axis i.
        origin: Centre of the first voxel in mm.
    """
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = origin
    affine[:2] *= -1
    return affine + 0.0  # no negative zeros


def find_spacing_conflict(affine: Affine, sizes_mm: Sequence[float]) -> tuple[Finding, ...]:
    """Compares the voxel sizes that a header states with those of its affine, which are the ones that count.

    Args:
        affine: (4, 4), voxel index to mm.
        sizes_mm: Along X, Y, Z as stated; 0 = not stated.
    """
    own = spacing_mm(affine)
    if all(
        size == 0 or abs(size - mine) <= SAME_SIZE * mine for size, mine in zip(sizes_mm, own, strict=True)
    ):
        return ()
    stated, used = (" x ".join(f"{size:.4g}" for size in sizes) for sizes in (sizes_mm, own))
    what = f"the header states voxels of {stated} mm, its affine says {used} mm; the affine is used"
    return (Finding("spacing_conflict", what, fatal=False),)


class Digest(Protocol):
    """What takes in bytes, such as `hashlib.sha256()`."""

    def update(self, data: bytes, /) -> None:
        """Takes in more bytes."""


def read_contents(path: Path, digest: Digest | None = None) -> bytes:
    """Reads a file's bytes.

    Args:
        path: The file.
        digest: Is given the bytes too.

    Raises:
        ImageFileError: The file is missing or cannot be read.
    """
    try:
        contents = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageFileError("missing", "there is no such file", path, "put the file there") from error
    except OSError as error:
        what = f"the file cannot be read: {error.strerror}"
        raise ImageFileError("unreadable", what, path, "mend its permissions or its disk") from error
    if digest is not None:
        digest.update(contents)
    return contents


def inflate_gzip(contents: bytes, path: Path) -> bytes:
    """Undoes gzip; bytes that are not gzip stay as they are.

    Raises:
        ImageFileError: The stream is cut off, or its length or CRC is not what it says.
    """
    if contents[:2] != GZIP:
        return contents
    try:
        return gzip.decompress(contents)  # reads to the end of every member: length and CRC are compared
    except EOFError as error:
        what = f"the gzip stream is cut off after {len(contents)} bytes"
        raise ImageFileError("truncated", what, path, COPY_AGAIN) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ImageFileError("corrupt", f"the gzip stream is damaged: {error}", path, COPY_AGAIN) from error


def to_native(stored: NDArray[Any]) -> NDArray[Any]:
    """A writable copy in native byte order: integers as they are, floats as float32."""
    dtype = stored.dtype
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes Inf, and is refused as such
        return stored.astype(np.float32 if dtype.kind == "f" else dtype.newbyteorder("="), order="K")


def require_image(contents: bytes, path: Path) -> None:
    """Refuses what often lies where an image should be.

    Raises:
        ImageFileError: The file is empty, a Git LFS pointer or a web page.
    """
    start = contents[:200].lstrip().lower()
    if not contents:
        what, fix = "the file is empty (0 bytes)", COPY_AGAIN
    elif start.startswith(b"version https://git-lfs"):
        what, fix = "the file is a Git LFS pointer, not the image", "git lfs pull"
    elif start.startswith((b"<!doctype", b"<html")):
        what, fix = "the file is a web page, not an image", "download the file again; was a login needed?"
    else:
        return
    raise ImageFileError("unreadable", what, path, fix)


def write_whole(data: bytes, path: Path) -> None:
    """Writes a file through a temporary one beside it: it is whole, or the old one is still there.

    Raises:
        SegtrailError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SegtrailError(
            f"the file cannot be written: {error.strerror}", str(path), "free space or mend permissions"
        ) from error


def to_label_map(file: StoredImage, path: Path) -> LabelMap:
    """The label map of `round_labels`."""
    return round_labels(file, path)[0]


def round_labels(file: StoredImage, path: Path) -> tuple[LabelMap, float]:
    """Takes a file's voxels as labels.

    Returns:
        Integer labels (X, Y, Z): floats that are whole numbers within LABEL_TOLERANCE become the smallest integer
        type that holds them. And how far the furthest of them was from its whole number; 0 = nothing was rounded.

    Raises:
        ImageFileError: There are several channels, or values that are not whole numbers.
    """
    if len(file.array) != 1:
        what = f"a label map has 1 channel, this file has {len(file.array)}"
        raise ImageFileError("label_channels", what, path, "store one class a voxel, without colours")
    array = file.array[0]
    if array.dtype.kind in "iu":
        return LabelMap(array, file.affine), 0.0
    rounded = np.rint(array)
    with np.errstate(invalid="ignore"):
        distance = np.abs(array - rounded)
        wrong = ~(distance <= LABEL_TOLERANCE)  # NaN and Inf are wrong too
    if wrong.any():
        what = (
            f"{int(wrong.sum())} voxels of the label are not whole numbers within {LABEL_TOLERANCE:g}, "
            f"such as {array[wrong][0]:.6g}"
        )
        raise ImageFileError(
            "label_not_integer", what, path, "resample labels by nearest neighbour, store integers"
        )
    return LabelMap(to_smallest(rounded.astype(np.int64)), file.affine), float(distance.max(initial=0))


def count_not_finite(array: NDArray[Any]) -> int:
    """Number of NaN and Inf voxels; 0 for integers."""
    if array.dtype.kind != "f":
        return 0
    with np.errstate(invalid="ignore"):  # Inf - Inf
        total = array.sum(dtype=np.float64)
    if np.isfinite(total):
        return 0  # a sum of float32 in float64 cannot overflow, so it is finite only when every term is
    return int(array.size - np.isfinite(array).sum())


def to_smallest(array: NDArray[Any]) -> NDArray[np.integer[Any]]:
    """The same integers in the smallest type of LABEL_DTYPES."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for dtype in LABEL_DTYPES:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype, copy=False)
    raise SegtrailError(f"labels reach {high}, more than int64 holds", "label map", "renumber the labels")
