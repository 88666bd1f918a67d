"""Which scores the gate compares: of champion and challenger, on the test cases of now, by equal settings.

The champion has scores from when it was evaluated last, and those of `flows.rescoring`. Which code measured is known of
the latter alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.archive import DECISION, VERSIONS, Version
from flows.rescored import Unscored, load_basis, rescored_table
from flows.seen_cases import find_seen
from flows.stage_code import code_digest
from pipeline.cases import CaseRecord, load_cases
from pipeline.io.dataset import DatasetFacts
from pipeline.io.image_names import file_of
from pipeline.scores import CaseScore, has_metric, load_scores, scored_labels

MEASURING = ("surface_tolerance_mm", "max_detections", "max_marks")  # params that change a case's metrics


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
    archived = {} if why else _archived_scores(champion, known, metric)
    again = _rescored_scores(challenger, champion, known, metric)
    wanted = _by_case(scores)
    found = {case_id: own for case_id, own in archived.items() if _covers(own, wanted.get(case_id, []))}
    further = {
        case_id: own
        for case_id, own in again.items()
        if case_id not in found and _covers(own, wanted.get(case_id, []))
    }
    missing = [case_id for case_id in wanted if case_id not in found and case_id not in further]
    obstacle = _obstacle(champion, challenger) if missing else ""
    away = [c for c in missing if c in known and not obstacle and not _is_here(known[c])]
    kept = [score for score in scores if score.case_id not in away]
    used = {case_id: own for case_id, own in (found | further).items() if case_id in wanted}
    rescored = [case_id for case_id in further if case_id in wanted]
    counts = {"n_rescored": rescored, "n_left_out": left_out, "n_not_rescored": away}
    return Pairing(
        challenger=kept,
        champion=[score for own in used.values() for score in own],
        objections=[why] if why and missing else [],
        notes=_notes(rescored, champion, why, seen, away, obstacle),
        numbers={name: float(len(ids)) for name, ids in counts.items() if ids},
        missing=[] if obstacle else [c for c in missing if c in known and c not in away],
        rescored=rescored,
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
        others = {case_id for case_id, basis in bases.items() if basis is None or basis.code != code}
        cases = load_cases(challenger.files.cases)
        case_ids |= {case.case_id for case in cases if case.case_id in others and _is_here(case)}
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


def measuring_settings(version: Version) -> dict[str, Any]:
    """Params of `evaluate` that a version was scored with."""
    settings = version.files.load_metrics().get("settings", {})
    return {key: settings[key] for key in MEASURING if key in settings}


def setting_of(metric: str) -> str:
    """Which param of `evaluate` changes a metric; "" where none does."""
    column = metric.rsplit("/", 1)[-1]
    if column == "surface_dice":
        return "surface_tolerance_mm"
    if "_map_" in column:
        return "max_detections"
    return "max_marks" if column == "cpm" or column.startswith("froc_") else ""


def scoring_code() -> str:
    """Digest of the code that predicts and scores, as DVC looks at it."""
    return f"{code_digest('predict')}{code_digest('evaluate')}"


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


def _by_case(scores: Iterable[CaseScore]) -> dict[str, list[CaseScore]]:
    found: dict[str, list[CaseScore]] = {}
    for score in scores:
        found.setdefault(score.case_id, []).append(score)
    return found


def _covers(own: Iterable[CaseScore], wanted: Iterable[CaseScore]) -> bool:
    return {score.label for score in wanted} <= {score.label for score in own}


def _archived_scores(
    champion: Version, cases: Mapping[str, CaseRecord], metric: str
) -> dict[str, list[CaseScore]]:
    """Of the cases whose files are still the ones that it was scored on."""
    then = {case.case_id: case.sha256 for case in load_cases(champion.files.cases)}
    by_case = _by_case(load_scores(champion.files.metrics / "cases.csv", metric))
    return {c: own for c, own in by_case.items() if c in cases and cases[c].sha256 == then.get(c)}


def _rescored_scores(
    challenger: Version, champion: Version, cases: Mapping[str, CaseRecord], metric: str
) -> dict[str, list[CaseScore]]:
    """Of the cases that it was rescored on, with the same files and settings."""
    wanted, key = measuring_settings(challenger), setting_of(metric)
    kind = scored_labels(challenger.files.metrics / "cases.csv", metric)[0]
    found = {}
    for case_id, case in cases.items():
        basis, table = load_basis(champion, case_id), rescored_table(champion, case_id)
        if basis is None or basis.case_sha256 != case.sha256 or basis.settings.get(key) != wanted.get(key):
            continue
        if has_metric(table, metric) and scored_labels(table, metric)[0] == kind:
            found[case_id] = load_scores(table, metric)
    return found


def _is_here(case: CaseRecord) -> bool:
    paths = [*case.images, *(path for path in (case.label, case.instances) if path)]
    return all(file_of(Path(path)).exists() for path in paths)


def _obstacle(champion: Version, challenger: Version) -> str:
    """Why the champion's network cannot be scored on the data set of now; "" where it can."""
    facts = DatasetFacts.load(challenger.files.dataset)
    plan = champion.files.load_bundle_record()["plan"]
    if tuple(plan["channels"]) != facts.channels:
        return f"it takes the channels {', '.join(plan['channels'])}, the data set has {', '.join(facts.channels)}"
    classes = zip(plan["label_names"], plan["label_values"], strict=True)
    unknown = [name for name, value in classes if value and facts.foreground.get(name) != value]
    return f"the data set has no class {', '.join(unknown)} of that value any more" if unknown else ""


def _notes(
    rescored: Collection[str],
    champion: Version,
    why: str,
    seen: Mapping[str, Collection[str]],
    away: Collection[str],
    obstacle: str,
) -> list[str]:
    notes = []
    before = {case.case_id for case in load_cases(champion.files.cases)}
    changed = sum(case_id in before for case_id in rescored)
    if rescored and why:
        notes.append(f"champion rescored on {len(rescored)} test cases ({why.partition(': no case')[0]})")
    elif rescored:
        parts = {"new": len(rescored) - changed, "changed": changed}
        text = " and ".join(f"{number} {kind}" for kind, number in parts.items() if number)
        notes.append(f"champion rescored on {text} test cases")
    notes += [
        f"{len(ids)} test cases are left out: the {role} was trained on their patients (the split has changed since)"
        for role, ids in seen.items()
        if ids
    ]
    if away:
        notes.append(f"the champion could not be rescored on {len(away)} cases: their files are not here")
    if obstacle:
        notes.append(f"the champion cannot be rescored: {obstacle}")
    return notes
