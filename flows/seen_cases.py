"""Test cases that say nothing about a version, because it has learned from them."""

from __future__ import annotations

from collections.abc import Mapping

from flows.ancestors import walk_ancestors
from flows.archive import Version
from pipeline.cases import CaseRecord, load_cases
from pipeline.splits import TEST, load_rows


def find_seen(version: Version, cases: Mapping[str, CaseRecord]) -> set[str]:
    """Test cases that a version was trained on or chosen by: of a patient of its other sides, or with their files.

    Those of the versions whose weights it started from count as well.
    """
    ids, patients, files = set[str](), set[str](), set[str]()
    for _, ancestor in walk_ancestors((version.bundle_sha256,)):
        if ancestor is None:  # no longer in the archive
            continue
        rows = [row for row in load_rows(ancestor.splits) if row.split != TEST]
        own = {row.case_id for row in rows}
        ids, patients = ids | own, patients | {row.patient_id for row in rows}
        files |= {case.sha256 for case in load_cases(ancestor.cases) if case.case_id in own and case.sha256}
    return {
        case_id
        for case_id, case in cases.items()
        if case_id in ids or case.patient_id in patients or case.sha256 in files
    }
