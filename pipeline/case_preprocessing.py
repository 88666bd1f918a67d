"""One raw case into the store, and the memory that takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from pipeline.cases import CaseRecord
from pipeline.errors import SegtrailError
from pipeline.io.images import load_label_map, load_volume
from pipeline.plan import Plan
from pipeline.preprocessing import foreground_voxels, prepare_instances, prepare_label_map, prepare_volume
from pipeline.store import StoredCase, save_case

MOST_POSITIONS = 4000  # foreground voxels kept a class and case for centring patches


def preprocess_case(case: CaseRecord, plan: Plan, dtype: str, folder: Path) -> str:
    """Computes one case and saves it.

    Args:
        case: With a label map.
        plan: The data set's plan.
        dtype: Of the stored image, "float16" or "float32".
        folder: The store.

    Returns:
        sha256 of the case's file.

    Raises:
        SegtrailError: A file cannot be used, or memory ran out.
    """
    try:
        return _preprocess(case, plan, dtype, folder)
    except MemoryError as error:
        where = f"{case.case_id} ({case.images[0]})"
        fix = "close other programs, set SEGTRAIL_WORKERS=1, or give a larger plan.spacing_mm"
        raise SegtrailError("memory ran out", where, fix) from error


def _preprocess(case: CaseRecord, plan: Plan, dtype: str, folder: Path) -> str:
    volume = load_volume([Path(path) for path in case.images])
    image = prepare_volume(volume, plan, f"{case.case_id} ({case.images[0]})", getattr(torch, dtype)).numpy()
    affine = volume.affine
    del volume  # before the reference is read
    # Inspection has found all on one grid; the image's spacing decides the shape of all.
    reference = replace(load_label_map(Path(case.label)), affine=affine)
    objects = load_label_map(Path(case.instances)).array if case.instances else None
    label = prepare_label_map(reference, plan)
    foreground = foreground_voxels(label, len(plan.label_names), MOST_POSITIONS, int(case.sha256[:12], 16))
    where = f"{case.case_id} ({case.instances or case.label})"
    instances, labels = prepare_instances(reference, objects, plan, where)
    return save_case(folder, case.case_id, StoredCase(image, label, foreground, instances, labels))


def preprocess_request(case: dict[str, Any], plan: dict[str, Any], dtype: str, folder: str) -> str:
    """`preprocess_case` for a worker process, which is sent values of JSON."""
    record = TypeAdapter(CaseRecord).validate_python(case)
    return preprocess_case(record, Plan.model_validate(plan), dtype, Path(folder))
