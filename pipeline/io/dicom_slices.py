"""The slices of a DICOM series: which files they are, their headers, and whether they make one even grid.

Slices are put in order by their position, never by their names or numbers. Files that are no DICOM (LIDC
keeps its XML beside the slices) are left alone. What would bend space is refused: several series, two slices
at one place, gaps.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import BytesLengthException, InvalidDicomError

from pipeline.errors import ImageFileError
from pipeline.io.stored import COPY_AGAIN, read_contents, require_image

SUFFIXES = (".dcm", ".ima")
# How far a slice may lie from where even spacing puts it. Positions are often rounded to 0.1 mm, the first and
# last included; but between these shares of the slice distance: one missing slice moves others by half of it.
ROUNDING_MM = 0.11
LEAST_SHARE, LARGEST_SHARE = 0.1, 0.25
SAME_PLACE_MM = 1e-3
SAME_DIRECTION = 1e-4  # of direction cosines; they are written with six digits
NEEDED = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
TAGS = (
    *NEEDED,
    *("Modality", "NumberOfFrames", "SamplesPerPixel", "SeriesInstanceUID", "SOPInstanceUID"),
    *("SliceThickness", "SpacingBetweenSlices"),
)
# What pydicom raises for damaged and for unsupported files.
DAMAGED = (
    *(AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError, struct.error),
    *(BytesLengthException, InvalidDicomError, zlib.error),
)


@dataclass(frozen=True)
class DicomSlice:
    """The header of one slice.

    Attributes:
        path: Its file.
        series_uid: SeriesInstanceUID.
        instance_uid: SOPInstanceUID, by which annotations name a slice.
        shape: Columns and rows: the X and Y of the volume.
        position_lps: Centre of the first voxel, LPS+ mm.
        along_x: Direction (unit vector, LPS+) in which the column number grows.
        along_y: Direction in which the row number grows.
        spacing_mm: Voxel size along X and Y.
        thickness_mm: Distance to the next slice as the header claims it; 1 when it does not.
    """

    path: Path
    series_uid: str
    instance_uid: str
    shape: tuple[int, int]
    position_lps: tuple[float, ...]
    along_x: tuple[float, ...]
    along_y: tuple[float, ...]
    spacing_mm: tuple[float, float]
    thickness_mm: float


def is_dicom_series(folder: Path) -> bool:
    """Whether a folder itself (not one below it) holds DICOM files."""
    return folder.is_dir() and any(_is_dicom(path) for path in folder.iterdir())


def list_slices(folder: Path) -> list[DicomSlice]:
    """Reads the headers of a series.

    Args:
        folder: Holds the slices of one series; other files in it are left alone.

    Returns:
        The slices in the order of the volume's Z axis: along the normal of the slice plane.

    Raises:
        ImageFileError: There is no slice; a file is damaged, has several frames or colours; or the slices
            are not one series on one evenly spaced grid.
    """
    try:
        files = sorted(path for path in folder.iterdir() if _is_dicom(path))
    except FileNotFoundError as error:
        raise ImageFileError("missing", "there is no such folder", folder, "put the series there") from error
    if not files:
        raise ImageFileError("missing", "the folder holds no DICOM file", folder, "put the series there")
    slices = [_read_header(path) for path in files]
    _require_one_series(slices, folder)
    first = slices[0]
    normal = np.cross(first.along_x, first.along_y)
    slices.sort(key=lambda item: float(normal @ item.position_lps))
    _require_even_spacing(slices, normal, folder)
    return slices


def _is_dicom(path: Path) -> bool:
    """A file with the suffix of DICOM, damaged or not, or with its mark; DICOMDIR is a table of contents."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _read_header(path: Path) -> DicomSlice:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        return _to_slice(header, path)
    except DAMAGED as error:
        require_image(read_contents(path), path)
        what = f"the DICOM header is damaged: {error}"
        raise ImageFileError("unreadable", what, path, COPY_AGAIN) from error


