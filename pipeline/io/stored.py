"""What an image file holds, whatever its format: voxels and where they lie, checked bytes, whole writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageFileError, SegtrailError
from pipeline.volume import Affine, LabelMap

COPY_AGAIN = "copy or download the file again"
LABEL_TOLERANCE = 1e-5  # header scaling stores 1 as 0.99999997; interpolation leaves far larger fractions
LABEL_DTYPES = (np.uint8, np.uint16, np.int16, np.int32, np.int64)


@dataclass(frozen=True)
class StoredImage:
    """What one image holds.

    Attributes:
        array: (C, X, Y, Z), writable, native byte order; integers as stored, everything else float32.
        affine: (4, 4) to RAS+ mm.
        form_conflict_mm: How far apart the two affines of a NIfTI header (sform, qform) lay the corners;
            readers disagree which one counts. 0 in every other format.
    """

    array: NDArray[Any]
    affine: Affine
    form_conflict_mm: float = 0.0


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
    """Takes a file's voxels as labels.

    Returns:
        Integer labels (X, Y, Z). Floats that are whole numbers, up to the rounding of a header's scale
        factor, become the smallest integer type that holds them.

    Raises:
        ImageFileError: There are several channels, or values that are not whole numbers.
    """
    if len(file.array) != 1:
        what = f"a label map has 1 channel, this file has {len(file.array)}"
        raise ImageFileError("label_channels", what, path, "store one class a voxel, without colours")
    array = file.array[0]
    if array.dtype.kind in "iu":
        return LabelMap(array, file.affine)
    rounded = np.rint(array)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(array - rounded) <= LABEL_TOLERANCE)  # NaN and Inf are wrong too
    if wrong.any():
        what = f"{int(wrong.sum())} voxels of the label are not whole numbers, such as {array[wrong][0]:.6g}"
        raise ImageFileError(
            "label_not_integer", what, path, "resample labels by nearest neighbour, store integers"
        )
    return LabelMap(to_smallest(rounded.astype(np.int64)), file.affine)


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
