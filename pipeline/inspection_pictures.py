"""Pictures of cases with findings: the image in three planes, and the label where its own header puts it."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.cases import CaseRecord
from pipeline.finding_codes import is_drawn
from pipeline.inspected_case import InspectedCase
from pipeline.io.case_maps import load_reference
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import load_volume
from pipeline.io.stored import write_whole
from pipeline.overlays import draw_overlay
from pipeline.volume import LabelMap, Volume

MOST_AXIS = 384  # voxels along an axis of a picture; finer ones cannot be told apart on the page


def draw_case(
    volume: Volume, label: LabelMap | None, labels: Mapping[str, int], title: str, path: Path
) -> None:
    """Writes a PNG of a case.

    Args:
        volume: Of several channels the first is shown; NaN and Inf are black.
        label: On any grid; it is drawn where its affine puts it in the world. None: the image alone.
        labels: Value of each class; values that are none of them are drawn too.
        title: Heading.
        path: PNG file to write.
    """
    volume = _thinned(volume)
    placed = None if label is None else _onto(label, volume)
    values = {name: value for name, value in labels.items() if value}
    if placed is not None:
        there = set(np.unique(placed.array).tolist()) - {0}
        unknown = sorted(there - set(values.values()))
        values |= {f"value {value:g}": value for value in unknown[:3]}
    draw_overlay(volume, None, placed, path, title, values, whole=True)


def _thinned(volume: Volume) -> Volume:
    """Every n-th voxel along long axes, finite."""
    steps = tuple(max(1, -(-n // MOST_AXIS)) for n in volume.array.shape[1:])
    picture = volume.array.shape[-1] == 1
    steps = (1, 1, 1) if picture else steps
    array = volume.array[(slice(None), *(slice(None, None, step) for step in steps))]
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        low = float(array[finite].min()) if finite.any() else 0.0
        array = np.where(finite, array, np.float32(low))
    affine = volume.affine.copy()
    affine[:3, :3] *= steps
    return Volume(array, affine)


def _onto(label: LabelMap, volume: Volume) -> LabelMap:
    """A label on the grid of a volume, by nearest neighbour in the world; outside of it is background."""
    shape = volume.array.shape[1:]
    if label.array.shape == shape and np.array_equal(label.affine, volume.affine):
        return LabelMap(_integers(label.array), volume.affine)
    matrix = np.linalg.solve(label.affine, volume.affine)
    array = ndimage.affine_transform(
        _integers(label.array), matrix[:3, :3], matrix[:3, 3], shape, order=0, mode="constant"
    )
    return LabelMap(array, volume.affine)


def _integers(array: NDArray[Any]) -> NDArray[Any]:
    """Labels as integers, those that are none rounded: a picture shows where they lie, not what they are."""
    if array.dtype.kind in "iu":
        return array
    whole: NDArray[Any] = np.rint(np.nan_to_num(array)).astype(np.int32)
    return whole


def draw_set_pictures(
    results: Sequence[InspectedCase], facts: DatasetFacts, folder: Path, cache: Path, most: int
) -> None:
    """Draws cases of which only the whole set shows that something is wrong, as far as the report shows them.

    Args:
        results: What `inspect_set` returned.
        facts: Of the data set.
        folder: Of pictures; those that are there stay.
        cache: Where pictures of earlier runs are kept, by the content of their case.
        most: Cases a code.
    """
    counts: Counter[str] = Counter()
    for result in sorted(results, key=lambda r: r.record.case_id):
        codes = {f.code.partition(":")[0] for f in result.findings if is_drawn(f.code)}
        wanted = [code for code in codes if counts[code] < most]
        counts.update(wanted)
        path = folder / f"{result.record.case_id}.png"
        if wanted and result.fingerprint is not None and not path.exists():
            _draw_again(result.record, facts, path, cache)


def _draw_again(case: CaseRecord, facts: DatasetFacts, path: Path, cache: Path) -> None:
    """Reads a case once more for its picture, unless that was drawn before."""
    parts = (case.case_id, case.sha256, *case.fixes, repr(facts.labels))
    kept = cache / f"{hashlib.sha256('|'.join(parts).encode()).hexdigest()}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not kept.exists():
        volume = load_volume([Path(name) for name in case.images])
        label = load_reference(case, volume.affine) if case.label else None
        kept.parent.mkdir(parents=True, exist_ok=True)
        drawn = path.with_suffix(".partial")
        draw_case(volume, label, facts.labels, case.case_id, drawn)
        write_whole(drawn.read_bytes(), kept)
        drawn.unlink()
    shutil.copyfile(kept, path)
