"""Lots of real cases come into a real DVC data set: whole ones once, all others not at all, whatever happens."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from incoming_project import (
    OLD,
    TARGET,
    copy_file,
    list_tree,
    make_project,
    numbers_in,
    put_cases,
    take_in_killed,
)

from flows import cli
from flows.incoming import take_in
from flows.intake import Intake, Left, Taken
from pipeline.errors import SegtrailError

RECORD = Path("data/raw/hippocampus.dvc")
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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("template") / "project"
    make_project(folder, shared_data)
    return folder


@pytest.fixture
def incoming(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty incoming folder; the working directory is the project."""
    shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr("flows.incoming.SECOND_LOOK_S", 0.1)
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


def take(incoming: Path, settle_s: float = 0.0) -> Intake:
    return take_in("hippocampus", incoming, settle_s)


def names(left: list[Left]) -> list[str]:
    return [one.name for one in left]


def in_step() -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json", str(RECORD)],
        capture_output=True,
        text=True,
        check=True,
    )
    return bool(json.loads(done.stdout) == {})


@pytest.mark.slow
def test_three_whole_cases_among_a_hundred_half_copied_ones(incoming: Path, shared_data: Path) -> None:
    """Taken in one night, under DVC, with the list; each half copy stays to the byte and is told with its reason."""
    put_cases(shared_data, incoming, ("006", "007", "008"), facts=False)
    marks = (
        "{}.part",
        "{}.tmp",
        "{}.filepart",
        "{}~",
        "{}.crdownload",
        ".{}.Xa3f2Z",
        ".in.{}",
        ".syncthing.{}.tmp",
    )
    for number in range(100):
        name = f"case_{number:03d}.nii.gz"
        half = copy_file(shared_data, incoming, "imagesTr", "006", marks[number % len(marks)].format(name))
        half.write_bytes(half.read_bytes()[: 500 + number])
        if number % 2:
            copy_file(shared_data, incoming, "labelsTr", "006", name)
    halves = {name: text for name, text in list_tree(incoming).items() if "hippocampus" not in name}
    intake = take(incoming)
    assert intake.taken == [Taken(f"hippocampus_{n}", 2) for n in ("006", "007", "008")]
    assert names(intake.waiting) == [f"case_{number:03d}" for number in range(100)]
    assert all("still being copied: imagesTr/" in left.reason for left in intake.waiting)
    assert intake.refused == []
    assert list_tree(incoming) == halves
    everything = [*OLD, "006", "007", "008"]
    assert numbers_in() == (everything, everything)
    assert yaml.safe_load(RECORD.read_text())["outs"][0]["nfiles"] == 13
    assert in_step()
    for number in ("006", "007", "008"):
        for part in ("imagesTr", "labelsTr"):
            real = shared_data / "Task04_Hippocampus" / part / f"hippocampus_{number}.nii.gz"
            assert (TARGET / part / real.name).read_bytes() == real.read_bytes()


