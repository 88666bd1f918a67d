"""Stage `preprocess`: raw cases become patches-to-be in `data/preprocessed/`, one file a case.

The folder is kept between runs; only cases whose content, plan or code changed are computed.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
from prefect import flow

from flows.stage import map_cases, run_stage
from flows.stage_code import code_digest
from pipeline.cases import CaseRecord, load_cases, usable_cases
from pipeline.config import load_params
from pipeline.plan import Plan, load_plan
from pipeline.store import Manifest, content_key
from pipeline.workers import WorkerPool

LOGGER = logging.getLogger("segtrail")
OUTPUT = Path("data/preprocessed")
# From here on the start of processes (2.5 s each, PyTorch) is small beside the work (40 ns a voxel and channel), and
# a case can be large enough to end its process.
PROCESS_VOXELS = 200_000_000
WORKER_BYTES = 400 << 20  # of a process before its first case
MASK = 7  # bytes a voxel while the non-zero mask is made
GIB = 1 << 30
WORK = "pipeline.case_preprocessing:preprocess_request"  # by name: PyTorch is loaded in the workers alone


def case_key(case: CaseRecord, plan: Plan, dtype: str, code: str) -> str:
    """Identity of a case's product: its files, what the plan says of preprocessing, and the code."""
    relevant = plan.model_dump_json(include={"label_values", "spacing_mm", "normalization"})
    return content_key(case.sha256, relevant, dtype, code)


def estimate_bytes(case: CaseRecord, plan: Plan, dtype: str) -> int:
    """Memory that a worker process needs for a case, from above: the file unpacked and copied, and the result."""
    channels, source = len(plan.channels), math.prod(case.shape)
    target = source * math.prod(case.spacing_mm) / math.prod(plan.spacing_mm)
    read = 2 * 4 * channels * source
    result = (channels * (2 if dtype == "float16" else 4) + 3) * target
    if any(how.nonzero_mask for how in plan.normalization):
        read += MASK * source
    return WORKER_BYTES + int(read + result)


def available_bytes() -> int:
    """Memory that is free now, also within the limit of a container (cgroup version 2)."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (
            int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii"))
            for name in ("memory.max", "memory.current")
        )
        reclaimable = re.search(
            r"^inactive_file (\d+)$", Path("/sys/fs/cgroup/memory.stat").read_text(), re.M
        )
    except (OSError, ValueError):  # no such limit ("max")
        return free
    # Files that were read lie in memory until somebody needs it.
    return min(free, limit - used + (int(reclaimable[1]) if reclaimable else 0))


def count_workers(cases: Sequence[CaseRecord], plan: Plan, dtype: str) -> int:
    """How many cases are worked on at once: `SEGTRAIL_WORKERS`, else the cores; fewer where memory is short."""
    wanted = int(os.environ.get("SEGTRAIL_WORKERS", "0")) or os.cpu_count() or 1
    largest = max((estimate_bytes(case, plan, dtype) for case in cases), default=WORKER_BYTES)
    free = available_bytes()
    fitting = max(1, min(wanted, free // largest))
    if fitting < min(wanted, len(cases)):
        LOGGER.info(
            "%d worker(s) instead of %d: the largest case takes up to %.1f GB, %.1f GB are free",
            fitting, wanted, largest / GIB, free / GIB,
        )  # fmt: skip
    return min(fitting, max(1, len(cases)))


@contextmanager
def _preprocessor(
    cases: Sequence[CaseRecord], plan: Plan, dtype: str, workers: int
) -> Iterator[Callable[[CaseRecord], str]]:
    """What computes a case: worker processes when there is much to do, else this process."""
    if sum(math.prod(case.shape) for case in cases) * len(plan.channels) < PROCESS_VOXELS:
        from pipeline.case_preprocessing import preprocess_case  # (PyTorch takes a second and 300 MB)

        yield lambda case: preprocess_case(case, plan, dtype, OUTPUT)
        return
    fix = f"a larger plan.spacing_mm (now {list(plan.spacing_mm)})"
    settings = plan.model_dump(mode="json"), dtype, str(OUTPUT)
    with WorkerPool(WORK, workers) as pool:
        yield lambda case: str(pool.run(f"{case.case_id} ({case.images[0]})", fix, asdict(case), *settings))


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
    workers = count_workers(missing, plan, dtype)
    with _preprocessor(missing, plan, dtype, workers) as compute:

        def work(case: CaseRecord) -> None:
            sha256 = compute(case)
            with lock:
                manifest.add(case.case_id, keys[case.case_id], sha256)

        map_cases(work, missing, "preprocess", lambda case: case.case_id, workers)
    removed = manifest.keep_only(keys)
    LOGGER.info(
        "preprocessed %d, unchanged %d, removed %d", len(missing), len(cases) - len(missing), len(removed)
    )


if __name__ == "__main__":
    run_stage(preprocess_flow)
