"""Records of nights as `flows.nights` writes them, and archived versions with the numbers they speak of."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.archive import version_folder
from flows.night_folder import night_folder

NAME, METRIC = "hippocampus", "test/dice"
LABELS = ("anterior", "posterior")
STEPS = (
    ("sweep", "nothing to do", 0.1, "no night was left behind"),
    ("take_in", "done", 3.4, "12 new cases"),
    ("pull", "skipped", 0.0, "nightly.pull is false"),
    ("drift", "done", 6.2, "no feature has drifted"),
    ("repro", "done", 4210.5, "8 stages executed"),
    ("decision", "done", 0.3, "promoted"),
    ("audit", "done", 0.1, "entry 41"),
    ("commit", "skipped", 0.0, "nightly.branch is empty"),
    ("push", "done", 14.8, "212 files"),
)
REASONS = {
    "promoted": "test/dice improves by 0.0081 over 26 paired cases; the lower bound 0.0031 lies above the margin 0",
    "refused": "the improvement in test/dice is -0.0130 with lower bound -0.0180, which is not above the margin 0",
    "kept": "the best model is the champion already",
    "skipped": "nothing changed since night 20261126T020000Z: data, params and code are the same",
    "failed": "repro: stage train@unet failed: the disk is full: 3 MiB are free",
    "killed": "the process of the night ended in step repro without a word (kill -9, or a power cut)",
}
FIXES = {"failed": "make space, then segtrail night", "killed": "segtrail night continues it"}
Record = dict[str, Any]


def sha(version: int) -> str:
    """sha256 of the bundle of a version of the tests."""
    return hashlib.sha256(f"version {version}".encode()).hexdigest()


def night_record(state: str = "promoted", night_id: str = "20261127T020000Z", **changes: Any) -> Record:
    """A night that took in 12 cases; version 7 against the champion, version 6."""
    started = datetime.strptime(night_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    record: Record = {
        "night_id": night_id,
        "trigger": "schedule",
        "due": started.isoformat(timespec="seconds"),
        "started": started.isoformat(timespec="seconds"),
        "ended": (started + timedelta(seconds=4236)).isoformat(timespec="seconds"),
        "seconds": 4236.0,
        "state": state,
        "reason": REASONS.get(state, ""),
        "fix": FIXES.get(state, ""),
        "pid": 4242,
        "process_started": 1.0,
        "host": "lab",
        "prefect_run_id": "0193a6a1-0000-7000-8000-000000000001",
        "prefect_url": "http://127.0.0.1:4200/runs/flow-run/0193a6a1-0000-7000-8000-000000000001",
        "steps": [dict(zip(("name", "state", "seconds", "message"), step, strict=True)) for step in STEPS],
        "dataset": "hippocampus",
        "model": NAME,
        "champion": None,
        "data_digest_before": "5f0c1a9e" * 4,
        "data_digest_after": "8b11d2c4" * 4,
        "params_sha256": "c0ffee12" * 8,
        "git_commit": "9b1e7ac4d2f05c1b8b3a6f7710d2e9a4c5b6d7e8",
        "intake": intake_record(),
        "cases": cases_record(),
        "drift": drift_record(),
        "decision": decision(7, 6, state == "promoted", 0.0081 if state == "promoted" else -0.0130),
        "version_numbers": {sha(6): "6", sha(7): "7"},
        "report": "report.html",
        "project_report": "data/report/index.html",
        "push": {"remote": "storage", "attempts": 1, "pushed": True, "error": ""},
        "commit": None,
        "notified": [],
    }
    leave_out(record)
    return record | changes


def intake_record() -> Record:
    """Twelve cases, one that waits and one that is refused."""
    return {
        "taken": [{"name": f"hippocampus_{i}", "files": 2} for i in range(301, 313)],
        "waiting": [{"name": "hippocampus_313", "reason": "label still growing: 12 s since the last change"}],
        "refused": [{"name": "hippocampus_314", "reason": "image without a label"}],
    }


def cases_record() -> Record:
    """The data set with the twelve, two of which are quarantined."""
    return {
        "total": 221,
        "usable": 219,
        "quarantined": [
            {
                "case_id": "hippocampus_307",
                "code": "truncated",
                "reason": "the file ends after 1.2 of 3.1 MB",
            },
            {
                "case_id": "hippocampus_311",
                "code": "label_geometry",
                "reason": "label shifted by 14.0 mm, limit 1.0",
            },
        ],
        "new": [f"hippocampus_{i}" for i in range(301, 313)],
    }


def leave_out(record: Record) -> None:
    """Takes out of a record what a night that ended in its state does not have."""
    state = record["state"]
    if state in ("skipped", "failed", "killed"):
        record |= {"decision": None, "drift": None, "push": None}
    if state == "kept":
        record["decision"] |= {"challenger": sha(6), "champion_after": sha(6), "numbers": {}}
    if state == "skipped":
        record |= {"intake": {"taken": [], "waiting": [], "refused": []}, "cases": None, "seconds": 4.2}
        record["steps"] = record["steps"][:3]
    if state in ("failed", "killed"):
        record["steps"] = record["steps"][:5]
        record["steps"][-1] |= {
            "state": "failed" if state == "failed" else "running",
            "message": record["reason"],
        }
        record["ended"] = record["ended"] if state == "failed" else None


def decision(
    challenger: int, champion: int | None, promoted: bool, improvement: float, margin: float = 0.005
) -> Record:
    """What a night keeps of `decision.json`; `margin` is half the width of the intervals."""
    before = sha(champion) if champion is not None else None
    numbers = {"n_cases": 26.0, "n_patients": 26.0}
    shares = {
        "": improvement,
        **{f"{name}/": improvement * f for name, f in zip(LABELS, (1.2, 0.8), strict=True)},
    }
    for prefix, value in shares.items():
        numbers |= {
            f"{prefix}improvement": value,
            f"{prefix}improvement_ci_low": value - margin,
            f"{prefix}improvement_ci_high": value + margin,
        }
    return {
        "name": NAME,
        "metric": METRIC,
        "challenger": sha(challenger),
        "champion_before": before,
        "champion_after": sha(challenger) if promoted else before,
        "promoted": promoted,
        "reasons": ["as the night says"],
        "numbers": numbers if champion is not None else {"n_cases": 26.0},
    }


def drift_record(drifted: bool = False) -> Record:
    """Two features; with `drifted`, the spacing along z is another one."""
    facts = {"mean": 1.0, "p05": 0.9, "p50": 1.0, "p95": 1.1}
    shifted = {"mean": 1.5, "p05": 1.4, "p50": 1.5, "p95": 1.6} if drifted else facts
    return {
        "champion": sha(6),
        "new_cases": [f"hippocampus_{i}" for i in range(301, 313)],
        "reference_cases": 209,
        "drifted": drifted,
        "features": [
            {
                "feature": "spacing_z_mm", "psi": 1.84 if drifted else 0.03, "ks": 0.9 if drifted else 0.12,
                "p": 1e-7 if drifted else 0.61, "p_corrected": 2e-7 if drifted else 1.0, "drifted": drifted,
                "reference": facts, "new": shifted,
            },
            {
                "feature": "intensity_mean", "psi": 0.08, "ks": 0.15, "p": 0.55, "p_corrected": 1.0, "drifted": False,
                "reference": facts, "new": facts,
            },
        ],
        "sentence": "spacing_z_mm of the 12 new cases has drifted (PSI 1.84)" if drifted else "no feature has drifted",
        "picture": "drift.png",
    }  # fmt: skip


def write_night(record: Record) -> Path:
    """Writes a record into its folder."""
    folder = night_folder(record["night_id"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "night.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def write_version(version: int, dice: float, n: int = 26) -> Path:
    """Archives the numbers of a version: overall, anterior 0.01 above and posterior 0.01 below; intervals of ±0.02."""
    metrics: dict[str, float] = {}
    means = {"": dice, "anterior/": dice + 0.01, "posterior/": dice - 0.01}
    for prefix, value in means.items():
        key = f"test/{prefix}dice"
        metrics |= {key: value, f"{key}_ci_low": value - 0.02, f"{key}_ci_high": value + 0.02, f"{key}_n": n}
    folder = version_folder(NAME, sha(version)) / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"metrics": metrics}), encoding="utf-8")
    return folder
