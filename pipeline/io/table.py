"""Layout `table`: dataset.json, and cases.csv with one row a case."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.io.dataset import Listing, parse_facts, read_json, read_table

NUMBERED = re.compile(r"image_(\d+)")


def list_table(folder: Path) -> Listing:
    """Lists the cases of a folder with a `cases.csv`.

    Columns: case_id, patient_id, then `image` (one file, or the folder of a DICOM series), or `image_0`,
    `image_1`... (one a channel), or `images` (joined by ";"), then label; optional: site, instances. Paths are
    relative to the folder; an empty label means that the case has none.

    Raises:
        SegtrailError: There is no readable `dataset.json`.
    """
    listing = Listing(folder)
    path = folder / "dataset.json"
    listing.facts = parse_facts(read_json(path), path, listing)
    table = folder / "cases.csv"
    rows = read_table(table, ("case_id", "patient_id", "label"), listing)
    columns = _image_columns(rows[0]) if rows else []
    if rows and not columns:
        listing.problem("no column names the images", table, "add image, or image_0, image_1..., or images")
        return listing
    for number, row in enumerate(rows, 2):
        for name in ("case_id", "patient_id"):
            if not row[name]:
                listing.problem(f"{name} is empty", f"{table}, row {number}", "give every row one")
        listing.records.append(_record(row, columns, listing))
    return listing


def _image_columns(row: dict[str, str]) -> list[str]:
    """Names of the columns with images, in the order of the channels."""
    numbered = [name for name in row if NUMBERED.fullmatch(name)]
    if numbered:
        return sorted(numbered, key=lambda name: int(name.removeprefix("image_")))
    return [name for name in row if name in ("image", "images")][:1]


def _record(row: dict[str, str], columns: list[str], listing: Listing) -> CaseRecord:
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
    instances = row.get("instances", "")
    return CaseRecord(
        case_id=case_id,
        patient_id=row["patient_id"],
        site=row.get("site", ""),
        images=tuple(path for path in images if path),
        label=listing.require(row["label"], "label", case_id) if row["label"] else "",
        instances=listing.require(instances, "instance map", case_id) if instances else "",
    )
