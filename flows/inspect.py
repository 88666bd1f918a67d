"""Stage `inspect`: the raw data set becomes a table of cases with verdicts, and a fingerprint a case."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prefect import flow

from flows.stage import map_cases, run_stage
from pipeline.cases import QUARANTINED, WARN, CaseRecord, save_cases
from pipeline.config import load_params
from pipeline.inspection import (
    Fingerprint,
    inspect_case,
    inspect_set,
    require_usable_set,
)
from pipeline.io.sources import DatasetFacts, list_cases

LOGGER = logging.getLogger("segtrail")
OUTPUT = Path("data/inspected")


@flow(name="inspect")
def inspect_flow() -> None:
    """Reads every raw file once, and writes `data/inspected` when the whole set may be used."""
    params = load_params().inspect
    facts, records = list_cases(Path("data/raw") / params.dataset, params.layout)
    results = map_cases(
        partial(inspect_case, facts=facts, params=params), records, "inspect", lambda r: r.case_id
    )
    cases = inspect_set(results, params)
    _show(cases)
    require_usable_set(cases, params)
    usable = {case.case_id for case in cases if case.usable}
    _write(facts, cases, [f for _, f in results if f is not None and f.case_id in usable])


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


def _write(facts: DatasetFacts, cases: Sequence[CaseRecord], fingerprints: Sequence[Fingerprint]) -> None:
    """Writes the output folder beside its place, then moves it there: it is whole or not there at all."""
    temporary = OUTPUT.with_name(f"{OUTPUT.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "fingerprints").mkdir(parents=True)
    save_cases(cases, temporary / "cases.csv")
    facts.save(temporary / "dataset.json")
    for fingerprint in fingerprints:
        fingerprint.save(temporary / "fingerprints" / f"{fingerprint.case_id}.json")
    shutil.rmtree(OUTPUT, ignore_errors=True)
    temporary.replace(OUTPUT)


if __name__ == "__main__":
    run_stage(inspect_flow)
