"""Lots that change while they are taken in, an intake that is killed, a full disk: each lot comes in whole and once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from incoming_project import (
    OLD,
    TARGET,
    in_step,
    list_tree,
    names,
    numbers_in,
    put_cases,
    take,
    take_in_killed,
)

from flows.intake import Taken
from pipeline.errors import SegtrailError

# Writes a file byte by byte; what is left at the end of a test's look comes at once.
GROWING = """
import sys, time
from pathlib import Path
whole, path, enough = map(Path, sys.argv[1:])
content = whole.read_bytes()
with path.open("wb", 0) as stream:
    for place in range(len(content)):
        stream.write(content[place : place + 1])
        if enough.exists():
            stream.write(content[place + 1 :])
            break
        time.sleep(0.01)
"""


def test_a_file_that_grows_is_not_taken(incoming: Path, shared_data: Path) -> None:
    """A process writes without a mark in the name; after it has ended the lot comes in."""
    put_cases(shared_data, incoming / "lot", ("006",))
    growing = incoming / "lot/imagesTr/hippocampus_006.nii.gz"
    (incoming.parent / "whole").write_bytes(growing.read_bytes())
    growing.unlink()
    writer = subprocess.Popen([sys.executable, "-c", GROWING, "../whole", str(growing), "../enough"])
    while not growing.exists() or not growing.stat().st_size:
        assert writer.poll() is None
    before = list_tree(TARGET)
    intake = take(incoming)
    (incoming.parent / "enough").touch()
    assert writer.wait() == 0
    assert [left.reason for left in intake.waiting] == [
        "imagesTr/hippocampus_006.nii.gz is growing or changing"
    ]
    assert list_tree(TARGET) == before
    reason = take(incoming, settle_s=3600).waiting[0].reason
    assert reason.endswith(" s ago, expected 3600 s of rest")
    os.utime(growing, (0, 0))  # a program that copies sets the time of change back: this one does not count
    assert take(incoming, settle_s=3600).taken == []
    assert take(incoming).taken == [Taken("lot", 2)]


def test_one_lot_changes_while_it_is_copied(
    incoming: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits, as does the lot whose only cases it would have brought too; the third comes in."""
    put_cases(shared_data, incoming / "a", ("006",))
    put_cases(shared_data, incoming / "b_same", ("006",))
    put_cases(shared_data, incoming / "c", ("007",))
    late = incoming / "a/labelsTr/hippocampus_006.nii.gz"
    import flows.intake as module

    build = module.build_tree

    def build_and_change(*arguments: Path) -> object:
        change = build(*arguments)
        if late.exists() and late.read_bytes()[-1:] != b"x":
            with late.open("ab") as stream:
                stream.write(b"x")
        return change

    monkeypatch.setattr(module, "build_tree", build_and_change)
    intake = take(incoming)
    assert intake.taken == [Taken("c", 2)]
    assert sorted(names(intake.waiting)) == ["a", "b_same"]
    assert numbers_in()[0] == sorted([*OLD, "007"])
    assert len(list_tree(incoming)) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "calls", "before"),
    [
        ("intake", "build_tree", 1, False),
        ("intake", "swap_in", 1, True),
        ("intake", "swap_in", 1, False),
        ("intake", "dvc_add", 1, False),
        ("intake", "remove_files", 1, True),
        ("intake", "remove_files", 2, False),
        ("lot_removal", "read_stat", 2, True),
        ("lot_removal", "write_whole", 1, False),
        ("lot_removal", "_move", 1, False),
    ],
)
def test_killed_anywhere_each_lot_comes_in_once(
    incoming: Path, shared_data: Path, module: str, name: str, calls: int, before: bool
) -> None:
    put_cases(shared_data, incoming / "a", ("006",))
    put_cases(shared_data, incoming, ("007",), facts=False)
    (incoming / "letters").mkdir()
    (incoming / "letters/letter.pdf").write_bytes(b"%PDF")
    lots = list_tree(incoming)
    take_in_killed(incoming, module, name, calls, before)
    left = {path.name for path in incoming.rglob("*") if path.is_file()}
    for number in ("006", "007"):  # still here, or whole in the data set
        there = (TARGET / f"labelsTr/hippocampus_{number}.nii.gz").exists()
        assert there or f"hippocampus_{number}.nii.gz" in left
    again = take(incoming)
    everything = sorted([*OLD, "006", "007"])
    assert numbers_in() == (everything, everything)
    assert in_step()
    assert not again.waiting
    assert list_tree(incoming).keys() == {"refused/letters/letter.pdf", "refused/letters/reason.txt"}
    assert list_tree(incoming)["refused/letters/letter.pdf"] == lots["letters/letter.pdf"]
    assert sorted(path.name for path in Path("data/raw").iterdir()) == ["hippocampus", "hippocampus.dvc"]


@pytest.mark.slow
def test_a_full_disk_leaves_the_incoming_folder_as_it_was(
    incoming: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of the tree fails for want of space, as does what is written for a single lot."""
    import errno

    put_cases(shared_data, incoming / "lot", ("006",))
    before, data = list_tree(incoming), list_tree(Path("data"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("flows.staging._copy", "flows.lot_reading.place_file"):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            with pytest.raises(SegtrailError, match="No space left on device|disk is full"):
                take(incoming)
        assert list_tree(incoming) == before
        assert list_tree(Path("data")) == data
    assert take(incoming).taken == [Taken("lot", 2)]
