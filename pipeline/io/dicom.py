"""DICOM: a folder that holds one series of single slices becomes one volume."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from pipeline.errors import ImageFileError
from pipeline.io.dicom_slices import DAMAGED, DicomSlice, list_slices
from pipeline.io.stored import COPY_AGAIN, Digest, StoredImage, affine_from_lps, read_contents
from pipeline.volume import Affine


def read_dicom_series(folder: Path, digest: Digest | None = None) -> StoredImage:
    """Reads a series; each slice is scaled by its own rescale slope and intercept.

    Args:
        folder: Holds the slices of one series; or `FOLDER#UID`, see `list_slices`.
        digest: Is given the bytes of all slices, in the order of their names.

    Returns:
        (1, X, Y, Z): integers where slope and intercept are whole numbers, otherwise float32. X is the column,
        Y the row, Z runs along the normal of the slices. A single slice is as thick as its header says.

    Raises:
        ImageFileError: As for `list_slices`; or voxels are missing, damaged or compressed in an unknown way.
    """
    slices = list_slices(folder)
    stored = {path: _read_pixels(path, digest) for path in sorted({item.path for item in slices})}
    stack = np.stack([_rescale(stored[item.path][item.frame or 0], item.rescale) for item in slices])
    if stack.dtype.kind == "f":
        stack = stack.astype(np.float32, copy=False)  # int32 and float32 slices make float64 ones
    return StoredImage(stack.transpose(2, 1, 0)[np.newaxis], _affine(slices))


def _affine(slices: Sequence[DicomSlice]) -> Affine:
    first, last = slices[0], np.array(slices[-1].position_lps)
    x, y = np.array(first.along_x), np.array(first.along_y)
    if len(slices) > 1:
        step = (last - first.position_lps) / (len(slices) - 1)
    else:
        step = np.cross(x, y) * first.thickness_mm
    columns = np.column_stack([x * first.spacing_mm[0], y * first.spacing_mm[1], step])
    return affine_from_lps(columns, first.position_lps)


def _read_pixels(path: Path, digest: Digest | None) -> NDArray[Any]:
    """Stored values of one file, (frames, rows, columns)."""
    contents = read_contents(path, digest)
    try:
        dataset = pydicom.dcmread(BytesIO(contents))
        _require_all_voxels(dataset, path)
        return dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    except DAMAGED as error:
        what = f"the voxels cannot be read: {error}"
        fix = f"{COPY_AGAIN}; a compressed series: decompress it (gdcmconv --raw), or convert it to .nii.gz"
        raise ImageFileError("unreadable", what, path, fix) from error


def _rescale(stored: NDArray[Any], rescale: tuple[float, float]) -> NDArray[Any]:
    """Scaled voxels of one slice, (rows, columns)."""
    slope, intercept = rescale
    if (slope, intercept) == (1, 0):
        return stored
    scaled = stored * slope + intercept
    if not (slope.is_integer() and intercept.is_integer()):
        return scaled.astype(np.float32)
    fits = np.iinfo(np.int16).min <= scaled.min() and scaled.max() <= np.iinfo(np.int16).max
    return scaled.astype(np.int16 if fits else np.int32)


def _require_all_voxels(dataset: pydicom.Dataset, path: Path) -> None:
    """Compares the length of uncompressed voxels with what the header promises."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    needed = frames * dataset.Rows * dataset.Columns * (dataset.BitsAllocated // 8)
    found = len(dataset.PixelData)
    if not dataset.file_meta.TransferSyntaxUID.is_compressed and found < needed:
        what = f"the file holds {found} bytes of voxels, its header promises {needed}"
        raise ImageFileError("truncated", what, path, COPY_AGAIN)
