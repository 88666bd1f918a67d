"""A data set with lots in it: what its tables say then, and whether it is still the same data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.lot_places import CASES, FACTS, PATIENTS
from flows.lot_reading import ReadLot, comparable
from pipeline.errors import SegtrailError
from pipeline.io.dataset import read_json
from pipeline.io.lot_tables import append_patients, append_rows, append_training
from pipeline.io.sources import RawDataset, open_dataset


def merge_texts(target: Path, layout: str, known: RawDataset, accepted: Sequence[ReadLot]) -> dict[str, str]:
    """Text of each table that changes when lots come in.

    Raises:
        SegtrailError: A row of a lot has a column that the data set's table lacks.
    """
    texts: dict[str, str] = {}
    rows = [row for read in accepted for row in read.table]
    if layout == "table" and rows:
        texts[CASES] = append_rows(target / CASES, rows)
    patients = [row for read in accepted for row in read.patients]
    if patients:
        texts[PATIENTS] = append_patients(target / PATIENTS, known.records, patients)
    if layout == "msd":
        facts, pairs = read_json(target / FACTS), [pair for read in accepted for pair in _pairs(read)]
        if facts.get("training") and pairs:
            texts[FACTS] = append_training(facts, pairs)
    return texts


def _pairs(read: ReadLot) -> list[tuple[str, str]]:
    """Image and label of each new case of the layout msd, relative to the data set."""

    def place(path: str) -> str:
        return Path(path).relative_to(read.folder).as_posix()

    return [(place(record.images[0]), place(record.label)) for record in read.records]


def check_union(folder: Path, layout: str, known: RawDataset, accepted: Sequence[ReadLot]) -> None:
    """Checks that every case is there, old and new, and that classes and channels mean what they meant.

    Raises:
        SegtrailError: The layout finds something wrong, or something else than was put in.
    """
    union = open_dataset(folder, layout)
    before, after = comparable(known.facts), comparable(union.facts)
    if before != after:
        changed = [
            f"{key} would be {after[key]}, are {before[key]}" for key in before if before[key] != after[key]
        ]
        what = f"the data set would mean something else: {'; '.join(changed)}"
        raise SegtrailError(
            what, layout, "write a dataset.json that names channels and classes, or mend the lot"
        )
    old = {record.case_id for record in known.records}
    new = {record.case_id for read in accepted for record in read.records}
    found = {record.case_id for record in union.records}
    if found != old | new:
        names = ", ".join(sorted(found ^ (old | new))[:3])
        raise SegtrailError(
            f"cases would appear or vanish: {names}", layout, "add the lot with segtrail data add"
        )
