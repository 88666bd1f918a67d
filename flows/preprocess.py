"""Stage `preprocess`: raw cases become patches-to-be in `data/preprocessed/`, one file a case.

The folder is kept between runs; only cases whose content, plan or code changed are computed. Where the plan has a
low resolution, `lowres/` below it holds the cases on that grid, with a manifest of its own.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from prefect import flow

from flows.environment import STATE
from flows.locks import hold
from flows.stage import map_cases, run_stage
from flows.stage_code import code_digest
from pipeline.cases import CaseRecord, load_cases, usable_cases
from pipeline.config import load_params
from pipeline.disk import explain_full_disk
from pipeline.manifest import Manifest
from pipeline.memory_limits import free_bytes
from pipeline.plan import PREPROCESSING, Plan, load_plan
from pipeline.stat_memo import StatMemo
from pipeline.store import LOWRES, case_path, content_key
from pipeline.workers import WorkerPool

LOGGER = logging.getLogger("segtrail")
OUTPUT = Path("data/preprocessed")
HASHES = STATE / "preprocessed.json"  # of the files of the store; anybody may delete it
LOCK = STATE / "preprocess.lock"
# From here on the start of processes (2.5 s each, PyTorch) is small beside the work (40 ns a voxel and channel), and
# a case can be large enough to end its process.
PROCESS_VOXELS = 200_000_000
WORKER_BYTES = 400 << 20  # of a process before its first case
MASK = 7  # bytes a voxel while the non-zero mask is made
GIB = 1 << 30
WORK = "pipeline.case_preprocessing:preprocess_request"  # by name: PyTorch is loaded in the workers alone


def case_keys(cases: Sequence[CaseRecord], plan: Plan, dtype: str, code: str) -> dict[str, str]:
    """Identity of each case's product: its files, what the plan says of preprocessing, and the code."""
    relevant = plan.model_dump_json(include=set(PREPROCESSING))
    return {case.case_id: content_key(case.sha256, relevant, dtype, code) for case in cases}


@dataclass(frozen=True)
class Grid:
    """A grid of the store.

    Attributes:
        plan: The plan with the spacing of this grid.
        manifest: What is there.
        keys: Identity of the product of each case.
    """

    plan: Plan
    manifest: Manifest
    keys: dict[str, str]

    def lacks(self, case: CaseRecord) -> bool:
        """Whether the case must be computed."""
        return not self.manifest.holds(case.case_id, self.keys[case.case_id])


def open_grids(plan: Plan, cases: Sequence[CaseRecord], dtype: str, hashes: StatMemo) -> list[Grid]:
    """The plan's own grid and, where it has one, the coarser one; a store that no plan asks for is removed."""
    code = code_digest("preprocess")
    places = [(plan, OUTPUT)]
    # Of any network: there is one coarser grid for all.
    coarse = [plan.alternatives[name] for name in plan.alternatives if name.endswith(LOWRES)]
    if coarse:
        places.append((plan.model_copy(update={"spacing_mm": coarse[0].spacing_mm}), OUTPUT / LOWRES))
    else:
        shutil.rmtree(OUTPUT / LOWRES, ignore_errors=True)
    return [Grid(p, Manifest(folder, hashes), case_keys(cases, p, dtype, code)) for p, folder in places]


def estimate_bytes(case: CaseRecord, plans: Sequence[Plan], dtype: str) -> int:
    """Memory that a worker process needs for a case, from above: the file unpacked and copied, and the results."""
    channels, source = len(plans[0].channels), math.prod(case.shape)
    voxel = channels * (2 if dtype == "float16" else 4) + 3
    extent = source * math.prod(case.spacing_mm)
    read = 2 * 4 * channels * source
    if any(how.nonzero_mask for how in plans[0].normalization):
        read += MASK * source
    return WORKER_BYTES + int(read + sum(voxel * extent / math.prod(plan.spacing_mm) for plan in plans))


