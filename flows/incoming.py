"""`segtrail data take-in`: new cases of a watched folder come into the data set, each lot whole and once, or stay."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

from flows.data import require_version
from flows.intake import Intake, Intaker, Left
from flows.lot_places import LAYOUTS
from flows.lot_removal import finish_moves
from flows.lots import Lot, find_lots, why_waiting
from flows.privacy import conceal
from flows.staging import recover
from pipeline.config import load_params
from pipeline.disk import explain_full_disk
from pipeline.errors import SegtrailError
from pipeline.io.sources import RawDataset, open_dataset

LOGGER = logging.getLogger("segtrail")
SECOND_LOOK_S = 1.0  # after the first one: who writes without changing times shows by the size


def take_in(dataset: str, incoming: Path, settle_s: float, project: Path = Path()) -> Intake:
    """Takes whole lots of new cases into `data/raw/<dataset>`, then runs `dvc add` once.

    Killed at any instruction, a lot is still in the folder or whole in the data set; the next call takes each
    exactly once. What identifies a person stays outside, as of `segtrail data add`.

    Args:
        dataset: Name of the data set, which was added before.
        incoming: The watched folder.
        settle_s: A file that changed within so many seconds is still being copied.
        project: Top folder of the project.

    Raises:
        SegtrailError: There is no such folder or data set, its layout has no lots, it is not the version that its
            `.dvc` file names, the disk is full, DVC refuses. The folder is as before then.
    """
    params = load_params(project / "params.yaml").inspect
    target = project / "data" / "raw" / dataset
    _check(incoming, target, params.layout)
    recover(target)
    require_version(target, project)
    finish_moves(incoming)
    known = open_dataset(target, params.layout)
    intake = Intake()
    ready = _settled(incoming, params.layout, known, settle_s, intake)
    if ready:
        _require_in_step(target, project)
        work = project / ".segtrail" / "incoming" / dataset
        shutil.rmtree(work, ignore_errors=True)
        try:
            with explain_full_disk(project, "start the intake again; the incoming folder is as before"):
                Intaker(target, incoming, work, project, known, intake).run(ready)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    _say(intake, project)
    return intake


def _check(incoming: Path, target: Path, layout: str) -> None:
    if layout not in LAYOUTS:
        what = f"cases of the layout {layout} cannot come in lots: tables of the whole set describe them"
        raise SegtrailError(
            what, "params.yaml: inspect.layout", f"segtrail data add; lots have {', '.join(LAYOUTS)}"
        )
    if not incoming.is_dir():
        fix = "make it, mount its drive, or mend nightly.incoming"
        raise SegtrailError("the incoming folder does not exist", str(incoming), fix)
    here, there = incoming.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        what = "the incoming folder and the data set lie in one another"
        raise SegtrailError(what, str(incoming), "take a folder outside of data/raw")


def _settled(incoming: Path, layout: str, known: RawDataset, settle_s: float, intake: Intake) -> list[Lot]:
    """The lots that nobody writes into any more, by two looks."""
    lots = find_lots(incoming, layout, len(known.facts.channels))
    looks = [lot.look() for lot in lots]
    if lots:
        time.sleep(SECOND_LOOK_S)
    ready = []
    for lot, before in zip(lots, looks, strict=True):
        if reason := why_waiting(lot, before, settle_s):
            intake.waiting.append(Left(lot.name, reason))
        else:
            ready.append(lot)
    return ready


def _require_in_step(target: Path, project: Path) -> None:
    """Refuses to add to data that are not what their record says: the record of somebody else would be lost."""
    record = f"{target.relative_to(project).as_posix()}.dvc"
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json", record],
        cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SegtrailError(
            f"dvc status failed: {done.stderr.strip()}", record, "mend what DVC says, then repeat"
        )
    if done.stdout.strip() != "{}":
        what = "the data set is not the version that its record names: one of the two has changed"
        fix = f"dvc pull {record} where the record is newer (from Git), dvc add {record[:-4]} where the files are"
        raise SegtrailError(what, record, fix)


def _say(intake: Intake, project: Path) -> None:
    """Tells what became of each lot; the lines of a night are kept, so they name no patient."""
    for lots in (intake.taken, intake.waiting, intake.refused):
        lots.sort(key=lambda lot: lot.name)
    told = conceal(intake.to_record(), project)
    for taken in told["taken"]:
        LOGGER.info("taken in: %s, %d new file(s)", taken["name"], taken["files"])
    for left in told["waiting"]:
        LOGGER.info("waiting: %s: %s", left["name"], left["reason"])
    for left in told["refused"]:
        LOGGER.warning("refused: %s: %s", left["name"], left["reason"])
