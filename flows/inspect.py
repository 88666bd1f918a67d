"""Stage `inspect`: the raw data set becomes a table of cases with verdicts, and a fingerprint a case.

Cases whose files, limits and code are those of an earlier run are not read again (`pipeline.inspection_memo`).
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prefect import flow

from flows.environment import STATE
from flows.locks import hold
from flows.privacy import require_no_identity
from flows.stage import map_cases, run_stage
from flows.stage_code import code_digest
from pipeline.cases import FIXED, QUARANTINED, WARN, CaseRecord, save_cases
from pipeline.config import InspectParams, load_params
from pipeline.disk import explain_full_disk, link_or_copy, write_whole
from pipeline.drift_features import FINGERPRINTS, fingerprint_features, save_features
from pipeline.errors import SegtrailError
from pipeline.finding_codes import is_drawn
from pipeline.findings import save_findings, save_fixes
from pipeline.inspected_case import PICTURES, InspectedCase
from pipeline.inspection import inspect_set, require_usable_set
from pipeline.inspection_memo import InspectionMemo, MemoizedCase
from pipeline.inspection_report import MOST_PICTURES, render_inspection
from pipeline.io.dataset import DatasetFacts
from pipeline.io.sources import RawDataset, open_dataset
from pipeline.objects import save_objects
from pipeline.reader_rows import READERS, save_readers

LOGGER = logging.getLogger("segtrail")
OUTPUT = Path("data/inspected")
TEMPORARY = OUTPUT.with_name(f"{OUTPUT.name}.tmp")
REFERENCES = Path("references")
MEMOS = STATE / "inspected"  # what was found about each case; anybody may delete it
REPORT = "report.html"
REFUSED = STATE / "inspection"  # the page about a set that may not be used
LOCK = STATE / "inspect.lock"


@flow(name="inspect")
def inspect_flow() -> None:
    """Reads the raw files of new and changed cases, and writes `data/inspected` when the whole set may be used."""
    params = load_params().inspect
    dataset = open_dataset(Path("data/raw") / params.dataset, params.layout)
    again = "dvc repro inspect: what was inspected is kept"
    with explain_full_disk(OUTPUT, again), hold(LOCK, "inspect", say=LOGGER.info):
        memo = InspectionMemo(MEMOS / params.dataset, dataset, params, code_digest("inspect"))
        shutil.rmtree(TEMPORARY, ignore_errors=True)
        try:
            _write_output(_inspect(dataset, memo), dataset, params)
            memo.forget_others()
        finally:
            shutil.rmtree(TEMPORARY, ignore_errors=True)
            memo.save()


def _inspect(dataset: RawDataset, memo: InspectionMemo) -> list[MemoizedCase]:
    """Every case, in the order of the data set; only what is new or has changed is read."""
    found = {record.case_id: memo.recall(record) for record in dataset.records}
    waiting = [record for record in dataset.records if found[record.case_id] is None]
    done = map_cases(memo.obtain, waiting, "inspect", lambda record: record.case_id)
    found |= {record.case_id: case for record, case in zip(waiting, done, strict=True)}
    cases = [case for case in found.values() if case is not None]
    computed = sum(case.computed for case in cases)
    LOGGER.info("inspected %d, unchanged %d", computed, len(cases) - computed)
    return cases


def _write_output(memoized: Sequence[MemoizedCase], dataset: RawDataset, params: InspectParams) -> None:
    """Builds the output folder beside its place, then moves it there: it is whole or not there at all."""
    (TEMPORARY / "fingerprints").mkdir(parents=True)
    for case in memoized:
        for path, place in case.files():
            target = TEMPORARY / (place if place.parent != Path() else REFERENCES / place)
            target.parent.mkdir(exist_ok=True)
            link_or_copy(path, target)
    judged = inspect_set([_placed(case.result) for case in memoized], params, dataset.facts.channels)
    cases = [result.record for result in judged]
    _show(cases)
    _report(judged, dataset.facts, params)
    usable = {case.case_id for case in cases if case.usable}
    kept = [case for case in memoized if case.result.record.case_id in usable]
    save_cases(cases, TEMPORARY / "cases.csv")
    save_objects([row for case in kept for row in case.result.objects], TEMPORARY / "objects.csv")
    if readers := [row for case in kept for row in case.result.readers]:
        save_readers(readers, TEMPORARY / READERS)
    dataset.facts.save(TEMPORARY / "dataset.json")
    for case in kept:
        if case.result.fingerprint is not None:
            link_or_copy(case.fingerprint, TEMPORARY / "fingerprints" / f"{case.result.record.case_id}.json")
    features = {
        case.result.record.case_id: fingerprint_features(case.result.fingerprint, dataset.facts.channels)
        for case in kept
        if case.result.fingerprint is not None
    }
    save_features(features, TEMPORARY / FINGERPRINTS)
    require_no_identity([TEMPORARY])  # everything later, MLflow and the report included, is made from these
    shutil.rmtree(OUTPUT, ignore_errors=True)
    TEMPORARY.replace(OUTPUT)


def _report(judged: Sequence[InspectedCase], facts: DatasetFacts, params: InspectParams) -> None:
    """Writes findings, fixes and the page about the set beside its pictures.

    Raises:
        SegtrailError: The set may not be used; its page lies where the error says.
    """
    _draw(judged, facts)
    try:
        require_usable_set([result.record for result in judged], params)
    except SegtrailError as error:
        page = REFUSED / REPORT
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page, render_inspection(judged, facts, TEMPORARY, error.what))
        raise SegtrailError(
            error.what, error.where, f"{error.fix}; pictures of all problems: {page}"
        ) from error
    save_findings({r.record.case_id: r.findings for r in judged}, TEMPORARY / "findings.csv")
    save_fixes({r.record.case_id: r.fixes for r in judged}, TEMPORARY / "fixes.csv")
    (TEMPORARY / REPORT).write_text(render_inspection(judged, facts, TEMPORARY), encoding="utf-8")
    (REFUSED / REPORT).unlink(missing_ok=True)


def _draw(judged: Sequence[InspectedCase], facts: DatasetFacts) -> None:
    """Pictures of what only the whole set shows; those of earlier runs of the same code are taken again."""
    if not any(is_drawn(finding.code) for result in judged for finding in result.findings):
        return  # Matplotlib takes a second
    from pipeline.inspection_pictures import draw_set_pictures

    here = [_moved(result, OUTPUT, TEMPORARY) for result in judged]  # derived references are not there yet
    drawings = REFUSED / PICTURES / code_digest("inspect")[:16]
    draw_set_pictures(here, facts, TEMPORARY / PICTURES, drawings, MOST_PICTURES)
    for other in drawings.parent.glob("*"):
        if other != drawings:
            shutil.rmtree(other, ignore_errors=True)  # of other code


def _moved(result: InspectedCase, start: Path, end: Path) -> InspectedCase:
    """The case with the paths of what was derived for it below another folder."""
    label, instances = (
        name.replace(f"{start.as_posix()}/", f"{end.as_posix()}/", 1)
        for name in (result.record.label, result.record.instances)
    )
    return replace(result, record=replace(result.record, label=label, instances=instances))


def _placed(result: InspectedCase) -> InspectedCase:
    """The case with its derived references where they will be."""
    derived = {
        role: (OUTPUT / REFERENCES / name).as_posix()
        for role in ("label", "instances")
        if (name := getattr(result.record, role)) and "/" not in name
    }
    return replace(result, record=replace(result.record, **derived))


def _show(cases: Sequence[CaseRecord]) -> None:
    """One line a quarantined case, and one for the set."""
    for case in cases:
        if case.verdict == QUARANTINED:
            LOGGER.info("quarantined %s: %s (%s)", case.case_id, case.code, case.reason)
    codes = Counter(code.partition(":")[0] for case in cases for code in filter(None, case.code.split(";")))
    if codes:
        found = ", ".join(f"{code} ({count})" for code, count in codes.most_common())
        LOGGER.info("found: %s; each with a picture and what to do: %s", found, OUTPUT / REPORT)
    counts = Counter(case.verdict for case in cases)
    usable = len(cases) - counts[QUARANTINED]
    LOGGER.info(
        "inspected %d cases: %d usable (%d of them with a warning, %d fixed), %d quarantined",
        *(len(cases), usable, counts[WARN], counts[FIXED], counts[QUARANTINED]),
    )
    if not any(case.label for case in cases if case.usable):
        LOGGER.warning("no case has a label: a model can predict this set, none can be trained on it")


if __name__ == "__main__":
    run_stage(inspect_flow)