@pytest.mark.slow
def test_good_lots_beside_corrupt_incomplete_and_contradicting_ones(
    incoming: Path, shared_data: Path
) -> None:
    put_cases(shared_data, incoming / "good", ("006", "007"))
    put_cases(shared_data, incoming / "corrupt", ("008", "011"))
    damaged = incoming / "corrupt/imagesTr/hippocampus_008.nii.gz"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(bytes(content))
    put_cases(shared_data, incoming / "cut_off", ("014",))
    cut = incoming / "cut_off/labelsTr/hippocampus_014.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-9])
    copy_file(shared_data, incoming / "no_label", "imagesTr", "015")
    copy_file(shared_data, incoming / "no_image", "labelsTr", "015")
    put_cases(shared_data, incoming / "other_content", ("003", "017"))
    copy_file(shared_data, incoming / "other_content", "labelsTr", "004", "hippocampus_003.nii.gz")
    put_cases(shared_data, incoming / "twice", ("001", "003"))
    put_cases(shared_data, incoming / "half_new", ("004", "019"))
    put_cases(shared_data, incoming / "other_classes", ("020",))
    facts = incoming / "other_classes/dataset.json"
    facts.write_text(facts.read_text().replace("Anterior", "Tail"))
    (incoming / "letters").mkdir()
    (incoming / "letters/letter.pdf").write_bytes(b"%PDF")
    (incoming / "empty").mkdir()
    put_cases(shared_data, incoming / "unknown_value", ("023",))
    label = incoming / "unknown_value/labelsTr/hippocampus_023.nii.gz"
    image = nibabel.load(label)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj).astype(np.uint8) * 3, image.affine), label)
    (incoming / "good/.DS_Store").write_bytes(b"\0")
    (incoming / "good/notes.txt").write_text("seen by Dr. Who")
    lots = {path.name: list_tree(path) for path in incoming.iterdir()}

    intake = take(incoming)
    assert intake.taken == [Taken("good", 4), Taken("half_new", 2), Taken("twice", 0)]
    waiting = {left.name: left.reason for left in intake.waiting}
    assert sorted(waiting) == ["cut_off", "no_image", "no_label"]
    assert waiting["no_label"] == "no label yet for hippocampus_015"
    assert waiting["no_image"] == "no image yet for hippocampus_015"
    assert "hippocampus_014: label: the gzip stream is cut off" in waiting["cut_off"]
    refused = {left.name: left.reason for left in intake.refused}
    assert sorted(refused) == [
        "corrupt",
        "good",
        "letters",
        "other_classes",
        "other_content",
        "unknown_value",
    ]
    assert "hippocampus_003 already, with other content" in refused["other_content"]
    assert "Tail" in refused["other_classes"]
    assert "value 3 (" in refused["unknown_value"]
    assert refused["good"] == (
        "1 file(s) were not taken with the rest of the lot, such as notes.txt: "
        "only imagesTr, labelsTr, instancesTr come in"
    )
    everything = sorted([*OLD, "006", "007", "019"])
    assert numbers_in() == (everything, everything)
    assert in_step()
    for name in waiting:
        assert list_tree(incoming / name) == lots[name]
    for name in set(refused) - {"good"}:
        left = list_tree(incoming / "refused" / name)
        assert left.pop("reason.txt").decode().startswith(refused[name])
        assert left == lots[name]
    assert sorted(list_tree(incoming / "refused/good")) == ["notes.txt", "reason.txt"]
    assert sorted(path.name for path in incoming.iterdir()) == sorted([*waiting, "empty", "refused"])

    # What is mended is taken the next time, and nothing is looked at in `refused`.
    copy_file(shared_data, incoming / "no_label", "labelsTr", "015")
    shutil.rmtree(incoming / "no_image")
    record = RECORD.read_bytes()
    again = take(incoming)
    assert (again.taken, names(again.waiting), again.refused) == (
        [Taken("no_label", 2)],
        ["cut_off"],
        [],
    )
    assert RECORD.read_bytes() != record


def test_a_refused_lot_that_is_mended_and_moved_back_comes_in(incoming: Path, shared_data: Path) -> None:
    """With the reason beside it, which is Segtrail's own; a file of the lot that is called so is kept."""
    put_cases(shared_data, incoming / "lot", ("006",))
    facts = incoming / "lot/dataset.json"
    good = facts.read_text()
    facts.write_text(good.replace("Anterior", "Tail"))
    (incoming / "letters").mkdir()
    (incoming / "letters/reason.txt").write_text("a letter")
    assert names(take(incoming).refused) == ["letters", "lot"]
    assert (incoming / "refused/letters/lot_reason.txt").read_text() == "a letter"
    assert "it has no folder imagesTr" in (incoming / "refused/letters/reason.txt").read_text()
    (incoming / "refused/lot").rename(incoming / "lot")
    facts.write_text(good)
    assert take(incoming) == Intake(taken=[Taken("lot", 2)])
    assert not (incoming / "lot").exists()
    assert not (TARGET / "reason.txt").exists()


