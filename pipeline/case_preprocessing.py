"""One raw case into the store, and the memory that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from pipeline.cases import CaseRecord
from pipeline.disk import explain_full_disk
from pipeline.errors import SegtrailError
from pipeline.instances import IntegerMap
from pipeline.io.case_maps import load_instance_ids, load_reference
from pipeline.io.images import load_volume
from pipeline.plan import Plan
from pipeline.preprocessing import foreground_voxels, prepare_instances, prepare_label_map, prepare_volume
from pipeline.store import StoredCase, save_case
from pipeline.volume import LabelMap

MOST_POSITIONS = 4000  # foreground voxels kept a class and case for centring patches


@dataclass(frozen=True)
class Target:
    """A grid onto which a case is put.

    Attributes:
        plan: Gives spacing, normalisation and labels.
        folder: The store of this grid.
    """

    plan: Plan
    folder: Path


def preprocess_case(case: CaseRecord, targets: Sequence[Target], dtype: str) -> list[str]:
    """Computes one case on one or more grids and saves it; its files are read once.

    Args:
        case: With a label map.
        targets: Grids and their stores.
        dtype: Of the stored image, "float16" or "float32".

    Returns:
        sha256 of the case's file in each store.

    Raises:
        SegtrailError: A file cannot be used, or memory or the disk ran out.
    """
    try:
        with explain_full_disk(targets[0].folder, "dvc repro preprocess: what was preprocessed is kept"):
            return _preprocess(case, targets, dtype)
    except MemoryError as error:
        where = f"{case.case_id} ({case.images[0]})"
        fix = "close other programs, set SEGTRAIL_WORKERS=1, or give a larger plan.spacing_mm"
        raise SegtrailError("memory ran out", where, fix) from error


def _preprocess(case: CaseRecord, targets: Sequence[Target], dtype: str) -> list[str]:
    volume = load_volume([Path(path) for path in case.images])
    where = f"{case.case_id} ({case.images[0]})"
    images = [prepare_volume(volume, t.plan, where, getattr(torch, dtype)).numpy() for t in targets]
    affine = volume.affine
    del volume  # before the reference is read
    # Inspection has found all on one grid; the image's spacing decides the shape of all.
    reference = LabelMap(load_reference(case, affine).array, affine)
    objects = load_instance_ids(case, affine)
    return [
        _save(case, target, image, reference, objects) for target, image in zip(targets, images, strict=True)
    ]


def _save(
    case: CaseRecord, target: Target, image: NDArray[Any], reference: LabelMap, objects: IntegerMap | None
) -> str:
    plan = target.plan
    label = prepare_label_map(reference, plan)
    foreground = foreground_voxels(label, len(plan.label_names), MOST_POSITIONS, int(case.sha256[:12], 16))
    where = f"{case.case_id} ({case.instances or case.label})"
    instances, labels = prepare_instances(reference, objects, plan, where)
    return save_case(target.folder, case.case_id, StoredCase(image, label, foreground, instances, labels))


def preprocess_request(
    case: dict[str, Any], targets: list[tuple[dict[str, Any], str]], dtype: str
) -> list[str]:
    """`preprocess_case` for a worker process, which is sent values of JSON: plan and folder of each target."""
    record = TypeAdapter(CaseRecord).validate_python(case)
    grids = [Target(Plan.model_validate(plan), Path(folder)) for plan, folder in targets]
    return preprocess_case(record, grids, dtype)
