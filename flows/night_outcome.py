"""How a night ended: what it says about the champion and the cases, and its entry in the audit log."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.archive import SHORT
from flows.audit import append_audit, load_audit
from flows.nights import KEPT, PROMOTED, REFUSED, RUNNING, is_at_work, load_nights
from flows.provenance import user_name
from pipeline.cases import load_cases

Record = dict[str, Any]
BY = "night"
CASES = Path("data/inspected/cases.csv")
DECIDED = (
    *("name", "metric", "challenger", "champion_before", "champion_after"),
    *("promoted", "reasons", "numbers"),
)


def judge(before: Record, after: Record, numbers: dict[str, str]) -> tuple[str, str]:
    """State and reason of a night that ran to its end.

    Args:
        before: The decision that stood when the night began, empty when there was none.
        after: The decision that stands now.
        numbers: MLflow's version numbers by bundle sha256.
    """
    reasons = "; ".join(after.get("reasons", [])) or "no reason is given"
    champion, challenger = after.get("champion_after"), after.get("challenger")
    if champion is None:
        return KEPT, f"there is no champion: {reasons}"
    if champion != before.get("champion_after"):
        return PROMOTED, f"{_name(challenger, numbers)} is champion: {reasons}"
    now = f"{_name(champion, numbers)} stays champion"
    if _question(after) == _question(before):
        return KEPT, f"{now}, nothing new to decide: {reasons}"
    if challenger in (None, champion):
        return KEPT, f"{now}: {reasons}"
    return REFUSED, f"{now}, {_name(challenger, numbers)} is refused: {reasons}"


def _question(decision: Record) -> tuple[Any, ...]:
    return tuple(decision.get(key) for key in ("challenger", "champion_after", "decided"))


def _name(sha256: str | None, numbers: dict[str, str]) -> str:
    if sha256 is None:
        return "no model"
    return f"version {numbers[sha256]}" if sha256 in numbers else f"bundle {sha256[:SHORT]}"


def select_decided(decision: Record) -> Record | None:
    """What a night's record holds of a decision."""
    return {key: decision.get(key) for key in DECIDED} if decision else None


def list_case_ids() -> set[str]:
    """Cases that the last inspection saw; empty before the first."""
    return {case.case_id for case in load_cases(CASES)} if CASES.is_file() else set()


def count_cases(before: set[str]) -> Record | None:
    """Cases for the record of a night: all, usable, quarantined with why, and those that came in it.

    Args:
        before: Case ids when the night began.
    """
    if not CASES.is_file():
        return None
    cases = load_cases(CASES)
    quarantined = [
        {"case_id": case.case_id, "code": case.code, "reason": case.reason}
        for case in cases
        if not case.usable
    ]
    return {
        "total": len(cases), "usable": len(cases) - len(quarantined), "quarantined": quarantined,
        "new": sorted({case.case_id for case in cases} - before),
    }  # fmt: skip


def audit_night(record: Record, late: bool = False) -> None:
    """Adds the entry of a night to the audit log.

    Args:
        record: Of the night; its state and reason are final.
        late: The night itself could not do it.

    Raises:
        SegtrailError: The disk is full; the next night makes up for it.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry: Record = {
        "when": record["ended"] or now,
        "who": f"{user_name()}@{socket.gethostname()}",
        "by": BY,
        "what": {"night": record["night_id"], "state": record["state"], "name": record["model"]},
        "why": [record["reason"]],
    }
    append_audit(entry | ({"late": now} if late else {}))


def is_audited(record: Record) -> bool:
    """Whether the audit log holds a night."""
    return any(line["what"].get("night") == record["night_id"] for line in load_audit())


def audit_forgotten_nights() -> int:
    """Adds the entries that earlier nights could not write (killed, or the disk was full); how many."""
    known = {line["what"].get("night") for line in load_audit()}
    ended = [record for record in load_nights() if record["state"] != RUNNING and not is_at_work(record)]
    forgotten = [record for record in ended if record["night_id"] not in known]
    for record in forgotten:
        audit_night(record, late=True)
    return len(forgotten)
