"""`segtrail promote`, `rollback` and `history`: what a person decides about the champion, and the trail of it."""

from __future__ import annotations

import logging
import socket
from datetime import UTC, datetime

from flows import tracking
from flows.archive import LOCK, SHORT, VERSIONS, check_version, list_names, load_version, version_folder
from flows.audit import AUDIT, Record, load_decisions
from flows.decision import catch_up, load_decision, save_decision
from flows.locks import hold
from flows.provenance import user_name
from flows.succession import PERSON, find_former, promote, roll_back
from flows.tracking_registry import find_numbers, find_version
from pipeline.config import load_params
from pipeline.errors import SegtrailError, unknown_name

LOGGER = logging.getLogger("segtrail")
LONGEST_REASON = 1000


def promote_version(place: str, reason: str) -> Record:
    """Makes a version champion, whatever the gate said.

    Args:
        place: NAME@VERSION; VERSION as in `flows.tracking_registry.find_version`.
        reason: Why; it stands in decision, audit log and MLflow.

    Returns:
        The decision.

    Raises:
        SegtrailError: There is no such version, its files are damaged, or it is the champion already.
    """
    name, version = split_place(place)
    why = _check_reason(reason)
    with hold(LOCK, "segtrail promote", say=LOGGER.info):
        earlier = _load(name)
        found, _ = find_version(name, version)
        if found.bundle_sha256 == earlier["champion_after"]:
            raise SegtrailError("this version is the champion already", place, f"segtrail history {name}")
        check_version(found)
        return _carry_out(promote(earlier, found.bundle_sha256, _who(), _now(), why))


def roll_back_champion(name: str | None, reason: str) -> Record:
    """Makes the champion before champion again; the gate cannot bring back the present one.

    Args:
        name: Registered model; None: that of params.
        reason: Why; it stands in decision, audit log and MLflow.

    Returns:
        The decision.

    Raises:
        SegtrailError: There was no champion before, or its files are missing or damaged.
    """
    name, why = name or default_name(), _check_reason(reason)
    with hold(LOCK, "segtrail rollback", say=LOGGER.info):
        earlier = _load(name)
        former = find_former(earlier)
        if not former:
            raise SegtrailError(
                f"{name} has no champion before the present one that nobody has rolled back from", str(VERSIONS / name),
                f"segtrail promote {name}@VERSION --reason ... takes any version",
            )  # fmt: skip
        check_version(load_version(version_folder(name, former[-1]["bundle_sha256"])))
        return _carry_out(roll_back(earlier, _who(), _now(), why))


def _load(name: str) -> Record:
    if name not in list_names():
        raise unknown_name("registered model", name, list_names() or ["(none yet: dvc repro)"], name)
    catch_up(name)
    earlier = load_decision(name)
    if not earlier:
        raise SegtrailError(
            f"there is no decision about {name} yet", str(VERSIONS / name), "dvc repro register"
        )
    return earlier


def _carry_out(decision: Record) -> Record:
    """Writes decision and audit line, then lets MLflow follow; the alias moves last."""
    save_decision(decision, shown=decision["name"] == default_name())
    numbers = tracking.reconcile()
    name, before, after = (decision[key] for key in ("name", "champion_before", "champion_after"))
    moved = " to ".join(_name(sha256, numbers) for sha256 in (before, after))
    LOGGER.info("%s@champion: %s (%s)", name, moved, "; ".join(decision["reasons"]))
    LOGGER.info("dvc repro register and git commit dvc.lock keep this under DVC, dvc push shares it")
    return decision


def tell_history(name: str | None) -> list[str]:
    """The table of all decisions about a registered model, oldest first.

    Args:
        name: Registered model; None: that of params.

    Raises:
        SegtrailError: There is no such model.
    """
    name = name or default_name()
    if name not in list_names():
        raise unknown_name("registered model", name, list_names() or ["(none yet: dvc repro)"], name)
    _, numbers = find_numbers(name)
    entries = load_decisions(name)
    rows = [("when", "who", "what", "from", "to", "reason"), *(_row(entry, numbers) for entry in entries)]
    lines = [] if entries else [f"{AUDIT} holds nothing about {name}; its champions, from decision.json:"]
    if not entries:
        former = load_decision(name).get("champions", [])
        whom = [None, *(entry["bundle_sha256"] for entry in former)]
        rows += [
            (entry["since"][:19], "", f"champion by {entry['by']}", *_pair(whom[i], whom[i + 1], numbers), "")
            for i, entry in enumerate(former)
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return lines + [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _row(entry: Record, numbers: dict[str, str]) -> tuple[str, str, str, str, str, str]:
    what = entry["what"]
    if entry["by"] == PERSON:
        done = {"promote": "promoted by hand", "rollback": "rolled back"}[what["command"]]
    else:
        kept = what["challenger"] in (None, what["champion_after"])
        done = "promoted" if what["promoted"] else "kept" if kept else "refused"
    before, after = (
        what["champion_before"],
        what["champion_after"] if done != "refused" else what["challenger"],
    )
    reason = "; ".join(entry["why"]) + (" (added to the log later)" if "late" in entry else "")
    return entry["when"][:19], entry["who"], done, *_pair(before, after, numbers), reason


def _pair(before: str | None, after: str | None, numbers: dict[str, str]) -> tuple[str, str]:
    return _name(before, numbers), _name(after, numbers)


def _name(sha256: str | None, numbers: dict[str, str]) -> str:
    """A version as a person knows it."""
    if sha256 is None:
        return "-"
    return f"v{numbers[sha256]} ({sha256[:SHORT]})" if sha256 in numbers else sha256[:SHORT]


def default_name() -> str:
    """The registered model of params."""
    return load_params().register_.model_name


def split_place(place: str) -> tuple[str, str]:
    """Name and version of NAME@VERSION.

    Raises:
        SegtrailError: It is not of this form.
    """
    name, _, version = place.partition("@")
    if not name or not version:
        raise SegtrailError(
            f"{place!r} is no version, expected NAME@VERSION",
            place,
            "such as phantom@3, phantom@champion, or phantom@ with a bundle's sha256",
        )
    return name, version


def _check_reason(reason: str) -> str:
    """The reason on one line.

    Raises:
        SegtrailError: It is empty or too long.
    """
    text = " ".join(reason.split())
    if not 1 <= len(text) <= LONGEST_REASON:
        raise SegtrailError(
            f"the reason has {len(text)} characters, expected 1 to {LONGEST_REASON}",
            "--reason",
            "say why, in a sentence",
        )
    return text


def _who() -> str:
    return f"{user_name()}@{socket.gethostname()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
