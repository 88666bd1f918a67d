"""NIfTI files as volumes and label maps, and back on the source's own grid.

A file is read whole and checked (gzip length and CRC, header, size) before a voxel of it is believed:
nibabel and SimpleITK each return wrong voxels without an error for one kind of broken gzip file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SegtrailError
from pipeline.io.nifti_reading import NiftiError, StoredImage, parse_nifti, read_contents
from pipeline.io.nifti_writing import write_nifti
from pipeline.volume import SAME_GRID_MM, LabelMap, Volume, axis_codes, corner_distance_mm

__all__ = [
    "NiftiError",
    "StoredImage",
    "count_not_finite",
    "load_label_map",
    "load_volume",
    "parse_nifti",
    "read_contents",
    "save_label_map",
    "save_volume",
    "to_label_map",
]

LABEL_TOLERANCE = 1e-5  # header scaling stores 1 as 0.99999997; interpolation leaves far larger fractions
LABEL_DTYPES = (np.uint8, np.uint16, np.int16, np.int32, np.int64)


def load_volume(paths: Sequence[Path]) -> Volume:
    """Reads one image: one file a channel, or one 4D file with the channels on its last axis.

    Args:
        paths: `.nii` or `.nii.gz` files, in the order of the channels.

    Returns:
        (C, X, Y, Z): integers as stored when the header does not scale them, otherwise float32. A 2D file
        has Z = 1. The affine is that of the first file.

    Raises:
        SegtrailError: A file is missing, cut off, corrupt, not NIfTI, holds NaN or Inf, or lies on another
            grid than the first.
    """
    if not paths:
        raise SegtrailError("an image needs at least one file, got none", "load_volume", "name a file")
    files = [parse_nifti(read_contents(path), path) for path in paths]
    for path, file in zip(paths, files, strict=True):
        _require_finite(file.array, path)
        _require_same_grid(files[0], file, path)
    if len(files) == 1:
        return Volume(files[0].array, files[0].affine)
    same = len({file.array.dtype for file in files}) == 1
    arrays = [file.array if same else file.array.astype(np.float32) for file in files]
    return Volume(np.concatenate(arrays), files[0].affine)


def load_label_map(path: Path) -> LabelMap:
    """Reads a label map or an instance map.

    Returns:
        Integer labels (X, Y, Z). Floats that are whole numbers, up to the rounding of a header's scale
        factor, become the smallest integer type that holds them.

    Raises:
        SegtrailError: As for `load_volume`; or several channels, or values that are not whole numbers.
    """
    return to_label_map(parse_nifti(read_contents(path), path), path)


def save_label_map(label_map: LabelMap, path: Path, like: Path | None = None) -> None:
    """Writes a label map or an instance map, whole or not at all; the same input gives the same bytes.

    Args:
        label_map: (X, Y, Z); stored in the smallest of uint8, uint16, int16, int32 that holds it.
        path: Ends in `.nii.gz` (or `.nii`).
        like: NIfTI file whose grid this is. Its geometry fields are kept bit by bit, and the form (qform or
            sform) that it lacks is added where that does not change the affine.

    Raises:
        SegtrailError: The grid is not that of `like`, or the file cannot be written.
    """
    write_nifti(_smallest(label_map.array)[np.newaxis], label_map.affine, path, like)


def save_volume(volume: Volume, path: Path, like: Path | None = None) -> None:
    """Writes an image; several channels become one 4D file with the channels on its last axis.

    Args:
        volume: (C, X, Y, Z); floats are stored as float32, integers as they are.
        path: Ends in `.nii.gz` (or `.nii`).
        like: As for `save_label_map`.

    Raises:
        SegtrailError: As for `save_label_map`.
    """
    array = volume.array.astype(np.float32) if volume.array.dtype.kind == "f" else volume.array
    write_nifti(array, volume.affine, path, like)


def to_label_map(file: StoredImage, path: Path) -> LabelMap:
    """Takes a file's voxels as labels.

    Raises:
        SegtrailError: There are several channels, or values that are not whole numbers.
    """
    if len(file.array) != 1:
        what = f"a label map has 1 channel, this file has {len(file.array)}"
        raise NiftiError("label_channels", what, path, "store one class a voxel in a 3D file")
    array = file.array[0]
    if array.dtype.kind in "iu":
        return LabelMap(array, file.affine)
    rounded = np.rint(array)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(array - rounded) <= LABEL_TOLERANCE)  # NaN and Inf are wrong too
    if wrong.any():
        what = f"{int(wrong.sum())} voxels of the label are not whole numbers, such as {array[wrong][0]:.6g}"
        raise NiftiError(
            "label_not_integer", what, path, "resample labels by nearest neighbour, store integers"
        )
    return LabelMap(_smallest(rounded.astype(np.int64)), file.affine)


def count_not_finite(array: NDArray[Any]) -> int:
    """Number of NaN and Inf voxels; 0 for integers."""
    if array.dtype.kind != "f":
        return 0
    with np.errstate(invalid="ignore"):  # Inf - Inf
        total = array.sum(dtype=np.float64)
    if np.isfinite(total):
        return 0  # a sum of float32 in float64 cannot overflow, so it is finite only when every term is
    return int(array.size - np.isfinite(array).sum())


def _require_finite(array: NDArray[Any], path: Path) -> None:
    bad = count_not_finite(array)
    if bad:
        what = f"{bad} of {array.size} voxels are NaN or Inf"
        raise NiftiError("not_finite", what, path, "export the image again, or leave the case out")


def _require_same_grid(first: StoredImage, file: StoredImage, path: Path) -> None:
    if first.array.shape[1:] != file.array.shape[1:]:
        what = f"shape is {file.array.shape[1:]}, the first channel has {first.array.shape[1:]}"
    elif (moved := corner_distance_mm(first.array.shape, first.affine, file.affine)) > SAME_GRID_MM:
        what = (
            f"grid ({axis_codes(file.affine)}) lies {moved:.3g} mm from that of the first channel "
            f"({axis_codes(first.affine)}), at most {SAME_GRID_MM} mm"
        )
    else:
        return
    raise NiftiError("geometry_mismatch", what, path, "resample all channels of a case to one grid")


def _smallest(array: NDArray[Any]) -> NDArray[np.integer[Any]]:
    """The same integers in the smallest type of LABEL_DTYPES."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for dtype in LABEL_DTYPES:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype, copy=False)
    raise SegtrailError(f"labels reach {high}, more than int64 holds", "label map", "renumber the labels")
