"""Which scores the gate compares: of champion and challenger, on the test cases of now, by equal settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from flows.archive import DECISION, VERSIONS, Version
from flows.champion_scores import (
    ChampionScores,
    by_case,
    find_champion_scores,
    is_here,
    measuring_settings,
    setting_of,
)
from flows.rescored import Unscored, load_basis
from flows.seen_cases import find_seen
from flows.stage_code import scoring_code
from pipeline.cases import CaseRecord, load_cases
from pipeline.scores import CaseScore, load_scores, scored_labels

NEW, CHANGED = "new", "changed"  # test cases on which a champion is rescored
OTHER_CODE, UNSCORED = "known (scored by other code)", "known (without a score)"
KINDS = (NEW, CHANGED, OTHER_CODE, UNSCORED)


@dataclass(frozen=True)
class Pairing:
    """What the gate compares, and what a person must know about it.

    Attributes:
        challenger, champion: Scores; the gate pairs them by case and class.
        objections: What forbids the comparison.
        notes: What was done to make it possible; they stand with the reasons.
        numbers: Cases by what was done to them, where there are any.
        missing: Test cases on which the champion has no score that counts now, and could get one.
        rescored: Test cases on which it was rescored.
    """

    challenger: list[CaseScore]
    champion: list[CaseScore]
    objections: list[str]
    notes: list[str]
    numbers: dict[str, float]
    missing: list[str]
    rescored: list[str]


def pair_scores(challenger: Version, champion: Version, metric: str) -> Pairing:
    """Collects what can be compared.

    Args:
        challenger: One of the models that are present: its test cases are those of now.
        champion: Any version.
        metric: `register.metric`.
    """
    cases = {case.case_id: case for case in load_cases(challenger.files.cases)}
    scores = load_scores(challenger.files.metrics / "cases.csv", metric)
    known = {
        case_id: cases[case_id] for case_id in dict.fromkeys(s.case_id for s in scores) if case_id in cases
    }
    seen = {role: find_seen(v, known) for role, v in (("champion", champion), ("challenger", challenger))}
    left_out = set().union(*seen.values())
    scores = [score for score in scores if score.case_id not in left_out]
    why = why_incomparable(challenger, champion, metric)
    found = find_champion_scores(challenger, champion, known, by_case(scores), metric, why)
    counts = {"n_rescored": found.rescored, "n_left_out": left_out, "n_not_rescored": found.away}
    return Pairing(
        challenger=[score for score in scores if score.case_id not in found.away],
        champion=[score for own in found.scores.values() for score in own],
        objections=[why] if why and {score.case_id for score in scores} - found.scores.keys() else [],
        notes=_notes(found, champion, known, why, seen),
        numbers={name: float(len(ids)) for name, ids in counts.items() if ids},
        missing=found.missing,
        rescored=found.rescored,
    )


def find_unscored(challenger: Version, champion: Version, metric: str) -> Unscored | None:
    """Test cases on which the champion is to be scored before the gate compares; None when there are none.

    A score of other code is made anew where the case's files are; where they are away it is better than none.
    """
    pairing = pair_scores(challenger, champion, metric)
    case_ids = set(pairing.missing)
    if pairing.rescored:
        code = scoring_code()
        bases = {case_id: load_basis(champion, case_id) for case_id in pairing.rescored}
        others = {
            case_id for case_id, basis in bases.items() if basis is None or code is None or basis.code != code
        }
        cases = load_cases(challenger.files.cases)
        case_ids |= {case.case_id for case in cases if case.case_id in others and is_here(case)}
    return Unscored(champion, challenger, tuple(sorted(case_ids))) if case_ids else None


def why_incomparable(challenger: Version, champion: Version, metric: str) -> str:
    """Why no score of the champion's own evaluation can be compared with the challenger's; "" where they can."""
    if labels := _differing_labels(challenger, champion, metric):
        return labels
    if metric not in champion.files.load_metrics()["metrics"]:
        return f"the champion was scored without {metric}"
    key = setting_of(metric)
    now, then = (measuring_settings(version).get(key) for version in (challenger, champion))
    if now != then:
        return f"the champion was scored with evaluate.{key} = {then}, the challenger with {now}"
    return ""


def _differing_labels(challenger: Version, champion: Version, metric: str) -> str:
    """Says that one was scored by classes and the other by regions, or by others; "" where they share some."""
    (kind, names), (old_kind, old_names) = (
        scored_labels(version.files.metrics / "cases.csv", metric) for version in (challenger, champion)
    )
    if not names or not old_names or (kind == old_kind and set(names) & set(old_names)):
        return ""
    return (
        f"the champion was scored by the {old_kind} {', '.join(old_names)}, the challenger by the {kind} "
        f"{', '.join(names)}: no case can be compared; give register.model_name another name, or delete "
        f"{VERSIONS / champion.name / DECISION} to choose anew"
    )


def _notes(
    found: ChampionScores,
    champion: Version,
    cases: Mapping[str, CaseRecord],
    why: str,
    seen: Mapping[str, Collection[str]],
) -> list[str]:
    notes = []
    before = {case.case_id: case.sha256 for case in load_cases(champion.files.cases)}
    if found.rescored and why:
        notes.append(
            f"champion rescored on {len(found.rescored)} test cases ({why.partition(': no case')[0]})"
        )
    elif found.rescored:
        kinds = [
            OTHER_CODE if case_id in found.other_code else _kind(before.get(case_id), cases[case_id].sha256)
            for case_id in found.rescored
        ]
        text = " and ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS if kind in kinds)
        notes.append(f"champion rescored on {text} test cases")
    notes += [
        f"{len(ids)} test cases are left out: the {role} was trained on their patients (the split has changed since)"
        for role, ids in seen.items()
        if ids
    ]
    if found.outdated:
        notes.append(
            f"on {len(found.outdated)} test cases the champion's scores are those of earlier code, and cannot be made "
            "anew here"
        )
    if found.away:
        notes.append(
            f"the champion could not be rescored on {len(found.away)} cases: their files are not here"
        )
    if found.obstacle:
        notes.append(f"the champion cannot be rescored: {found.obstacle}")
    return notes


def _kind(before: str | None, now: str) -> str:
    if before is None:
        return NEW
    return UNSCORED if before == now else CHANGED
