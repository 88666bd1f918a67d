"""Stage `inspect`: the raw data set becomes a table of cases with verdicts, and a fingerprint a case."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prefect import flow

from flows.stage import map_cases, run_stage
from pipeline.cases import QUARANTINED, WARN, CaseRecord, save_cases
from pipeline.config import InspectParams, load_params
from pipeline.inspection import InspectedCase, inspect_case, inspect_set, require_usable_set
from pipeline.io.sources import RawDataset, open_dataset
from pipeline.objects import save_objects

LOGGER = logging.getLogger("segtrail")
OUTPUT = Path("data/inspected")
TEMPORARY = OUTPUT.with_name(f"{OUTPUT.name}.tmp")


@flow(name="inspect")
def inspect_flow() -> None:
    """Reads every raw file once, and writes `data/inspected` when the whole set may be used."""
    params = load_params().inspect
    dataset = open_dataset(Path("data/raw") / params.dataset, params.layout)
    shutil.rmtree(TEMPORARY, ignore_errors=True)
    try:
        _inspect(dataset, params)
    finally:
        shutil.rmtree(TEMPORARY, ignore_errors=True)


def _inspect(dataset: RawDataset, params: InspectParams) -> None:
    """Builds the output folder beside its place, then moves it there: it is whole or not there at all."""
    folder = TEMPORARY / "references"
    folder.mkdir(parents=True)

    def inspect(record: CaseRecord) -> InspectedCase:
        return inspect_case(record, dataset.facts, params, dataset.references.get(record.case_id), folder)

    results = map_cases(inspect, dataset.records, "inspect", lambda record: record.case_id)
    cases = inspect_set(results, params)
    _show(cases)
    require_usable_set(cases, params)
    usable = {case.case_id for case in cases if case.usable}
    kept = [result for result in results if result.record.case_id in usable]
    save_cases([_moved(case) for case in cases], TEMPORARY / "cases.csv")
    save_objects([row for result in kept for row in result.objects], TEMPORARY / "objects.csv")
    dataset.facts.save(TEMPORARY / "dataset.json")
    (TEMPORARY / "fingerprints").mkdir()
    for result in kept:
        if result.fingerprint is not None:
            result.fingerprint.save(TEMPORARY / "fingerprints" / f"{result.record.case_id}.json")
    if not dataset.references:
        folder.rmdir()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    TEMPORARY.replace(OUTPUT)


def _moved(case: CaseRecord) -> CaseRecord:
    """The record with its references where they will be."""
    label, instances = (
        name.replace(TEMPORARY.as_posix(), OUTPUT.as_posix(), 1) for name in (case.label, case.instances)
    )
    return replace(case, label=label, instances=instances)


def _show(cases: Sequence[CaseRecord]) -> None:
    """One line a quarantined case, and one for the set."""
    for case in cases:
        if case.verdict == QUARANTINED:
            LOGGER.info("quarantined %s: %s (%s)", case.case_id, case.code, case.reason)
    counts = Counter(case.verdict for case in cases)
    usable = len(cases) - counts[QUARANTINED]
    LOGGER.info(
        "inspected %d cases: %d usable (%d of them with a warning), %d quarantined",
        *(len(cases), usable, counts[WARN], counts[QUARANTINED]),
    )


if __name__ == "__main__":
    run_stage(inspect_flow)
