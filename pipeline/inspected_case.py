"""What the inspection knows of one case: a plain record that can be kept as JSON."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.cases import CaseRecord, Finding
from pipeline.findings import FileFacts, Fix
from pipeline.fingerprint import Fingerprint
from pipeline.objects import ObjectRow
from pipeline.reader_rows import ReaderRow

PICTURES = "pictures"  # folder, below that of the output, with a picture of a case with a finding


@dataclass(frozen=True)
class InspectedCase:
    """What the inspection of one case found.

    Attributes:
        record: With hash, geometry and verdict.
        fingerprint: None when the case is quarantined.
        objects: Its reference objects; none when the case is quarantined or has no label.
        findings: What is wrong or was mended, in the order of the codes of the record.
        fixes: What was mended.
        files: Facts of its files; only of a case with findings.
        readers: How far its readers agree, where it has several.
    """

    record: CaseRecord
    fingerprint: Fingerprint | None
    objects: tuple[ObjectRow, ...] = ()
    findings: tuple[Finding, ...] = ()
    fixes: tuple[Fix, ...] = ()
    files: tuple[FileFacts, ...] = ()
    readers: tuple[ReaderRow, ...] = ()
