"""Stage `preprocess`: raw cases become patches-to-be in `data/preprocessed/`, one file a case.

The folder is kept between runs; only cases whose content, plan or code changed are computed.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path

from prefect import flow

from flows.stage import map_cases, run_stage
from flows.stage_code import code_digest
from pipeline.cases import CaseRecord, load_cases, usable_cases
from pipeline.config import load_params
from pipeline.io.images import load_label_map, load_volume
from pipeline.plan import Plan, load_plan
from pipeline.preprocessing import (
    foreground_voxels,
    prepare_instances,
    prepare_label_map,
    prepare_volume,
)
from pipeline.store import Manifest, StoredCase, content_key, save_case

LOGGER = logging.getLogger("segtrail")
OUTPUT = Path("data/preprocessed")
MOST_POSITIONS = 4000  # foreground voxels kept a class and case for centring patches


def case_key(case: CaseRecord, plan: Plan, dtype: str, code: str) -> str:
    """Identity of a case's product: its files, what the plan says of preprocessing, and the code."""
    relevant = plan.model_dump_json(include={"label_values", "spacing_mm", "normalization"})
    return content_key(case.sha256, relevant, dtype, code)


def preprocess_case(case: CaseRecord, plan: Plan, dtype: str) -> str:
    """Computes one case and returns the sha256 of its file."""
    volume = load_volume([Path(path) for path in case.images])
    image = prepare_volume(volume, plan, f"{case.case_id} ({case.images[0]})").numpy().astype(dtype)
    # Inspection has found all on one grid; the image's spacing decides the shape of all.
    reference = replace(load_label_map(Path(case.label)), affine=volume.affine)
    objects = load_label_map(Path(case.instances)).array if case.instances else None
    label = prepare_label_map(reference, plan)
    foreground = foreground_voxels(label, len(plan.label_names), MOST_POSITIONS, int(case.sha256[:12], 16))
    where = f"{case.case_id} ({case.instances or case.label})"
    instances, labels = prepare_instances(reference, objects, plan, where)
    return save_case(OUTPUT, case.case_id, StoredCase(image, label, foreground, instances, labels))


@flow(name="preprocess")
def preprocess_flow() -> None:
    """Brings the store in line with the cases and the plan."""
    plan = load_plan(Path("data/plan/plan.json"))
    dtype = load_params().preprocess.dtype
    cases = [case for case in usable_cases(load_cases(Path("data/inspected/cases.csv"))) if case.label]
    code = code_digest("preprocess")
    keys = {case.case_id: case_key(case, plan, dtype, code) for case in cases}
    manifest = Manifest(OUTPUT)
    missing = [case for case in cases if not manifest.holds(case.case_id, keys[case.case_id])]
    lock = threading.Lock()

    def work(case: CaseRecord) -> None:
        sha256 = preprocess_case(case, plan, dtype)
        with lock:
            manifest.add(case.case_id, keys[case.case_id], sha256)

    map_cases(work, missing, "preprocess", lambda case: case.case_id)
    removed = manifest.keep_only(keys)
    LOGGER.info(
        "preprocessed %d, unchanged %d, removed %d", len(missing), len(cases) - len(missing), len(removed)
    )


if __name__ == "__main__":
    run_stage(preprocess_flow)
