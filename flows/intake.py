"""Whole lots come into a data set: the new tree is built and put under DVC, then the incoming folder is cleared."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flows.data import dvc_add
from flows.door import Door
from flows.lot_merging import check_union, merge_texts
from flows.lot_places import NotYetError
from flows.lot_reading import LotReader, ReadLot
from flows.lot_removal import put_aside, remove_files
from flows.lots import JUNK, Lot
from flows.overlay import KEEP, clear_place, link_tree, place_file
from flows.staging import build_tree, restored_on_failure, swap_in
from pipeline.config import load_params
from pipeline.errors import ImageFileError, SegtrailError
from pipeline.io.sources import RawDataset

LOGGER = logging.getLogger("segtrail")


@dataclass(frozen=True)
class Taken:
    """A lot that is in the data set; without files where all of it was there already."""

    name: str
    files: int


@dataclass(frozen=True)
class Left:
    """A lot that waits, or was put aside, and why."""

    name: str
    reason: str


@dataclass
class Intake:
    """What became of the lots of an incoming folder.

    Attributes:
        taken: They are in the data set and no longer in the folder.
        waiting: They stay where they are.
        refused: They lie in `refused/`, with a `reason.txt`.
    """

    taken: list[Taken] = field(default_factory=list)
    waiting: list[Left] = field(default_factory=list)
    refused: list[Left] = field(default_factory=list)

    def to_record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Intaker:
    """One intake: reads the lots, builds the new tree, then clears the incoming folder.

    Args:
        target: Folder of the data set.
        incoming: The incoming folder.
        work: Folder for what lies in between.
        project: Top folder of the project.
        known: What the data set holds.
        intake: Is told what became of each lot.
    """

    def __init__(
        self, target: Path, incoming: Path, work: Path, project: Path, known: RawDataset, intake: Intake
    ) -> None:
        self.target, self.incoming, self.work, self.project = target, incoming, work, project
        self.known, self.intake = known, intake
        self.params = load_params(project / "params.yaml").inspect

    def run(self, ready: Sequence[Lot]) -> None:
        """Takes in what can come in, and puts aside what never can."""
        door = Door(
            {f"{lot.name}/{name}": path for lot in ready for name, path in lot.files.items()}, self.project
        )
        door.prepare(self.target)
        accepted, refused = self._read(ready, door)
        accepted = self._fit(accepted, refused)
        staging = self.target.with_name(f".{self.target.name}.partial")
        try:
            accepted = self._build(accepted, staging)
            if accepted:
                with restored_on_failure(self.target, self.project / "params.yaml"):
                    if any(read.records for read in accepted):
                        swap_in(staging, self.target)
                    dvc_add(self.target, self.project)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        # From here on everything that is deleted is in the data set, and in DVC's cache.
        for read in accepted:
            self._clear(read)
        for lot, error in refused:
            paths = {path: name for name, path in (lot.files | lot.hidden).items()}
            self._refuse(lot, paths, error.what, str(error))
        door.close()

    def _read(
        self, ready: Sequence[Lot], door: Door
    ) -> tuple[list[ReadLot], list[tuple[Lot, SegtrailError]]]:
        """Reads each lot; one that is wrong does not keep the others out."""
        accepted, refused = [], []
        (self.work / "lots").mkdir(parents=True)
        reader = LotReader(self.target, self.known, self.params, self.work / "lots")
        names = {path: name for name, path in door.files.items()}
        reasons = {name: reason for reason, left in door.left_out.items() for name in left}
        for lot in ready:
            try:
                for path in (path for path in lot.files.values() if path not in names):
                    _require_header(path)
                identified = self._identify(lot, names, door)
                name = next((names[path].partition("/")[0] for path in identified), lot.name)
                files = {names[path].partition("/")[2]: new for path, new in identified.items()}
                read = reader.read(lot, name, files)
                read.left_out = {
                    old: read.left_out[new] for old, new in identified.items() if new in read.left_out
                }
                for name, path in lot.files.items():
                    if path not in names:
                        read.left_out[path] = reasons.get(f"{lot.name}/{name}", "left out")
                accepted.append(read)
            except NotYetError as error:
                self.intake.waiting.append(Left(lot.name, error.what))
            except SegtrailError as error:
                refused.append((lot, error))
        return accepted, refused

    def _identify(self, lot: Lot, names: Mapping[Path, str], door: Door) -> dict[Path, Path]:
        """What comes in for each file: itself, or a new one without what identifies a person."""
        identified = {}
        for path in (path for path in lot.files.values() if path in names):
            contents = None if path.name == KEEP else door.contents(path)
            identified[path] = path
            if contents is not None:
                identified[path] = clear_place(self.work / "identified" / names[path])
                identified[path].write_bytes(contents)
        return identified

    def _fit(self, accepted: list[ReadLot], refused: list[tuple[Lot, SegtrailError]]) -> list[ReadLot]:
        """Tries the data set with all lots in it; where that is none any more, one lot after the other."""
        try:
            self._unite(accepted)
        except SegtrailError:
            fitting: list[ReadLot] = []
            for read in accepted:
                try:
                    self._unite([*fitting, read])
                    fitting.append(read)
                except SegtrailError as error:
                    refused.append((read.lot, error))
            return fitting
        return accepted

    def _unite(self, accepted: Sequence[ReadLot]) -> Path:
        """A folder of links that looks as the data set will."""
        whole = self.work / "whole" / self.target.name
        shutil.rmtree(whole, ignore_errors=True)
        link_tree(self.target, whole)
        for place, path in ((p, f) for read in accepted for p, f in read.places.items()):
            if not (whole / place).exists():
                place_file(path, whole / place)
        for name, text in merge_texts(self.target, self.params.layout, self.known, accepted).items():
            clear_place(whole / name).write_text(text, encoding="utf-8")
        check_union(whole, self.params.layout, self.known, accepted)
        return whole

    def _build(self, accepted: list[ReadLot], staging: Path) -> list[ReadLot]:
        """Copies; a lot that changed meanwhile waits, and so does one whose cases only that lot would have brought."""
        before = {record.case_id for record in self.known.records}
        while accepted:
            build_tree(self._unite(accepted), self.target, staging)
            there = before | {record.case_id for read in accepted for record in read.records}
            moved = [
                read
                for read in accepted
                if read.lot.look() != read.lot.stats or not there.issuperset(read.same)
            ]
            if not moved:
                break
            self.intake.waiting += [Left(read.lot.name, "it changed while it was copied") for read in moved]
            accepted = [read for read in accepted if read not in moved]
        return accepted

    def _clear(self, read: ReadLot) -> None:
        """Deletes what is in the data set, and puts aside what stays outside of it."""
        lot = read.lot
        aside = {path: name for name, path in lot.files.items() if path in read.left_out}
        aside |= {path: name for name, path in lot.hidden.items() if not JUNK.fullmatch(path.name)}
        remove_files(lot, [path for path in lot.files.values() if path not in aside])
        files = [place for place in read.places if not place.endswith(KEEP)]
        self.intake.taken.append(Taken(read.name, len(files)))
        if read.same:
            LOGGER.info("%s: %d case(s) were in the data set already, to the byte", read.name, len(read.same))
        if aside:
            reasons = [f"{name}: {read.left_out.get(path, 'a hidden file')}" for path, name in aside.items()]
            what = f"{len(aside)} file(s) were not taken with the rest of the lot"
            self._refuse(lot, aside, f"{what}, such as {reasons[0]}", "\n  ".join([f"{what}:", *reasons]))

    def _refuse(self, lot: Lot, paths: Mapping[Path, str], reason: str, text: str) -> None:
        there = {path: name for path, name in paths.items() if path.exists()}
        if there:
            put_aside(self.incoming, lot, there, text)
        self.intake.refused.append(Left(lot.name, reason))


def _require_header(path: Path) -> None:
    """A DICOM file that stays outside as its header cannot be read may be half a file."""
    from pipeline.io.deidentify import read_header

    try:
        read_header(path)
    except ImageFileError as error:
        raise NotYetError(f"{path.name}: {error.what}", str(path), error.fix) from error
