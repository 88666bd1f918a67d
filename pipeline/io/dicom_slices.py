"""The slices of a DICOM series: their headers, in the order of space.

Slices are put in order by their position, never by their names or numbers; a file holds one of them, or (enhanced CT
and MR) one a frame. Files that are no DICOM (LIDC keeps its XML beside the slices) are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from pipeline.errors import ImageFileError
from pipeline.io.dicom_files import DAMAGED, find_files, is_dicom_series
from pipeline.io.dicom_grid import require_even_spacing, require_one_series, require_right_angles
from pipeline.io.stored import COPY_AGAIN, read_contents, require_image

__all__ = ["DAMAGED", "DicomSlice", "is_dicom_series", "list_slices"]

NEEDED = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
TAGS = (
    *NEEDED,
    *("Modality", "NumberOfFrames", "SamplesPerPixel", "SeriesInstanceUID", "SOPInstanceUID"),
    *("SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
# Where a file of several frames has the attributes of each, or those that all share.
GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
OF_FILE = ("Modality", "Rows", "Columns", "SeriesInstanceUID", "SOPInstanceUID")


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
        rescale: Slope and intercept of the stored values.
        frame: Which frame of its file it is; None where the file is the slice.
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
    rescale: tuple[float, float]
    frame: int | None = None


def list_slices(folder: Path) -> list[DicomSlice]:
    """Reads the headers of a series.

    Args:
        folder: Holds the slices of one series; other files in it are left alone. Or `FOLDER#UID`: the slices of
            one series of several; of a slice that is there twice, to the byte, one is taken.

    Returns:
        The slices in the order of the volume's Z axis: along the normal of the slice plane.

    Raises:
        ImageFileError: There is no slice; a file is damaged, has colours, or frames without a place; or the slices
            are not one series on one evenly spaced, right-angled grid.
    """
    slices = [item for path in find_files(folder) for item in _read_header(path)]
    require_one_series(slices, folder)
    first = slices[0]
    normal = np.cross(first.along_x, first.along_y)
    slices.sort(key=lambda item: float(normal @ item.position_lps))
    require_even_spacing(slices, normal, folder)
    require_right_angles(slices, normal, folder)
    return slices


def _read_header(path: Path) -> list[DicomSlice]:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        _require_grey_image(header, path)
        if "PerFrameFunctionalGroupsSequence" in header:
            return [_to_slice(frame, path, n) for n, frame in enumerate(_frame_headers(header))]
        return [_to_slice(header, path)]
    except DAMAGED as error:
        require_image(read_contents(path), path)
        what = f"the DICOM header is damaged: {error}"
        raise ImageFileError("unreadable", what, path, COPY_AGAIN) from error


def _require_grey_image(header: pydicom.Dataset, path: Path) -> None:
    if "Rows" not in header:
        what = f"the DICOM file holds no image (modality {header.get('Modality', 'unknown')})"
        raise ImageFileError("unreadable", what, path, "keep only the slices of one series in the folder")
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
    placed = len(header.get("PerFrameFunctionalGroupsSequence", "1"))
    if frames != placed or samples > 1:
        what = f"the DICOM file has {frames} frames of {samples} colours, expected grey ones with a position each"
        raise ImageFileError("shape_invalid", what, path, "convert the series to .nii.gz")


def _frame_headers(header: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """The header of each frame, as a file of its own would have it."""
    shared = (header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    for own in header.PerFrameFunctionalGroupsSequence:
        flat = pydicom.Dataset()
        for name in (name for name in OF_FILE if name in header):
            flat[name] = header[name]
        for group, names in GROUPS.items():
            item = (own.get(group) or shared.get(group) or [pydicom.Dataset()])[0]
            for name in (name for name in names if name in item):
                flat[name] = item[name]
        yield flat


def _to_slice(header: pydicom.Dataset, path: Path, frame: int | None = None) -> DicomSlice:
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
        rescale=(float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)),
        frame=frame,
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