@pytest.mark.parametrize("loose", [False, True])
def test_a_link_to_a_folder_waits_as_its_files_are_somebodys_originals(
    loose: bool, incoming: Path, shared_data: Path
) -> None:
    originals = incoming.parent / "originals"
    put_cases(shared_data, originals, ("006",))
    before = list_tree(originals)
    if loose:
        for part in ("imagesTr", "labelsTr"):
            (incoming / part).symlink_to(originals / part)
    else:
        (incoming / "lot").symlink_to(originals)
        (incoming / "inner").mkdir()
        (incoming / "inner/imagesTr").symlink_to(originals / "imagesTr")
        shutil.copytree(originals / "labelsTr", incoming / "inner/labelsTr")
    intake = take(incoming)
    assert (intake.taken, intake.refused) == ([], [])
    assert names(intake.waiting) == (["hippocampus_006"] if loose else ["inner", "lot"])
    assert all("is a link to a folder" in left.reason for left in intake.waiting)
    assert list_tree(originals) == before


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
def test_a_case_says_whose_it_is(incoming: Path, shared_data: Path) -> None:
    """With `patients.csv` each new case needs a row; one that comes first gives the old cases their rows."""
    put_cases(shared_data, incoming / "lot", ("006",))
    (incoming / "lot/patients.csv").write_text("case_id,patient_id\nhippocampus_006,p6\n")
    assert take(incoming).taken == [Taken("lot", 2)]
    with (TARGET / "patients.csv").open(newline="") as stream:
        rows = {row["case_id"]: row["patient_id"] for row in csv.DictReader(stream)}
    assert rows == {f"hippocampus_{n}": f"hippocampus_{n}" for n in OLD} | {"hippocampus_006": "p6"}
    put_cases(shared_data, incoming, ("007",), facts=False)
    assert [left.reason for left in take(incoming).waiting] == [
        "patients.csv does not say yet whose hippocampus_007 is"
    ]
    (incoming / "patients.csv").write_text("case_id,patient_id,site\nhippocampus_007,p6,north\n")
    assert take(incoming).taken == [Taken("hippocampus_007", 2)]
    assert (TARGET / "patients.csv").read_text().splitlines()[-1] == "hippocampus_007,p6,north"


def test_what_stands_in_the_way_is_told_before_anything_moves(
    incoming: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_cases(shared_data, incoming / "lot", ("006",))
    before = list_tree(incoming)
    with pytest.raises(SegtrailError, match="the data set was never added") as caught:
        take_in("other", incoming, 0)
    assert caught.value.fix == "bring it in with segtrail data add RAW --preset NAME"
    with pytest.raises(SegtrailError, match="the incoming folder does not exist"):
        take(incoming / "gone")
    with pytest.raises(SegtrailError, match="lie in one another"):
        take(TARGET / "imagesTr")
    assert cli.main(["data", "take-in"]) == 1
    assert "no incoming folder is named" in capsys.readouterr().err
    # The record is newer than the files: taking in would drop what somebody else has added.
    record = yaml.safe_load(RECORD.read_text())
    record["outs"][0]["md5"] = f"{'0' * 32}.dir"
    RECORD.write_text(yaml.safe_dump(record))
    with pytest.raises(SegtrailError, match="is not the version that its record names") as caught:
        take(incoming)
    assert "dvc pull data/raw/hippocampus.dvc" in caught.value.fix
    shutil.rmtree(TARGET)
    with pytest.raises(SegtrailError, match="its files are not here"):
        take(incoming)
    assert list_tree(incoming) == before


def test_nothing_in_the_folder_is_nothing_to_do(incoming: Path) -> None:
    (incoming / "refused/lot").mkdir(parents=True)
    (incoming / ".stfolder").mkdir()
    (incoming / ".DS_Store").touch()
    record = RECORD.read_bytes()
    assert take(incoming) == Intake()
    assert RECORD.read_bytes() == record


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
