"""The champion, as a later training starts from it and new cases are compared with it.

`data/registry` is written after the stage `train`, so it is no dependency of that stage: a change of the champion alone
retrains nothing. What a training did start from stands in its own output (`flows.warm_start`).
"""

from __future__ import annotations

from flows.archive import REGISTRY, VERSIONS, Version, check_version, load_version, version_folder
from flows.decision import load_decision
from flows.provenance import is_locked


def find_champion(name: str) -> Version | None:
    """The champion, whose files are checked; None where there is none.

    Args:
        name: Registered model.

    Raises:
        SegtrailError: Its files are missing or damaged.
    """
    sha256 = load_decision(name).get("champion_after")
    if sha256 is None:
        return None
    version = load_version(version_folder(name, sha256))
    check_version(version)
    return version


def why_no_champion() -> str:
    """In words, for a project where `find_champion` finds none."""
    if not VERSIONS.exists() and is_locked("register"):
        return f"no champion here: dvc checkout {REGISTRY}"
    return "no champion yet"