def count_workers(cases: Sequence[CaseRecord], plans: Sequence[Plan], dtype: str) -> int:
    """How many cases are worked on at once: `SEGTRAIL_WORKERS`, else the cores; fewer where memory is short."""
    wanted = int(os.environ.get("SEGTRAIL_WORKERS", "0")) or os.cpu_count() or 1
    largest = max((estimate_bytes(case, plans, dtype) for case in cases), default=WORKER_BYTES)
    free = free_bytes()
    fitting = max(1, min(wanted, free // largest))
    if fitting < min(wanted, len(cases)):
        LOGGER.info(
            "%d worker(s) instead of %d: the largest case takes up to %.1f GB, %.1f GB are free",
            fitting, wanted, largest / GIB, free / GIB,
        )  # fmt: skip
    return min(fitting, max(1, len(cases)))


@contextmanager
def _preprocessor(
    cases: Sequence[CaseRecord], grids: Sequence[Grid], dtype: str, workers: int
) -> Iterator[Callable[[CaseRecord, Sequence[Grid]], list[str]]]:
    """What computes a case on some grids: worker processes when there is much to do, else this process."""
    plan = grids[0].plan
    if sum(math.prod(case.shape) for case in cases) * len(plan.channels) < PROCESS_VOXELS:
        from pipeline.case_preprocessing import Target, preprocess_case  # (PyTorch takes a second and 300 MB)

        yield lambda case, on: preprocess_case(case, [Target(g.plan, g.manifest.folder) for g in on], dtype)
        return
    fix = f"a larger plan.spacing_mm (now {list(plan.spacing_mm)})"
    with WorkerPool(WORK, workers) as pool:

        def compute(case: CaseRecord, on: Sequence[Grid]) -> list[str]:
            targets = [(g.plan.model_dump(mode="json"), str(g.manifest.folder)) for g in on]
            return list(pool.run(f"{case.case_id} ({case.images[0]})", fix, asdict(case), targets, dtype))

        yield compute


@flow(name="preprocess")
def preprocess_flow() -> None:
    """Brings the store in line with the cases and the plan."""
    plan = load_plan(Path("data/plan/plan.json"))
    dtype = load_params().preprocess.dtype
    cases = [case for case in usable_cases(load_cases(Path("data/inspected/cases.csv"))) if case.label]
    again = "dvc repro preprocess: what was preprocessed is kept"
    with explain_full_disk(OUTPUT, again), hold(LOCK, "preprocess", say=LOGGER.info):
        hashes = StatMemo(HASHES)
        grids = open_grids(plan, cases, dtype, hashes)
        with ThreadPoolExecutor() as pool:  # reads each file whose content is not known
            found = pool.map(lambda case: [grid for grid in grids if grid.lacks(case)], cases)
            lacking = {case.case_id: on for case, on in zip(cases, found, strict=True)}
        missing = [case for case in cases if lacking[case.case_id]]
        try:
            _compute(missing, grids, lacking, dtype)
            removed = {name for grid in grids for name in grid.manifest.keep_only(grid.keys)}
        finally:
            hashes.keep_only({str(case_path(g.manifest.folder, name)) for g in grids for name in g.keys})
            hashes.save()
    LOGGER.info(
        "preprocessed %d on %d grid(s), unchanged %d, removed %d",
        len(missing), len(grids), len(cases) - len(missing), len(removed),
    )  # fmt: skip


def _compute(
    missing: Sequence[CaseRecord], grids: Sequence[Grid], lacking: Mapping[str, Sequence[Grid]], dtype: str
) -> None:
    """Computes each missing case on the grids that lack it, and notes it as soon as it is whole."""
    if not missing:
        return
    lock = threading.Lock()
    workers = count_workers(missing, [grid.plan for grid in grids], dtype)
    with _preprocessor(missing, grids, dtype, workers) as compute:

        def work(case: CaseRecord) -> None:
            name = case.case_id
            for grid, sha256 in zip(lacking[name], compute(case, lacking[name]), strict=True):
                with lock:
                    grid.manifest.add(name, grid.keys[name], sha256)

        map_cases(work, missing, "preprocess", lambda case: case.case_id, workers)


if __name__ == "__main__":
    run_stage(preprocess_flow)
