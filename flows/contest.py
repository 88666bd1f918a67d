"""Who challenges whom: one of the models that are present, and the champion of the decision before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.archive import DECISION, REGISTRY, VERSIONS, Version, list_versions
from flows.audit import Record
from flows.choice import choose_challenger
from flows.succession import find_barred, select_competitors
from pipeline.config import RegisterParams
from pipeline.errors import SegtrailError


@dataclass(frozen=True)
class Contest:
    """Who stands against whom.

    Attributes:
        earlier: The decision before.
        versions: All versions, by bundle sha256.
        challenger: None when no model has a value of the metric.
        champion: None when there is none.
        validation: What validation said of the competitors, see `flows.choice`.
    """

    earlier: Record
    versions: dict[str, Version]
    challenger: str | None
    champion: str | None
    validation: list[Record]

    @property
    def opponents(self) -> tuple[Version, Version] | None:
        """Challenger and champion, where the gate is to compare them."""
        if self.challenger is None or self.champion in (None, self.challenger):
            return None
        if self.challenger in find_barred(self.earlier):
            return None
        return self.versions[self.challenger], self.versions[str(self.champion)]


def choose(earlier: Record, present: Sequence[str], params: RegisterParams) -> Contest:
    """Chooses the challenger.

    Args:
        earlier: The decision before, see `flows.decision.load_decision`.
        present: Bundle sha256 of the models trained now, in the order of `params.models`.
        params: Section `register`.

    Raises:
        SegtrailError: The metric is unknown, or the champion's files are missing.
    """
    by_sha256 = {version.bundle_sha256: version for version in list_versions(params.model_name)}
    champion = earlier.get("champion_after")
    if champion is not None and champion not in by_sha256:
        raise SegtrailError(
            f"the champion {champion[:12]} is not in the archive",
            str(VERSIONS / params.model_name),
            f"dvc checkout {REGISTRY}; or delete {VERSIONS / params.model_name / DECISION} to choose anew",
        )
    competitors = select_competitors(present, find_barred(earlier), champion)
    preferred = (earlier.get("challenger"), champion)
    challenger, validation = choose_challenger(competitors, by_sha256, params.metric, preferred)
    return Contest(earlier, by_sha256, challenger, champion, validation)
