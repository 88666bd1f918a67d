"""Lots of real cases come into a real DVC data set: whole ones once, all others not at all, with the reason."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import yaml
from incoming_project import (
    OLD,
    RECORD,
    TARGET,
    copy_file,
    in_step,
    list_tree,
    names,
    numbers_in,
    put_cases,
    take,
)

from flows import cli
from flows.incoming import take_in
from flows.intake import Intake, Taken
from pipeline.errors import SegtrailError


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
