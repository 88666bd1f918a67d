"""Reads RT structure sets: contours in the world become voxels of the slices they lie on.

A voxel belongs to a structure when its centre lies inside an odd number of the structure's contours on its slice
(XOR): a contour within another one is a hole, one in the hole an island, and a keyhole needs no rule of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from pipeline.cases import Finding
from pipeline.errors import ImageFileError
from pipeline.io.dicom_files import DAMAGED
from pipeline.io.dicom_tree import structure_name
from pipeline.io.drawn import SAME_SLICE, Drawing, to_voxels
from pipeline.io.stored import COPY_AGAIN, StoredImage, read_contents

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
LEAST_POINTS = 3
Points = NDArray[np.float64]


def read_structures(
    path: Path, image: StoredImage, names: Collection[str]
) -> tuple[list[Drawing], list[Finding]]:
    """Reads the structures with a known name, as voxels of an image.

    Args:
        path: The file.
        image: The series that it was drawn on.
        names: Wanted structures, in lower case.

    Returns:
        The structures, and remarks: contours between or beyond the slices, across them, or not closed, which are
        left out.

    Raises:
        ImageFileError: The file cannot be read.
    """
    contents = read_contents(path)
    try:
        dataset = pydicom.dcmread(BytesIO(contents))
        rois = {int(roi.ROINumber): structure_name(roi) for roi in dataset.get("StructureSetROISequence", [])}
        contours = {
            int(roi.ReferencedROINumber): [_contour(item) for item in roi.get("ContourSequence", [])]
            for roi in dataset.get("ROIContourSequence", [])
        }
    except DAMAGED as error:
        what = f"the structure set cannot be read: {error}"
        raise ImageFileError("unreadable", what, path, COPY_AGAIN) from error
    drawings, left_out = [], _LeftOut()
    for number, name in rois.items():
        if name.casefold() in names:
            drawings.append(Drawing(name, _fill(contours.get(number, []), image, left_out)))
    return drawings, left_out.findings()


class _LeftOut:
    """Counts the contours that cannot be drawn."""

    def __init__(self) -> None:
        self.total = self.open = self.across = 0
        self.off: list[float] = []

    def findings(self) -> list[Finding]:
        found = []
        if self.off:
            what = (
                f"{len(self.off)} of {self.total} contours lie on slices that are not here, from slice number "
                f"{min(self.off):.1f} to {max(self.off):.1f}"
            )
            found.append(Finding("annotation_outside", what, fatal=False))
        if self.open or self.across:
            what = (
                f"{self.open} of {self.total} contours are open or points, {self.across} run across slices; "
                "they have no inside and are left out"
            )
            found.append(Finding("contour_left_out", what, fatal=False))
        return found


def _contour(item: pydicom.Dataset) -> tuple[str, Points]:
    return str(item.get("ContourGeometricType", "")), np.array(item.ContourData, float).reshape(-1, 3)


def _fill(contours: list[tuple[str, Points]], image: StoredImage, left_out: _LeftOut) -> NDArray[np.int64]:
    """Places in the flattened image of the voxels inside an odd number of contours."""
    from skimage.draw import polygon

    shape = image.array.shape[1:]
    planes: dict[int, NDArray[np.bool_]] = {}
    for kind, points in contours:
        left_out.total += 1
        placed = to_voxels(points, image.affine)
        z = int(np.rint(placed[:, 2].mean())) if len(placed) else -1
        if kind not in CLOSED or len(placed) < LEAST_POINTS:
            left_out.open += 1
        elif np.ptp(placed[:, 2]) > 2 * SAME_SLICE:
            left_out.across += 1
        elif not 0 <= z < shape[2] or abs(placed[:, 2].mean() - z) > SAME_SLICE:
            left_out.off.append(float(placed[:, 2].mean()))
        else:
            plane = planes.setdefault(z, np.zeros(shape[:2], bool))
            plane[polygon(placed[:, 0], placed[:, 1], shape[:2])] ^= True  # type: ignore[no-untyped-call]
    found = [np.empty(0, np.int64)]
    for z, plane in planes.items():
        x, y = np.nonzero(plane)
        found.append(np.ravel_multi_index((x, y, np.full_like(x, z)), shape))
    return np.sort(np.concatenate(found))
