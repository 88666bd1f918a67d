"""Raw data sets by layout: which cases there are, and where their files lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.errors import SegtrailError, collect, unknown_name
from pipeline.io.dataset import CASE_ID, DatasetFacts, Listing
from pipeline.io.dsb2018 import list_dsb2018
from pipeline.io.lidc import list_lidc
from pipeline.io.luna16 import list_luna16
from pipeline.io.msd import list_msd
from pipeline.io.references import ReferenceBuilder
from pipeline.io.table import list_table

__all__ = ["LAYOUTS", "DatasetFacts", "RawDataset", "list_cases", "open_dataset"]

LAYOUTS: Mapping[str, Callable[[Path], Listing]] = {
    "msd": list_msd,
    "table": list_table,
    "dsb2018": list_dsb2018,
    "luna16": list_luna16,
    "lidc": list_lidc,
}


@dataclass(frozen=True)
class RawDataset:
    """What a layout finds in a folder that is right.

    Attributes:
        facts: Of the data set.
        records: One a case, by case_id, without geometry, hash or verdict.
        references: What makes the reference of a case, by case_id; for cases whose labels are no images.
    """

    facts: DatasetFacts
    records: Sequence[CaseRecord]
    references: Mapping[str, ReferenceBuilder]


def list_cases(folder: Path, layout: str) -> tuple[DatasetFacts, list[CaseRecord]]:
    """Facts and cases of `open_dataset`."""
    dataset = open_dataset(folder, layout)
    return dataset.facts, list(dataset.records)


def open_dataset(folder: Path, layout: str) -> RawDataset:
    """Lists the cases of a raw data set; no image is opened, of a DICOM series one header.

    Args:
        folder: Of the data set, relative to the project.
        layout: A name of LAYOUTS.

    Raises:
        SegtrailError: The layout is unknown, the folder or files are missing, tables or `dataset.json` are
            wrong, or a case_id is illegal or given twice; everything that is wrong at once.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS, "params.yaml: inspect.layout")
    if not folder.is_dir():
        raise _missing_folder(folder)
    listing = LAYOUTS[layout](folder)
    _check_case_ids(listing)
    if not listing.records and not listing.problems:
        listing.problem("the data set has no case", folder, "see data/README.md for the layout of a data set")
    if listing.facts is None or listing.problems:
        raise collect(listing.problems)
    records = sorted(listing.records, key=lambda record: record.case_id)
    return RawDataset(listing.facts, records, listing.references)


def _missing_folder(folder: Path) -> SegtrailError:
    beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
    there = f"; {folder.parent} holds {', '.join(beside)}" if beside else ""
    return SegtrailError(
        f"there is no folder {folder}{there}",
        "params.yaml: inspect.dataset",
        "segtrail data add RAW --preset NAME, or name a folder that is there",
    )


def _check_case_ids(listing: Listing) -> None:
    counts = Counter(record.case_id for record in listing.records)
    for case_id, count in counts.items():
        if count > 1:
            listing.problem(
                f"the case_id is given {count} times", f"case {case_id}", "give each case its own"
            )
        if case_id and not CASE_ID.fullmatch(case_id):
            what = f"the case_id {case_id!r} cannot be a file name"
            listing.problem(what, str(listing.folder), "use letters, digits, dot, dash and underscore")
