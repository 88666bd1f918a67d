"""Layout `luna16`: CT as MetaImage in subset folders, nodules listed by centre and diameter.

LUNA16 has no nodule masks: a nodule's mask here is the **sphere** of its annotated diameter.

Source: Setio et al., The LUNA16 challenge, Medical Image Analysis 42:1-13 (2017).
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.cases import CaseRecord, Finding
from pipeline.config import InspectParams
from pipeline.io.dataset import CONTRACT, DatasetFacts, Listing, read_patients, read_table
from pipeline.io.references import OBJECT, Piece, References, overlap_findings, paint, shorten
from pipeline.io.stored import StoredImage
from pipeline.objects import ObjectRow
from pipeline.volume import Affine

LOGGER = logging.getLogger("segtrail")
TABLE_FOLDERS = ("", "CSVFILES", "evaluation/annotations")  # beside the subsets; as downloaded; as evaluated
COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
UNKNOWN_DIAMETER_MM = 10.0  # what the official evaluation takes for an excluded finding of diameter -1
NODULE = "nodule"

Centre = tuple[float, float, float]


@dataclass(frozen=True)
class Mark:
    """One row of an annotation table.

    Attributes:
        centre_mm: World position, RAS+ (the tables have LPS: x and y change their sign).
        diameter_mm: Of the sphere.
    """

    centre_mm: Centre
    diameter_mm: float


def list_dataset(folder: Path) -> Listing:
    """Lists the series `subset*/<seriesuid>.mhd`; rows of the tables without an image are left out.

    `annotations.csv` lies beside the subsets, in CSVFILES or in evaluation/annotations, and so does the
    optional `annotations_excluded.csv`. A series is a patient, unless `patients.csv` (case_id, patient_id,
    optionally site) says otherwise.
    """
    listing = Listing(folder)
    listing.facts = DatasetFacts(
        folder.name,
        ("CT",),
        {"background": 0, NODULE: OBJECT},
        "LUNA16 chest CT. The masks are spheres of the annotated diameters, not drawn outlines.",
    )
    marks = _read_marks(_find_table(folder, "annotations.csv"), listing)
    path = _find_table(folder, "annotations_excluded.csv")
    excluded = _read_marks(path, listing, UNKNOWN_DIAMETER_MM) if path.exists() else {}
    images = {path.stem: path for path in sorted(folder.glob("subset*/*.mhd")) if path.name[0] != "."}
    patients = read_patients(folder / "patients.csv", images.keys(), listing)
    for case_id, image in images.items():
        patient_id, site = patients.get(case_id, (case_id, ""))
        record = CaseRecord(case_id, patient_id, site, (image.as_posix(),), label="", instances="")
        listing.records.append(record)
        listing.references[case_id] = partial(
            build_references, case_id, marks.get(case_id, ()), excluded.get(case_id, ())
        )
    if without := len(marks.keys() - images.keys()):
        LOGGER.info("%d series of annotations.csv have no image here and are left out", without)
    return listing


def build_references(
    case_id: str, marks: Sequence[Mark], excluded: Sequence[Mark], image: StoredImage, params: InspectParams
) -> References:
    """Makes the spheres of one scan; the objects keep the official centres and diameters.

    Args:
        case_id: Name of the case.
        marks: Its nodules.
        excluded: Its findings that count neither as found nor as missed; those outside the image are dropped.
        image: The scan.
        params: Play no role here: LUNA16 lists what 3 of 4 readers agree on.

    Returns:
        Nodules whose centre lies outside the scan are left out, with a warning. One that lies wholly beneath
        others has no voxel, and so the id 0, but it counts: FROC divides by the annotated nodules.
    """
    shape = image.array.shape[1:]
    inside = [mark for mark in marks if _is_inside(mark, image)]
    outside = [mark for mark in marks if not _is_inside(mark, image)]
    findings = [_outside_finding(outside, len(marks), image)] if outside else []
    pieces = [make_sphere(mark.centre_mm, mark.diameter_mm, shape, image.affine) for mark in inside]
    instances, ids, shared = paint(pieces, shape)
    findings += overlap_findings(ids, [_text(mark.centre_mm) for mark in inside], shared)
    voxels = np.bincount(instances[instances > 0], minlength=len(ids) + 1)
    rows = [
        ObjectRow(case_id, number, NODULE, mark.diameter_mm, *mark.centre_mm, int(voxels[number]))
        for number, mark in zip(ids, inside, strict=True)
    ]
    rows += [
        ObjectRow(case_id, 0, NODULE, mark.diameter_mm, *mark.centre_mm, 0, ignored=True)
        for mark in excluded
        if _is_inside(mark, image)
    ]
    return References(instances, objects=tuple(rows), findings=tuple(findings))


def make_sphere(centre_mm: Centre, diameter_mm: float, shape: tuple[int, ...], affine: Affine) -> Piece:
    """The voxels of a grid whose centres lie within a sphere, and in any case the one nearest its centre.

    Args:
        centre_mm: World position within the grid.
        diameter_mm: Greater than 0.
        shape: X, Y, Z of the grid.
        affine: (4, 4), voxel index to the same world.
    """
    inverse = np.linalg.inv(affine)
    centre = inverse[:3, :3] @ centre_mm + inverse[:3, 3]
    reach = np.sqrt((inverse[:3, :3] ** 2).sum(axis=1)) * diameter_mm / 2  # half the sphere's box, in voxels
    nearest = np.clip(np.rint(centre), 0, np.array(shape) - 1).astype(int)
    low = np.clip(np.ceil(centre - reach).astype(int), 0, nearest)
    high = np.clip(np.floor(centre + reach).astype(int), nearest, np.array(shape) - 1)
    axes = [np.arange(first, last + 1) for first, last in zip(low, high, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    offsets = (index - centre) @ affine[:3, :3].T
    mask = (offsets**2).sum(axis=-1) <= (diameter_mm / 2) ** 2
    mask[tuple(nearest - low)] = True
    x, y, z = (slice(int(first), int(last) + 1) for first, last in zip(low, high, strict=True))
    return Piece((x, y, z), mask)


def _is_inside(mark: Mark, image: StoredImage) -> bool:
    """Whether the centre lies in a voxel of the image."""
    inverse = np.linalg.inv(image.affine)
    index = inverse[:3, :3] @ mark.centre_mm + inverse[:3, 3]
    return bool((index >= -0.5).all() and (index < np.array(image.array.shape[1:]) - 0.5).all())


def _outside_finding(outside: Sequence[Mark], count: int, image: StoredImage) -> Finding:
    ends = np.array([[0, 0, 0], image.array.shape[1:]]) - 0.5
    corners = np.sort(ends @ image.affine[:3, :3].T + image.affine[:3, 3], axis=0)
    low, high = (_text((float(x), float(y), float(z))) for x, y, z in corners)
    places = shorten([_text(mark.centre_mm) for mark in outside])
    what = f"{len(outside)} of {count} nodules lie outside the scan, which spans {low} to {high} mm: {places}"
    return Finding("annotation_outside", what, fatal=False)


def _text(position: Centre) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in position) + ")"


def _find_table(folder: Path, name: str) -> Path:
    """Where a table lies; where it belongs when it is nowhere."""
    candidates = [folder / place / name for place in TABLE_FOLDERS]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _read_marks(path: Path, listing: Listing, unknown_mm: float = -1) -> dict[str, list[Mark]]:
    """The marks of each series; `unknown_mm` stands for a diameter of -1; rows that are no sphere are problems."""
    marks: dict[str, list[Mark]] = defaultdict(list)
    for number, row in enumerate(read_table(path, COLUMNS, listing), 2):
        try:
            x, y, z, diameter = (float(row[name]) for name in COLUMNS[1:])
        except ValueError:
            x = y = z = diameter = math.nan
        if diameter == -1:
            diameter = unknown_mm
        if not (math.isfinite(x + y + z + diameter) and diameter > 0):
            what = f"{', '.join(row[name] for name in COLUMNS[1:])} is no position and diameter in mm"
            listing.problem(what, f"{path}, row {number}", CONTRACT)
            continue
        marks[row["seriesuid"]].append(Mark((-x, -y, z), diameter))
    return marks
