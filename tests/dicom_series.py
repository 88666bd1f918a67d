"""Slices of a CT series, written with pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian

SERIES, OTHER_SERIES = "1.2.3", "1.2.4"
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
PLANE = np.arange(6, dtype=np.int16).reshape(2, 3)  # 2 rows, 3 columns


def write_slice(
    path: Path,
    z: float,
    pixels: NDArray[Any] = PLANE,
    directions: tuple[tuple[float, ...], tuple[float, ...]] = AXIAL,
    big_endian: bool = False,
    **changes: Any,
) -> Path:
    """Writes one slice with rows 0.5 mm and columns 0.25 mm apart, `z` mm along the normal from (10, 20, 30)."""
    syntax = ExplicitVRBigEndian if big_endian else ExplicitVRLittleEndian
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{round((z + 1000) * 1000)}"
    meta.TransferSyntaxUID = syntax
    header = pydicom.Dataset()
    header.file_meta = meta
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    header.SeriesInstanceUID, header.Modality = SERIES, "CT"
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8 * pixels.itemsize
    header.HighBit, header.PixelRepresentation = header.BitsStored - 1, int(pixels.dtype.kind == "i")
    header.PixelSpacing = [0.5, 0.25]
    header.ImageOrientationPatient = [round(value, 6) for value in directions[0] + directions[1]]
    normal = np.cross(*np.array(directions))
    header.ImagePositionPatient = [round(float(v), 6) for v in np.array([10, 20, 30]) + z * normal]
    header.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path
