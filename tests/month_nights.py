"""What is done to the nights of a month, each with what must come of it."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import month_trouble as trouble
import nibabel
import numpy as np
from month_project import DATASET, GO_ON
from month_schedule import Month
from month_trouble import LOT, TRAINED

Record = dict[str, Any]


@dataclass(frozen=True)
class Night:
    """One night of the month.

    Attributes:
        title: What is done to it.
        play: Does it, and gives the records of all nights that came of it.
    """

    title: str
    play: Callable[[Month], list[Record]]


def first(month: Month) -> list[Record]:
    record = month.night()
    assert (record["state"], record["trigger"]) == ("promoted", "schedule"), record["reason"]
    due, started = (datetime.fromisoformat(record[key]) for key in ("due", "started"))
    assert started >= due - timedelta(
        seconds=1
    )  # whole seconds, and Prefect lets a run go some milliseconds early
    return [record]


def without_data(month: Month) -> list[Record]:
    record = month.night()
    assert record["state"] == "skipped", record["reason"]
    assert record["reason"] == "nothing changed: data, code and params are those of the last run"
    assert not month.log(record["night_id"])
    return [record]


def lot(month: Month, how: str = "schedule") -> list[Record]:
    month.set_params(GO_ON)  # from here on each goes on from the champion, in fewer steps
    numbers = month.deliver(f"lot_{month.waiting[0]}", LOT)
    record = month.night(how)
    assert record["state"] in TRAINED, record["reason"]
    assert set(record["cases"]["new"]) == {f"{DATASET}_{number}" for number in numbers}
    assert not list(month.incoming.glob("lot_*"))
    return [record]


def asked_for(month: Month) -> list[Record]:
    (record,) = lot(month, "run-now")
    assert record["trigger"] == "run-now"
    return [record]


def corrupt(month: Month) -> list[Record]:
    """A cut-off file (a copy that may go on: it waits), and one that is damaged: refused; a good lot comes in."""
    cut, damaged = month.incoming / "cut", month.incoming / "damaged"
    for folder in (cut, damaged):
        for part in ("imagesTr", "labelsTr"):
            month.copy_part(folder, part, month.waiting[0])
        (image,) = (folder / "imagesTr").iterdir()
        data = image.read_bytes()
        image.write_bytes(data[:-2000] if folder is cut else gzip.compress(b"no image" * 100))
        month.waiting.append(month.waiting.pop(0))
    (record,) = lot(month)
    intake = record["intake"]
    assert [found["name"] for found in intake["waiting"]] == ["cut"], intake
    assert [found["name"] for found in intake["refused"]] == ["damaged"], intake
    assert (month.incoming / "refused/damaged/reason.txt").is_file()
    shutil.rmtree(cut)
    return [record]


def shifted_scanner(month: Month) -> list[Record]:
    """Voxels of 1.3 mm and intensities of 1.5 x + 100."""
    name = "scanner"
    numbers = month.deliver(name, 10)
    for path in sorted((month.incoming / name).glob("*/*.nii.gz")):
        volume = nibabel.load(path)
        values = np.asarray(volume.dataobj)
        if path.parent.name == "imagesTr":
            values = (values * 1.5 + 100).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, volume.affine @ np.diag([1.3, 1.3, 1.3, 1.0])), path)
    record = month.night()
    assert record["drift"]["drifted"], record["drift"]
    assert {f"{DATASET}_{number}" for number in numbers} <= set(record["drift"]["new_cases"])
    drifted = {one["feature"] for one in record["drift"]["features"] if one["drifted"]}
    assert "spacing_x_mm" in drifted
    assert (month.folder / ".segtrail/nights" / record["night_id"] / "drift.png").is_file()
    assert record["state"] in TRAINED, record["reason"]
    return [record]


def mislabelled(month: Month, count: int = 20, training: bool = False) -> list[Record]:
    """A large lot whose classes are swapped: each file is in order, so that only the gate can see it.

    Args:
        month: Whose night.
        count: Cases of the lot.
        training: All of them teach, none tests: the more of them, the worse the challenger on the old test cases.
    """
    if training:
        month.put_training_cases_first()
    numbers = month.deliver("swapped", count)
    for path in (month.incoming / "swapped/labelsTr").iterdir():
        swap(path)
    before = month.champion()
    record = month.night()
    assert record["cases"]["quarantined"] == []
    assert record["state"] == "refused", record["reason"]
    assert month.champion() == before
    assert record["decision"]["challenger"] != before
    # A person reads the report, and mends the labels.
    for number in numbers:
        path = month.raw / "labelsTr" / f"{DATASET}_{number}.nii.gz"
        data = path.read_bytes()
        path.unlink()  # DVC may have linked it to its cache
        path.write_bytes(data)
        swap(path)
    month.command("dvc", "add", "-q", f"data/raw/{DATASET}")
    return [record]


def swap(path: Path) -> None:
    volume = nibabel.load(path)
    values = np.asarray(volume.dataobj)
    nibabel.save(
        nibabel.Nifti1Image(np.array([0, 2, 1], values.dtype)[values.astype(int)], volume.affine), path
    )


FIRST = Night("40 cases, no champion yet", first)
QUIET = Night("no new data", without_data)
NEW_LOT = Night(f"a lot of {LOT}", lot)
ASKED = Night(f"a lot of {LOT}, by run-now", asked_for)
CORRUPT = Night("a damaged lot, a cut-off one, a good one", corrupt)
SHIFTED = Night("10 cases of another scanner", shifted_scanner)
SWAPPED = Night("labels of a lot swapped", mislabelled)
MOST_SWAPPED = Night("labels of most training cases swapped", partial(mislabelled, count=30, training=True))
KILLED = Night("kill -9 in training", trouble.killed_in_training)
POWER = Night("kill -9 of all while registering", trouble.killed_in_registering)
AFTER_KILL = Night("after a kill", trouble.after_a_kill)
TWO = Night("the next one is due while it is at work", trouble.two_at_once)
NO_STORE = Night("the MLflow store is deleted", trouble.without_store)
NO_REMOTE = Night("the remote is gone; back the night after", trouble.without_remote)
FULL = Night("the disk is full while it trains", trouble.full_disk)
AFTER_FULL = Night("room again", trouble.after_a_full_disk)
SCHEDULE_KILLED = Night("kill -9 of segtrail schedule, due meanwhile", trouble.schedule_killed)
SCHEDULE_AGAIN = Night("kill -9 of segtrail schedule at work", trouble.schedule_restarted_at_work)

SHORT = (FIRST, QUIET, CORRUPT, NO_STORE, SCHEDULE_KILLED, KILLED, SWAPPED)
MONTH = (
    *(FIRST, NEW_LOT, QUIET, NEW_LOT, CORRUPT, ASKED, TWO, SWAPPED, NEW_LOT, KILLED, AFTER_KILL, SHIFTED),
    *(QUIET, POWER, AFTER_KILL, NO_STORE, NEW_LOT, NO_REMOTE, FULL, AFTER_FULL, SCHEDULE_KILLED),
    *(SCHEDULE_AGAIN, NEW_LOT, QUIET, NO_STORE, NEW_LOT, CORRUPT, QUIET),
)
