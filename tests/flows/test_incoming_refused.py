"""Whole lots, incomplete ones and wrong ones side by side: what is taken, what waits, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
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

from flows.intake import Intake, Taken


def put_whole_lots(incoming: Path, shared_data: Path) -> None:
    """New cases with other files beside them, cases that are there already, both in one lot, and an empty folder."""
    put_cases(shared_data, incoming / "good", ("006", "007"))
    (incoming / "good/.DS_Store").write_bytes(b"\0")
    (incoming / "good/notes.txt").write_text("seen by Dr. Who")
    put_cases(shared_data, incoming / "twice", ("001", "003"))
    put_cases(shared_data, incoming / "half_new", ("004", "019"))
    (incoming / "empty").mkdir()


def put_incomplete_lots(incoming: Path, shared_data: Path) -> None:
    """A file that is cut off, an image alone and a label alone."""
    put_cases(shared_data, incoming / "cut_off", ("014",))
    cut = incoming / "cut_off/labelsTr/hippocampus_014.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-9])
    copy_file(shared_data, incoming / "no_label", "imagesTr", "015")
    copy_file(shared_data, incoming / "no_image", "labelsTr", "015")


def put_wrong_lots(incoming: Path, shared_data: Path) -> None:
    """A damaged file, a known case with other content, other classes, an unknown value, and no case at all."""
    put_cases(shared_data, incoming / "corrupt", ("008", "011"))
    damaged = incoming / "corrupt/imagesTr/hippocampus_008.nii.gz"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(bytes(content))
    put_cases(shared_data, incoming / "other_content", ("003", "017"))
    copy_file(shared_data, incoming / "other_content", "labelsTr", "004", "hippocampus_003.nii.gz")
    put_cases(shared_data, incoming / "other_classes", ("020",))
    facts = incoming / "other_classes/dataset.json"
    facts.write_text(facts.read_text().replace("Anterior", "Tail"))
    put_cases(shared_data, incoming / "unknown_value", ("023",))
    label = incoming / "unknown_value/labelsTr/hippocampus_023.nii.gz"
    image = nibabel.load(label)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj).astype(np.uint8) * 3, image.affine), label)
    (incoming / "letters").mkdir()
    (incoming / "letters/letter.pdf").write_bytes(b"%PDF")


def check_reasons(waiting: dict[str, str], refused: dict[str, str]) -> None:
    """Incomplete lots wait, wrong ones are refused, each with its own reason."""
    assert sorted(waiting) == ["cut_off", "no_image", "no_label"]
    assert waiting["no_label"] == "no label yet for hippocampus_015"
    assert waiting["no_image"] == "no image yet for hippocampus_015"
    assert "hippocampus_014: label: the gzip stream is cut off" in waiting["cut_off"]
    assert sorted(refused) == [
        "corrupt", "good", "letters", "other_classes", "other_content", "unknown_value",
    ]  # fmt: skip
    assert "hippocampus_003 already, with other content" in refused["other_content"]
    assert "Tail" in refused["other_classes"]
    assert "value 3 (" in refused["unknown_value"]
    assert refused["good"] == (
        "1 file(s) were not taken with the rest of the lot, such as notes.txt: "
        "only imagesTr, labelsTr, instancesTr come in"
    )


@pytest.mark.slow
def test_good_lots_beside_corrupt_incomplete_and_contradicting_ones(
    incoming: Path, shared_data: Path
) -> None:
    put_whole_lots(incoming, shared_data)
    put_incomplete_lots(incoming, shared_data)
    put_wrong_lots(incoming, shared_data)
    lots = {path.name: list_tree(path) for path in incoming.iterdir()}

    intake = take(incoming)
    assert intake.taken == [Taken("good", 4), Taken("half_new", 2), Taken("twice", 0)]
    waiting = {left.name: left.reason for left in intake.waiting}
    refused = {left.name: left.reason for left in intake.refused}
    check_reasons(waiting, refused)
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
