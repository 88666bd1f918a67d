"""Layout `table`: dataset.json, and cases.csv with one row a case."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.io.dataset import Listing, parse_facts, read_json, read_table
from pipeline.io.readers import build_consensus


def list_dataset(folder: Path) -> Listing:
    """Lists the cases of a folder with a `cases.csv`.

    Columns: case_id, patient_id, then `image` (one file, or the folder of a DICOM series), or `image_0`,
    `image_1`... (one a channel), or `images` (joined by ";"), then `label`, or `label_1`, `label_2`... (one a
    reader), or `labels` (joined by ";"); optional: site, instances. Paths are relative to the folder; an empty
    label means that the case has none, or was not seen by this reader.

    Raises:
        SegtrailError: There is no readable `dataset.json`.
    """
    listing = Listing(folder)
    path = folder / "dataset.json"
    listing.facts = parse_facts(read_json(path), path, listing)
    table = folder / "cases.csv"
    rows = read_table(table, ("case_id", "patient_id"), listing)
    if not rows:
        return listing
    columns = _file_columns(rows[0], "image")
    readers = _file_columns(rows[0], "label")
    for found, kind, first in ((columns, "image", 0), (readers, "label", 1)):
        if not found:
            fix = f"add {kind}, or {kind}_{first}, {kind}_{first + 1}..., or {kind}s"
            listing.problem(f"no column names the {kind}s", table, fix)
    if not (columns and readers):
        return listing
    for number, row in enumerate(rows, 2):
        for name in ("case_id", "patient_id"):
            if not row[name]:
                listing.problem(f"{name} is empty", f"{table}, row {number}", "give every row one")
        listing.records.append(_record(row, columns, readers, listing))
    return listing


def _file_columns(row: dict[str, str], kind: str) -> list[str]:
    """Names of the columns with images, in the order of the channels; or with labels, in that of the readers."""
    numbered = [name for name in row if re.fullmatch(rf"{kind}_\d+", name)]
    if numbered:
        return sorted(numbered, key=lambda name: int(name.removeprefix(f"{kind}_")))
    return [name for name in row if name in (kind, f"{kind}s")][:1]


def _record(row: dict[str, str], columns: list[str], readers: list[str], listing: Listing) -> CaseRecord:
    from pipeline.io.dicom_slices import is_dicom_series  # imports pydicom

    case_id = row["case_id"]
    if columns == ["images"]:
        texts = [text.strip() for text in row["images"].split(";")]
    else:
        texts = [row[name] for name in columns]
    images = []
    for index, text in enumerate(texts):
        if not text:
            listing.problem(
                f"the image of channel {index} is empty", f"case {case_id}, cases.csv", "name a file"
            )
            continue
        images.append(listing.require(text, f"image of channel {index}", case_id, is_dicom_series))
    label = _label(row, readers, listing)
    instances = row.get("instances", "")
    if instances and case_id in listing.references:
        what = "one instance map beside the labels of several readers"
        listing.problem(what, f"case {case_id}, cases.csv", "leave instances empty, or name one label")
    return CaseRecord(
        case_id=case_id,
        patient_id=row["patient_id"],
        site=row.get("site", ""),
        images=tuple(path for path in images if path),
        label=label,
        instances=listing.require(instances, "instance map", case_id) if instances else "",
    )


def _label(row: dict[str, str], columns: list[str], listing: Listing) -> str:
    """The label map of a case; "" where it has none, or several, whose consensus `listing` then knows how to build."""
    texts = row["labels"].split(";") if columns == ["labels"] else [row[name] for name in columns]
    texts = [text for text in map(str.strip, texts) if text]
    found = [path for text in texts if (path := listing.require(text, "label", row["case_id"]))]
    if len(found) > 1 and listing.facts is not None:
        paths = tuple(map(Path, found))
        listing.references[row["case_id"]] = partial(build_consensus, row["case_id"], paths, listing.facts)
        return ""
    return found[0] if found else ""
