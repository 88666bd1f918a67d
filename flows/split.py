"""Stage `split`: the usable cases of `data/inspected` get their sides in `data/splits/splits.csv`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from prefect import flow
from pydantic_core import from_json

from flows.stage import run_stage
from pipeline.balance import count_sides, describe_small_validation, format_sides, warn_absent_classes
from pipeline.cases import CaseRecord, load_cases, usable_cases
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.folds import DRAW_FILE, Draw, save_draw
from pipeline.leakage import check_leakage, find_linked_patients
from pipeline.splits import assign, save_splits

LOGGER = logging.getLogger("segtrail")
INSPECTED = Path("data/inspected")
OUTPUT = Path("data/splits")


@flow(name="split")
def split_flow() -> None:
    """Writes the split and prints what stands on each side."""
    cases = load_cases(INSPECTED / "cases.csv")
    params = load_params().split
    rows = assign(cases, params)
    check_leakage(rows, cases)
    counts = count_sides(rows, cases, _load_classes(usable_cases(cases)))
    for line in format_sides(counts):
        LOGGER.info("%s", line)
    warn_absent_classes(counts)
    if text := describe_small_validation({row.case_id: row.split for row in rows}, cases):
        LOGGER.warning("warning: %s", text)
    partial = OUTPUT.with_name(f".{OUTPUT.name}.partial")  # moved when whole: nobody reads half a split
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_splits(rows, partial / "splits.csv")
    save_draw(Draw(params.salt, find_linked_patients(cases)), partial / DRAW_FILE)
    shutil.rmtree(OUTPUT, ignore_errors=True)
    partial.rename(OUTPUT)


def _load_classes(cases: Iterable[CaseRecord]) -> dict[str, tuple[str, ...]]:
    """Names of the classes with at least one voxel in each case that has a fingerprint."""
    classes: dict[str, tuple[str, ...]] = {}
    for case in cases:
        path = INSPECTED / "fingerprints" / f"{case.case_id}.json"
        if not path.exists():
            continue
        try:
            found = from_json(path.read_bytes())["classes"]  # a quarter of the time of json
            classes[case.case_id] = tuple(name for name, facts in found.items() if facts["voxels"] > 0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SegtrailError(
                f"the fingerprint has no readable classes: {error!r}",
                f"{case.case_id} in {path}",
                "dvc repro --force inspect",
            ) from error
    return classes


if __name__ == "__main__":
    run_stage(split_flow)
