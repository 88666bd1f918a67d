"""NIfTI files written: label maps and volumes on the source's own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.io.nifti_writing import write_nifti
from pipeline.io.stored import to_smallest
from pipeline.volume import LabelMap, Volume


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
    write_nifti(to_smallest(label_map.array)[np.newaxis], label_map.affine, path, like)


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
