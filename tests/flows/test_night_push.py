"""Which commits of earlier nights a push brings, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.night_work import push_error, unpushed_commits
from flows.nights import Night, start_night
from pipeline.errors import SegtrailError

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


def test_a_night_without_a_remote_says_how_to_make_one() -> None:
    found = SegtrailError("there is no DVC remote", ".dvc/config", "dvc remote add -d NAME https://address")
    assert str(push_error("", str(found))) == str(found)


def test_a_night_whose_remote_is_away_may_wait() -> None:
    error = push_error("store", "the remote is gone\n  where: store\n  fix:   mount it")
    assert (error.what, error.where) == ("the remote is gone", "DVC remote store")
    assert "the next night pushes" in error.fix
