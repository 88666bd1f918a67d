"""The label map of a DICOM series from the segmentations and structure sets that were drawn on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cases import Finding
from pipeline.config import InspectParams
from pipeline.errors import ImageFileError
from pipeline.io.dicom_tree import SEGMENTATION, LabelObject
from pipeline.io.drawn import Drawing
from pipeline.io.references import References, shorten
from pipeline.io.stored import StoredImage


def build_references(
    series: Path,
    objects: Sequence[LabelObject],
    values: Mapping[str, int],
    image: StoredImage,
    params: InspectParams,
) -> References:
    """Brings everything that was drawn on a series onto its grid.

    Args:
        series: Path of the series.
        objects: Segmentations and structure sets that label it.
        values: Value of each class by its name; names are compared without regard to case.
        image: The series.
        params: Not needed: whose drawing it is, is not known.

    Returns:
        The label map. Masks of one name are joined; a voxel of several classes goes to the smallest of them
        (`masks_overlap`). Segments of other names are left out (`label_left_out`), so are contours on
        slices that are not here (`annotation_outside`). No map when an object cannot be read or lies on another
        grid.
    """
    from pipeline.io.dicom_seg import read_segmentation
    from pipeline.io.rtstruct import read_structures

    known = {name.casefold(): value for name, value in values.items() if value}
    masks: dict[int, NDArray[np.bool_]] = {}
    findings: list[Finding] = []
    unknown: list[str] = []
    for item in objects:
        read = read_segmentation if item.modality == SEGMENTATION else read_structures
        try:
            drawings, remarks = read(item.path, image, known)
        except ImageFileError as problem:
            return References(findings=(Finding(problem.code, f"{item.path.name}: {problem.what}"),))
        findings += remarks
        unknown += [name for name in item.names if name.casefold() not in known]
        for drawing in drawings:
            _add(masks, drawing, known[drawing.name.casefold()], image.array.shape[1:])
    findings += _joined(objects, known)
    if unknown:
        what = f"no class of dataset.json, left out: {shorten(sorted(set(unknown)))}"
        findings.append(Finding("label_left_out", what, fatal=False))
    label, shared = _paint(masks, image.array.shape[1:])
    if shared:
        what = f"{shared} voxel(s) belong to several classes, each goes to the smallest of them"
        findings.append(Finding("masks_overlap", what, fatal=False))
    return References(label=label, findings=tuple(findings))


def _joined(objects: Sequence[LabelObject], known: Mapping[str, int]) -> list[Finding]:
    """Says which classes several objects draw: versions, or readers, that should not both count."""
    counts = Counter(name for item in objects for name in {n.casefold() for n in item.names} if name in known)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if not twice:
        return []
    names = ", ".join(item.path.name for item in objects)
    what = f"several of {names} draw {shorten(twice)}; their masks are joined"
    return [Finding("label_joined", what, fatal=False)]


def _add(masks: dict[int, NDArray[np.bool_]], drawing: Drawing, value: int, shape: tuple[int, ...]) -> None:
    mask = masks.setdefault(value, np.zeros(shape, bool))
    mask.ravel()[drawing.voxels] = True


def _paint(
    masks: Mapping[int, NDArray[np.bool_]], shape: tuple[int, ...]
) -> tuple[NDArray[np.integer[Any]], int]:
    """The label map, the smallest mask on top, and the number of voxels with several classes."""
    label = np.zeros(shape, np.min_scalar_type(max(masks, default=0)))
    shared = np.zeros(shape, bool)
    for value, mask in sorted(masks.items(), key=lambda item: (-int(item[1].sum()), item[0])):
        shared |= mask & (label > 0)
        label[mask] = value
    return label, int(shared.sum())
