"""Cases that several readers labelled, each in a file of his own: one reference, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.cases import Finding
from pipeline.config import InspectParams
from pipeline.errors import ImageFileError
from pipeline.io.consensus import CONSENSUS, LabelArray, mean_pairwise_dice
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import read_image_file, to_label_map
from pipeline.io.references import References, shorten
from pipeline.io.stored import StoredImage
from pipeline.reader_rows import ReaderRow
from pipeline.volume import LabelMap, corner_distance_mm


def build_consensus(
    case_id: str, paths: Sequence[Path], facts: DatasetFacts, image: StoredImage, params: InspectParams
) -> References:
    """Brings the label maps of several readers to one.

    Args:
        case_id: Name of the case.
        paths: A file a reader, in the order of the readers.
        facts: Of the data set; its values are the legal ones.
        image: The case's image, on whose grid all must lie.
        params: Of `consensus`, how; and of the tolerance of the grids.

    Returns:
        The consensus, and a row a class and region; without a map when a file is not usable.
    """
    labels, findings = [], []
    for number, path in enumerate(paths, 1):
        try:
            label_map = to_label_map(read_image_file(path)[0], path)
        except ImageFileError as problem:
            findings.append(Finding(problem.code, f"label {number} ({path.name}): {problem.what}"))
            continue
        wrong = _check(label_map, image, facts, params)
        findings += [Finding(code, f"label {number} ({path.name}): {what}") for code, what in wrong]
        labels.append(label_map.array)
    if findings:
        return References(findings=tuple(findings))
    label = CONSENSUS[params.consensus](labels, facts.ignore)
    return References(label=label, readers=tuple(measure_readers(case_id, labels, facts)))


def _check(
    label_map: LabelMap, image: StoredImage, facts: DatasetFacts, params: InspectParams
) -> list[tuple[str, str]]:
    shape, limit = image.array.shape[1:], params.affine_tolerance_mm
    if label_map.array.shape != shape:
        return [("geometry_mismatch", f"shape {label_map.array.shape}, the image has {shape}")]
    distance = corner_distance_mm(shape, label_map.affine, image.affine)
    if distance > limit:
        what = (
            f"corners lie {distance:.3g} mm from the image's, limit inspect.affine_tolerance_mm = {limit:g}"
        )
        return [("geometry_mismatch", what)]
    known = {*facts.labels.values(), facts.ignore}
    unknown = [str(value) for value in np.unique(label_map.array).tolist() if value not in known]
    if unknown:
        legal = ", ".join(str(value) for value in sorted(v for v in known if v is not None))
        return [("label_value_unknown", f"value {shorten(unknown)}; known are {legal}")]
    return []


def measure_readers(case_id: str, labels: Sequence[LabelArray], facts: DatasetFacts) -> list[ReaderRow]:
    """How far readers agree, by region and class; over the voxels that all of them labelled.

    Args:
        case_id: For the rows.
        labels: (X, Y, Z) of each reader; a single one gives no rows.
        facts: Names classes and regions.
    """
    if len(labels) < 2:
        return []
    wanted: Mapping[str, tuple[int, ...]] = {
        **facts.regions,
        **{name: (value,) for name, value in facts.foreground.items()},
    }
    known = None
    if facts.ignore is not None:
        known = np.all([label != facts.ignore for label in labels], axis=0)
    rows = []
    for name, values in wanted.items():
        masks = [np.isin(label, values) for label in labels]
        voxels = [np.flatnonzero(mask if known is None else mask & known) for mask in masks]
        sizes = [part.size for part in voxels]
        rows.append(ReaderRow(case_id, name, len(labels), mean_pairwise_dice(voxels), min(sizes), max(sizes)))
    return rows
