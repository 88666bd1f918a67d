"""What a person decided about the champion, and what that leaves to the gate.

Three entries of `decision.json`: `hand`, the decision of a person that stands now; `withdrawn`, the versions that a
person has rolled back from; `champions`, who was champion before, the present one last (a rollback takes it off again).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows.audit import Record

GATE, PERSON = "gate", "person"


def complete(record: Record, audit: Sequence[Record]) -> Record:
    """Adds what a decision from before persons could decide lacks; former champions are taken from the audit log."""
    champion = record.get("champion_after")
    found = [
        {"bundle_sha256": line["what"]["champion_after"], "since": line["when"], "by": line.get("by", GATE)}
        for line in audit
        if line.get("what", {}).get("name") == record.get("name") and line["what"].get("champion_after")
    ]
    former = [entry for i, entry in enumerate(found) if not i or _sha256(found[i - 1]) != _sha256(entry)]
    if not former or _sha256(former[-1]) != champion:
        names = dict.fromkeys(s for s in (record.get("champion_before"), champion) if s)
        former = [{"bundle_sha256": s, "since": record.get("decided", ""), "by": GATE} for s in names]
    return {"by": GATE, "hand": None, "withdrawn": {}, "champions": former, **record}


def _sha256(entry: Record) -> str:
    return str(entry["bundle_sha256"])


def find_barred(earlier: Record) -> dict[str, str]:
    """Versions that the gate may not make champion, each with the reason.

    As long as the choice of a person stands, these are all versions that were there to be chosen: what was known then
    cannot overrule it. A version that was rolled back from stays barred until a person promotes it.
    """
    if not earlier:
        return {}
    champion, hand = earlier["champion_after"], earlier["hand"]
    barred = {}
    if hand is not None:
        chosen = f"it was there when {_signed(hand)} chose {champion[:12]}"
        text = f"{chosen}; only a newer version or a person replaces that"
        barred = dict.fromkeys(hand["known"], text)
    for sha256, entry in earlier["withdrawn"].items():
        barred[sha256] = (
            f"{_signed(entry)} rolled back from it ({entry['reason']}); only a person brings it back"
        )
    barred.pop(champion, None)
    return barred


def select_competitors(present: Sequence[str], barred: dict[str, str], champion: str | None) -> Sequence[str]:
    """Models among which the challenger is chosen: those that could become champion, if there is any such."""
    free = [sha256 for sha256 in present if sha256 not in barred]
    return free if any(sha256 != champion for sha256 in free) else present


def follow_gate(earlier: Record, outcome: Record, decided: str) -> Record:
    """The entries of this module after a decision of the gate."""
    kept = {key: earlier[key] for key in ("hand", "withdrawn", "champions")} if earlier else {}
    kept = {"hand": None, "withdrawn": {}, "champions": [], **kept}
    after = outcome["champion_after"]
    if after is None or after == (earlier or {}).get("champion_after"):
        return kept
    entry = {"bundle_sha256": after, "since": decided, "by": GATE}
    return {**kept, "hand": None, "champions": [*kept["champions"], entry]}


def promote(earlier: Record, sha256: str, who: str, when: str, reason: str) -> Record:
    """The decision after a person has made a version champion."""
    withdrawn = {s: entry for s, entry in earlier["withdrawn"].items() if s != sha256}
    entry = {"bundle_sha256": sha256, "since": when, "by": PERSON}
    hand = _hand(earlier, "promote", who, when, reason)
    changes = {"withdrawn": withdrawn, "champions": [*earlier["champions"], entry]}
    return _decide_by_hand(earlier, sha256, hand) | changes


def find_former(earlier: Record) -> list[Record]:
    """Champions up to the one that a rollback goes to; empty when there is none."""
    former: list[Record] = earlier["champions"][:-1]
    passed = {earlier["champion_after"], *earlier["withdrawn"]}
    while former and _sha256(former[-1]) in passed:
        former = former[:-1]
    return former


def roll_back(earlier: Record, who: str, when: str, reason: str) -> Record:
    """The decision after a person has gone back to the last champion of `find_former`, of which there is one."""
    former = find_former(earlier)
    away = {earlier["champion_after"]: {"who": who, "when": when, "reason": reason}}
    hand = _hand(earlier, "rollback", who, when, reason)
    changes = {"withdrawn": earlier["withdrawn"] | away, "champions": former}
    return _decide_by_hand(earlier, _sha256(former[-1]), hand) | changes


def _hand(earlier: Record, command: str, who: str, when: str, reason: str) -> Record:
    known = sorted(line["bundle_sha256"] for line in earlier["versions"])
    return {"command": command, "who": who, "when": when, "reason": reason, "known": known}


def _decide_by_hand(earlier: Record, sha256: str, hand: Record) -> Record:
    lines = [dict(line) for line in earlier["versions"]]
    for line in lines:
        if line["bundle_sha256"] == sha256:
            line["hand"] = f"champion by {describe(hand)}"
        elif line["bundle_sha256"] == earlier["champion_after"]:
            line["hand"] = f"replaced by {describe(hand)}"
    return {
        **earlier,
        "champion_before": earlier["champion_after"],
        "champion_after": sha256,
        "promoted": sha256 == earlier["challenger"],
        "by": PERSON,
        "reasons": [f"{hand['command']} by {hand['who']}: {hand['reason']}"],
        "numbers": {},
        "decided": hand["when"],
        "versions": lines,
        "hand": hand,
    }


def describe(hand: Record) -> str:
    """Such as "rollback of ana@lab, 2026-11-27: false alarms"."""
    return f"{hand['command']} of {hand['who']}, {hand['when'][:16]}: {hand['reason']}"


def _signed(entry: dict[str, Any]) -> str:
    return f"{entry['who']} on {entry['when'][:10]}"
