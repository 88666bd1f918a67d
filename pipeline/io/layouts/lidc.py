"""Layout `lidc` (LIDC-IDRI): CT as DICOM series, and the contours of up to four readers as XML.

Source: Armato et al., The Lung Image Database Consortium, Medical Physics 38:915-931 (2011).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cases import CaseRecord, Finding
from pipeline.config import InspectParams
from pipeline.errors import ImageFileError
from pipeline.io.consensus import Voxels, mean_pairwise_dice
from pipeline.io.dataset import DatasetFacts, Listing
from pipeline.io.lidc_consensus import Nodule, draw_mark, group_marks
from pipeline.io.lidc_series import Series, find_readings, find_series
from pipeline.io.lidc_xml import Contour, Mark, load_reading
from pipeline.io.references import OBJECT, References
from pipeline.io.stored import StoredImage
from pipeline.objects import ObjectRow
from pipeline.reader_rows import ReaderRow
from pipeline.volume import Affine, voxel_volume_mm3

MARK_DIAMETER_MM = 10.0  # what LUNA16's evaluation takes for a finding without a size
NODULE = "nodule"
FAR = 0.25  # of the slice distance: a contour further from every slice belongs to none of them

Position = tuple[float, float, float]
Places = Sequence[int | None]  # Z index of each contour of a mark


def list_dataset(folder: Path) -> Listing:
    """Lists the CT series of a folder `LIDC-IDRI/<patient>/<study>/<series>/*.dcm`, with or without the first.

    A case is a series, `<patient>_<last 6 digits of its UID>`; its image is its folder. Series of other
    modalities are left out. XML files may lie anywhere: the series they name counts, not their folder.
    """
    listing = Listing(folder)
    listing.facts = DatasetFacts(
        folder.name,
        ("CT",),
        {"background": 0, NODULE: OBJECT},
        "LIDC-IDRI chest CT. The masks are voxels that inspect.agreement or more readers drew.",
    )
    series = find_series(folder)
    readings = find_readings(folder, series, listing)
    for item in series:
        case_id = f"{item.patient_id}_{item.uid[-6:]}"
        images = (item.folder.as_posix(),)
        listing.records.append(CaseRecord(case_id, item.patient_id, "", images, label="", instances=""))
        listing.references[case_id] = partial(build_references, case_id, item, readings.get(item.uid))
    return listing


def build_references(
    case_id: str, series: Series, reading: Path | None, image: StoredImage, params: InspectParams
) -> References:
    """Makes the consensus masks of one scan.

    Args:
        case_id: Name of the case.
        series: The scan's files.
        reading: Its XML file, None when there is none.
        image: The scan.
        params: Of `agreement`: readers that must have drawn a voxel.

    Returns:
        Objects with a mask have its centre of gravity and the diameter of the sphere of its volume. Ignored
        are nodules on which fewer readers agree (with centre and size of what any reader drew), and marks
        of a point (nodules under 3 mm, non-nodules; as findings of 10 mm, as LUNA16 counts them).
        Without maps when the XML is missing or malformed, or does not fit the series.
    """
    if reading is None:
        return References(findings=(Finding("missing", f"no XML file names the series {series.uid}"),))
    try:
        read = load_reading(reading)
        marks = () if read is None else read.marks
        places = locate_contours(marks, series.folder, image, reading)
    except ImageFileError as problem:
        return References(findings=(Finding(problem.code, f"{reading.name}: {problem.what}"),))
    shape = image.array.shape[1:]
    drawn = [draw_mark(mark, at, shape) for mark, at in zip(marks, places, strict=True)]
    nodules = group_marks([(m.reader, v) for m, v in zip(marks, drawn, strict=True) if v.size])
    instances, rows = _draw_nodules(case_id, nodules, params.agreement, shape, image.affine)
    for mark, at, voxels in zip(marks, places, drawn, strict=True):
        if not voxels.size and any(z is not None for z in at):
            centre = _centre_of_points(mark.contours, at, image.affine)
            rows.append(ObjectRow(case_id, 0, NODULE, MARK_DIAMETER_MM, *centre, 0, 1, ignored=True))
    findings = tuple(_outside(marks, places, image))
    readers = _compare_readers(case_id, 0 if read is None else read.readers, marks, drawn)
    return References(instances, objects=tuple(rows), findings=findings, readers=readers)


def locate_contours(marks: Sequence[Mark], folder: Path, image: StoredImage, path: Path) -> list[Places]:
    """Finds the Z index of each contour of each mark: by the UID of its slice, else by its position.

    Args:
        marks: Of all readers.
        folder: Of the series.
        image: The scan.
        path: The XML file, for errors.

    Returns:
        None where the slice is not part of the image.

    Raises:
        ImageFileError: A point lies beyond the image's columns and rows.
    """
    from pipeline.io.dicom_slices import list_slices

    slices = list_slices(folder)
    index = {item.instance_uid: number for number, item in enumerate(slices)}
    heights = np.array([item.position_lps[2] for item in slices])
    size = image.array.shape[1:3]
    places: list[Places] = []
    for mark in marks:
        for contour in mark.contours:
            if contour.points.min() < 0 or (contour.points.max(axis=0) >= size).any():
                low, high = contour.points.min(axis=0), contour.points.max(axis=0)
                what = f"{mark.name} reaches from {low} to {high}, the image has {size[0]} x {size[1]} pixels"
                raise ImageFileError("xml_malformed", what, path, "download the XML file again")
        places.append([_locate(contour, index, heights) for contour in mark.contours])
    return places


def _locate(contour: Contour, index: Mapping[str, int], heights: NDArray[np.float64]) -> int | None:
    if contour.slice_uid in index:
        return index[contour.slice_uid]
    distances = np.abs(heights - contour.z_mm)
    nearest = int(distances.argmin())
    step = float(np.median(np.abs(np.diff(heights)))) if len(heights) > 1 else 1.0
    return nearest if distances[nearest] <= FAR * step else None


def _draw_nodules(
    case_id: str, nodules: Sequence[Nodule], agreement: int, shape: tuple[int, ...], affine: Affine
) -> tuple[NDArray[np.integer[Any]], list[ObjectRow]]:
    """Instance map of the nodules with a consensus, and a row a nodule."""
    instances = np.zeros(shape, np.min_scalar_type(len(nodules)))
    rows, count = [], 0
    for nodule in nodules:
        voxels = nodule.consensus(agreement)
        ignored = voxels.size == 0
        count += not ignored
        instances.ravel()[voxels] = count
        seen = nodule.consensus(1) if ignored else voxels
        rows.append(
            ObjectRow(
                case_id,
                0 if ignored else count,
                NODULE,
                _diameter_mm(seen, affine),
                *_centre_mm(np.unravel_index(seen, shape), affine),
                voxels=int(voxels.size),
                readers=len(nodule.masks),
                agreement=nodule.agreement,
                ignored=ignored,
            )
        )
    return instances, rows


def _compare_readers(
    case_id: str, readers: int, marks: Sequence[Mark], drawn: Sequence[Voxels]
) -> tuple[ReaderRow, ...]:
    """How far the readers agree on all nodules of a scan together; nothing with fewer than two."""
    if readers < 2:
        return ()
    nothing = np.empty(0, np.int64)
    masks = [
        np.unique(np.concatenate([nothing, *(v for m, v in zip(marks, drawn, strict=True) if m.reader == r)]))
        for r in range(readers)
    ]
    sizes = [mask.size for mask in masks]
    return (ReaderRow(case_id, NODULE, readers, mean_pairwise_dice(masks), min(sizes), max(sizes)),)


def _outside(marks: Sequence[Mark], places: Sequence[Places], image: StoredImage) -> list[Finding]:
    """A warning when contours lie on slices that are not here."""
    contours = [contour for mark in marks for contour in mark.contours]
    missing = [c.z_mm for c, z in zip(contours, (z for at in places for z in at), strict=True) if z is None]
    if not missing:
        return []
    ends = [float((image.affine @ [0, 0, z, 1])[2]) for z in (0, image.array.shape[3] - 1)]
    what = (
        f"{len(missing)} of {len(contours)} contours and points lie on slices that are not here, z from "
        f"{min(missing):.1f} to {max(missing):.1f} mm; the series spans {min(ends):.1f} to {max(ends):.1f} mm"
    )
    return [Finding("annotation_outside", what, fatal=False)]


def _diameter_mm(voxels: Voxels, affine: Affine) -> float:
    """Of the sphere of the same volume."""
    return float((6 * voxels.size * voxel_volume_mm3(affine) / math.pi) ** (1 / 3))


def _centre_mm(index: tuple[NDArray[np.intp], ...], affine: Affine) -> Position:
    x, y, z = affine[:3, :3] @ np.mean(index, axis=1) + affine[:3, 3]
    return float(x), float(y), float(z)


def _centre_of_points(contours: Sequence[Contour], places: Places, affine: Affine) -> Position:
    """Middle of the points that lie within the image."""
    points = [
        np.column_stack([contour.points, np.full(len(contour.points), z)])
        for contour, z in zip(contours, places, strict=True)
        if z is not None
    ]
    return _centre_mm(tuple(np.concatenate(points).T), affine)
