"""Lines of `segtrail schedule` about its nights."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.nights import CLOSING, SKIPPED, start_night
from flows.schedule_lines import NightLines


def test_a_night_is_told_of_as_it_begins_and_as_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start_night("command", None)
    lines = NightLines()
    assert list(lines.look()) == []
    night = start_night("schedule", None)
    night_id = night.record["night_id"]
    assert list(lines.look()) == [f"night {night_id} has begun"]
    night.end(SKIPPED, "nothing changed")
    assert list(lines.look()) == []  # report and message are still to come
    for name in CLOSING:
        with night.step(name):
            pass
    (line,) = lines.look()
    assert line.startswith(f"night {night_id}: skipped after ")
    assert line.endswith(": nothing changed")
    assert list(lines.look()) == []


@pytest.mark.parametrize("text", ["{", "{}", '{"state": "skipped", "steps": [1]}'])
def test_a_damaged_record_is_left_to_the_next_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = NightLines()
    night = start_night("schedule", None)
    (night.folder / "night.json").write_text(text)
    assert list(lines.look()) == [f"night {night.record['night_id']} has begun"]
    assert list(lines.look()) == []
