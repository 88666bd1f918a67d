"""Reads DICOM segmentations (BINARY, FRACTIONAL and LABELMAP): frames are placed by their position in the world."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from pipeline.cases import Finding
from pipeline.errors import ImageFileError
from pipeline.io.dicom_files import DAMAGED
from pipeline.io.dicom_tree import is_shown, segment_name
from pipeline.io.drawn import SAME_PIXEL, SAME_SLICE, Drawing, to_voxels
from pipeline.io.stored import COPY_AGAIN, StoredImage, read_contents

LABELMAP, FRACTIONAL = "LABELMAP", "FRACTIONAL"
Mask = NDArray[np.bool_]


def read_segmentation(
    path: Path, image: StoredImage, names: Collection[str]
) -> tuple[list[Drawing], list[Finding]]:
    """Reads the segments with a known name, as voxels of an image.

    Args:
        path: The file.
        image: The series that it was drawn on, of any order and direction of the axes.
        names: Wanted segments, in lower case.

    Returns:
        The segments; of a FRACTIONAL one the voxels of at least half of the largest value. And remarks: frames
        that lie outside the image.

    Raises:
        ImageFileError: The file cannot be read, or its frames lie on another grid than the image.
    """
    contents = read_contents(path)
    try:
        dataset = pydicom.dcmread(BytesIO(contents))
        pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
        segments = {int(s.SegmentNumber): segment_name(s) for s in dataset.SegmentSequence if is_shown(s)}
        frames = [_Frame(dataset, number) for number in range(len(pixels))]
    except DAMAGED as error:
        what = f"the segmentation cannot be read: {error}"
        raise ImageFileError("unreadable", what, path, COPY_AGAIN) from error
    wanted = {number: name for number, name in segments.items() if name.casefold() in names}
    found: dict[int, list[NDArray[np.int64]]] = defaultdict(list)
    outside = 0
    for frame, plane in zip(frames, pixels, strict=True):
        for number, mask in _masks(dataset, frame, plane).items():
            if number in wanted and mask.any():
                voxels, lost = _place(mask, frame, image, path)
                outside += lost
                found[number].append(voxels)
    drawings = [Drawing(name, _join(found[number])) for number, name in wanted.items()]
    remarks = []
    if outside:
        what = f"{outside} pixel(s) of segments lie outside the image and are left out"
        remarks.append(Finding("annotation_outside", what, fatal=False))
    return drawings, remarks


class _Frame:
    """Where one frame lies (LPS+ mm) and, of other types than LABELMAP, which segment it shows."""

    def __init__(self, dataset: pydicom.Dataset, number: int) -> None:
        own = dataset.PerFrameFunctionalGroupsSequence[number]
        shared = (
            dataset.SharedFunctionalGroupsSequence[0] if "SharedFunctionalGroupsSequence" in dataset else own
        )

        def find(name: str) -> pydicom.Dataset:
            found: pydicom.Dataset = (own.get(name) or shared.get(name) or [pydicom.Dataset()])[0]
            return found

        orientation = np.array(find("PlaneOrientationSequence").ImageOrientationPatient, float)
        between_rows, between_columns = map(float, find("PixelMeasuresSequence").PixelSpacing)
        self.position = np.array(find("PlanePositionSequence").ImagePositionPatient, float)
        self.step_column = orientation[:3] * between_columns
        self.step_row = orientation[3:] * between_rows
        self.segment = int(find("SegmentIdentificationSequence").get("ReferencedSegmentNumber", 0))


def _masks(dataset: pydicom.Dataset, frame: _Frame, plane: NDArray[Any]) -> dict[int, Mask]:
    """Mask (rows, columns) of each segment of a frame."""
    kind = str(dataset.get("SegmentationType", "BINARY"))
    if kind == LABELMAP:
        return {int(number): plane == number for number in np.unique(plane) if number}
    if kind == FRACTIONAL:
        return {frame.segment: 2 * plane.astype(np.int64) >= int(dataset.get("MaximumFractionalValue", 255))}
    return {frame.segment: plane > 0}


def _place(mask: Mask, frame: _Frame, image: StoredImage, path: Path) -> tuple[NDArray[np.int64], int]:
    """Places in the flattened image of a frame's set pixels, and how many lie outside it."""
    rows, columns = mask.shape
    shape = np.array(image.array.shape[1:])
    ends = [(0, 0), (columns - 1, 0), (0, rows - 1)]
    corners = np.array([frame.position + c * frame.step_column + r * frame.step_row for c, r in ends])
    origin, right, down = to_voxels(corners, image.affine)
    along_column = (right - origin) / max(columns - 1, 1)
    along_row = (down - origin) / max(rows - 1, 1)
    steps = np.rint([along_column, along_row]).astype(np.int64)
    first = np.rint(origin).astype(np.int64)
    exact = np.array([origin, right, down])
    snapped = first + np.array([[0, 0, 0], steps[0] * (columns - 1), steps[1] * (rows - 1)])
    _require_same_grid(exact - snapped, steps, path)
    row, column = np.nonzero(mask)
    voxels = first + column[:, None] * steps[0] + row[:, None] * steps[1]
    inside = ((voxels >= 0) & (voxels < shape)).all(axis=1)
    kept = np.ravel_multi_index(tuple(voxels[inside].T), tuple(shape))
    return kept.astype(np.int64), int((~inside).sum())


def _require_same_grid(differences: NDArray[np.float64], steps: NDArray[np.int64], path: Path) -> None:
    """Compares where a frame's corners lie with where voxels lie, in voxels along X, Y, Z."""
    across = [axis for axis in range(3) if not steps[:, axis].any()]
    limits = np.full(3, SAME_PIXEL)
    limits[across] = SAME_SLICE
    worst = np.abs(differences).max(axis=0)
    one_axis_each = (np.abs(steps).sum(axis=1) == 1).all() and len(across) == 1
    if not one_axis_each or (worst > limits).any():
        what = (
            f"a frame lies {worst.round(2).tolist()} voxels (X, Y, Z) beside the image's, limits "
            f"{limits.tolist()}, with steps of {steps.tolist()} voxels a pixel"
        )
        fix = "resample the segmentation to the grid of its series, or leave it out"
        raise ImageFileError("geometry_mismatch", what, path, fix)


def _join(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
