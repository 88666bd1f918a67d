"""Which scores of a champion count on test cases of now: those of its own evaluation, and those of `flows.rescoring`.

Both say which code predicted and measured. Scores of other code than the challenger's are made anew where the files of
the case are here; where they are not, they are better than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.archive import Version
from flows.rescored import load_basis, rescored_table
from flows.stage_code import CODE
from pipeline.cases import CaseRecord, load_cases
from pipeline.io.dataset import DatasetFacts
from pipeline.io.image_names import file_of
from pipeline.scores import CaseScore, has_metric, load_scores, scored_labels

MEASURING = ("surface_tolerance_mm", "max_detections", "max_marks")  # params that change a case's metrics


@dataclass(frozen=True)
class ChampionScores:
    """Scores of a champion on test cases of now.

    Attributes:
        scores: By case id.
        rescored: Cases whose scores were made later than its evaluation.
        other_code: Cases whose scores of its evaluation come from other code than the challenger's.
        outdated: Those of them whose scores count all the same, as they cannot be made anew.
        missing: Cases that it can be scored on.
        away: Cases without a score whose files are not here.
        obstacle: Why it cannot be scored on the data set of now; "" where it can, or need not.
    """

    scores: dict[str, list[CaseScore]]
    rescored: list[str]
    other_code: list[str]
    outdated: list[str]
    missing: list[str]
    away: list[str]
    obstacle: str


def find_champion_scores(
    challenger: Version,
    champion: Version,
    cases: Mapping[str, CaseRecord],
    wanted: Mapping[str, list[CaseScore]],
    metric: str,
    why: str,
) -> ChampionScores:
    """Collects them.

    Args:
        challenger: Its test cases, settings and code are those of now.
        champion: Any version.
        cases: Test cases of now, by id.
        wanted: Scores of the challenger, by case id: each of its classes is wanted of the champion.
        metric: `register.metric`.
        why: Why nothing of the champion's own evaluation can be compared; "" where it can.
    """

    def fitting(found: Mapping[str, list[CaseScore]]) -> dict[str, list[CaseScore]]:
        return {c: found[c] for c in wanted if c in found and _covers(found[c], wanted[c])}

    archived = {} if why else fitting(_archived_scores(champion, cases, metric))
    again = fitting(_rescored_scores(challenger, champion, cases, metric))
    if _code_of(challenger) != _code_of(champion):
        found, old = again, archived
    else:
        found, old = again | archived, {}
    lacking = [case_id for case_id in wanted if case_id not in found]
    obstacle = _obstacle(champion, challenger) if lacking else ""
    here = {c for c in lacking if c in cases and not obstacle and is_here(cases[c])}
    outdated = [c for c in lacking if c in old and c not in here]
    return ChampionScores(
        scores=found | {case_id: old[case_id] for case_id in outdated},
        rescored=[case_id for case_id in found if case_id not in archived or case_id in old],
        other_code=list(old),
        outdated=outdated,
        missing=[case_id for case_id in lacking if case_id in here],
        away=[c for c in lacking if c in cases and c not in here and c not in old and not obstacle],
        obstacle=obstacle if set(lacking) - set(outdated) else "",
    )


def _code_of(version: Version) -> str | None:
    """Which code predicted and measured when a version was evaluated; None where that is not known."""
    code = version.files.load_metrics().get(CODE)
    return None if code is None else str(code)


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


def by_case(scores: Iterable[CaseScore]) -> dict[str, list[CaseScore]]:
    """Scores by case id."""
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
    found = by_case(load_scores(champion.files.metrics / "cases.csv", metric))
    return {c: own for c, own in found.items() if c in cases and cases[c].sha256 == then.get(c)}


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


def is_here(case: CaseRecord) -> bool:
    """Whether all files of a case, images and references, are there."""
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