def _to_slice(header: pydicom.Dataset, path: Path) -> DicomSlice:
    if "Rows" not in header:
        what = f"the DICOM file holds no image (modality {header.get('Modality', 'unknown')})"
        raise ImageFileError("unreadable", what, path, "keep only the slices of one series in the folder")
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
    if frames > 1 or samples > 1:
        what = f"the DICOM file has {frames} frames of {samples} colours, expected one grey slice a file"
        raise ImageFileError("shape_invalid", what, path, "convert the series to .nii.gz")
    missing = [name for name in NEEDED if not header.get(name)]
    if missing:
        what = f"the DICOM header lacks {', '.join(missing)}"
        raise ImageFileError("geometry_invalid", what, path, "export the series again with its geometry")
    orientation = [float(value) for value in header.ImageOrientationPatient]
    between_rows, between_columns = (float(value) for value in header.PixelSpacing)
    thickness = header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1.0
    item = DicomSlice(
        path=path,
        series_uid=str(header.get("SeriesInstanceUID", "")),
        instance_uid=str(header.get("SOPInstanceUID", "")),
        shape=(int(header.Columns), int(header.Rows)),
        position_lps=tuple(float(value) for value in header.ImagePositionPatient),
        along_x=tuple(orientation[:3]),
        along_y=tuple(orientation[3:]),
        spacing_mm=(between_columns, between_rows),
        thickness_mm=abs(float(thickness)),
    )
    _require_sane_geometry(item)
    return item


def _require_sane_geometry(item: DicomSlice) -> None:
    directions = np.array([item.along_x, item.along_y])
    right_angled = np.allclose(directions @ directions.T, np.eye(2), atol=1e-2)
    if not right_angled or min(item.spacing_mm) <= 0 or not np.isfinite(item.position_lps).all():
        what = (
            f"the slice's directions {directions.round(4).tolist()}, spacing {item.spacing_mm} mm and position "
            f"{item.position_lps} map it to no space"
        )
        raise ImageFileError("geometry_invalid", what, item.path, "export the series again")


def _require_one_series(slices: Sequence[DicomSlice], folder: Path) -> None:
    series = Counter(item.series_uid for item in slices)
    if len(series) > 1:
        listed = ", ".join(f"{uid or 'without a UID'} ({count} slices)" for uid, count in series.items())
        what = f"the folder holds {len(series)} series, expected one: {listed}"
        raise ImageFileError("several_series", what, folder, "put each series into a folder of its own")
    shared: tuple[tuple[str, str, Callable[[DicomSlice], tuple[float, ...]], float], ...] = (
        ("shape_invalid", "columns and rows", lambda item: item.shape, 0),
        ("geometry_invalid", "spacing", lambda item: item.spacing_mm, SAME_DIRECTION),
        ("geometry_invalid", "directions", lambda item: item.along_x + item.along_y, SAME_DIRECTION),
    )
    first = slices[0]
    for code, name, take, tolerance in shared:
        for item in slices:
            if not np.allclose(take(item), take(first), rtol=0, atol=tolerance):
                what = f"{name} are {take(item)} in {item.path.name} and {take(first)} in {first.path.name}"
                raise ImageFileError(code, what, folder, "keep only the slices of one volume in the folder")


def _require_even_spacing(slices: Sequence[DicomSlice], normal: NDArray[Any], folder: Path) -> None:
    """Compares each slice with its place between the first and the last."""
    positions = np.array([item.position_lps for item in slices])
    steps = np.diff(positions @ normal)
    if len(steps) and steps.min() < SAME_PLACE_MM:
        at = int(steps.argmin())
        what = f"{slices[at].path.name} and {slices[at + 1].path.name} lie at one position"
        fix = "remove the copy, or keep one time point or echo in the folder"
        raise ImageFileError("duplicate_slice", what, folder, fix)
    even = np.linspace(positions[0], positions[-1], len(slices))
    moved = float(np.sqrt(((positions - even) ** 2).sum(axis=1)).max())
    typical = float(np.median(steps)) if len(steps) else 0.0
    if moved > min(max(ROUNDING_MM, LEAST_SHARE * typical), LARGEST_SHARE * typical):
        at = int(np.abs(steps - typical).argmax())
        what = (
            f"the slices are not evenly spaced: {steps[at]:.4g} mm between {slices[at].path.name} and "
            f"{slices[at + 1].path.name}, {typical:.4g} mm between most others"
        )
        fix = "add the missing slices, or resample the series to even spacing"
        raise ImageFileError("slice_spacing", what, folder, fix)
