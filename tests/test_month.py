"""The short form of `benchmarks/month.py`: nights by the schedule, on real hippocampi."""

from __future__ import annotations

from pathlib import Path

import pytest
from month_nights import AFTER_KILL, FIRST, KILLED, MOST_SWAPPED, NO_STORE, QUIET
from month_run import play


@pytest.mark.slow
def test_nights_that_are_left_to_themselves(shared_data: Path, tmp_path: Path) -> None:
    rows = play(tmp_path, shared_data, (FIRST, QUIET, MOST_SWAPPED)).splitlines()[1:]
    assert [row.split("  ")[0] for row in rows] == ["1", "2", "3"]
    assert " refused " in rows[2]


@pytest.mark.long
def test_a_night_that_is_killed_and_a_lost_store(shared_data: Path, tmp_path: Path) -> None:
    rows = play(tmp_path, shared_data, (FIRST, KILLED, AFTER_KILL, NO_STORE)).splitlines()[1:]
    assert len(rows) == 4
    assert " killed " in rows[1]
