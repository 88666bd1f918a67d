"""The short form of `benchmarks/month.py`: nights by the schedule on real hippocampi, one killed, one mislabelled."""

from __future__ import annotations

from pathlib import Path

import pytest
from month_nights import AFTER_KILL, FIRST, KILLED, QUIET, SWAPPED
from month_run import play


@pytest.mark.slow
def test_nights_that_are_left_to_themselves(shared_data: Path, tmp_path: Path) -> None:
    rows = play(tmp_path, shared_data, (FIRST, QUIET, KILLED, AFTER_KILL, SWAPPED)).splitlines()[1:]
    assert len(rows) == 5
    assert " killed " in rows[2]
    assert " refused " in rows[4]
