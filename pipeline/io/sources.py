"""Raw data sets by layout: which cases there are, and where their files lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.config import LAYOUTS, layout_names
from pipeline.errors import SegtrailError, collect, unknown_name
from pipeline.io.dataset import CASE_ID, DatasetFacts, Listing
from pipeline.io.references import ReferenceBuilder

__all__ = ["DatasetFacts", "RawDataset", "list_cases", "open_dataset"]


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
        layout: Name of a file in `pipeline/io/layouts`, the only one of them that is imported.

    Raises:
        SegtrailError: The layout is unknown, the folder or files are missing, tables or `dataset.json` are
            wrong, or a case_id is illegal or given twice; everything that is wrong at once.
    """
    if layout not in layout_names():
        raise unknown_name("layout", layout, layout_names(), "params.yaml: inspect.layout")
    if not folder.is_dir():
        raise _missing_folder(folder)
    listing: Listing = import_module(f"{LAYOUTS}.{layout}").list_dataset(folder)
    _check_case_ids(listing)
    _check_paths(listing)
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


def _check_paths(listing: Listing) -> None:
    """Refuses names that `cases.csv` cannot hold: it joins images by ";"."""
    for record in listing.records:
        for path in (*record.images, record.label, record.instances):
            shown = path.encode("utf-8", "replace").decode()
            if ";" in path or shown != path:
                why = "has ';' in its name" if shown == path else "has a name that is not UTF-8"
                listing.problem(f"{shown} {why}", f"case {record.case_id}", "rename the file or folder")
