"""Which commits of earlier nights a push brings, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.night_work import unpushed_commits
from flows.nights import Night, start_night

PUSHED = {"remote": "store", "attempts": 1, "pushed": True, "error": "", "left": []}
FAILED = {**PUSHED, "pushed": False, "error": "the remote is gone"}


def had(commit: str, push: dict[str, Any] | None) -> Night:
    night = start_night("schedule", None)
    night.record |= {"commit": {"branch": "nightly", "commit": commit}, "push": push}
    night.save()
    return night


def test_those_whose_push_failed_since_the_last_that_went_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    had("before", FAILED)
    had("there", PUSHED)
    had("first", FAILED)
    had(
        "refused", None
    )  # by the look for names of patients, which comes before the remote; or nobody has looked
    had("second", FAILED)
    assert unpushed_commits(start_night("schedule", None)) == ["first", "second"]
