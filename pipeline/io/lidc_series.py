"""Which DICOM series and which XML files a LIDC-IDRI folder holds, and which belong together."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ImageFileError
from pipeline.io.dataset import Listing
from pipeline.io.lidc_xml import load_reading

LOGGER = logging.getLogger("segtrail")
PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
TAGS = ["Modality", "PatientID", "SeriesInstanceUID"]


@dataclass(frozen=True)
class Series:
    """One CT series.

    Attributes:
        folder: Of its `.dcm` files, relative to the project.
        patient_id: LIDC-IDRI-nnnn.
        uid: Series Instance UID; the folder's name when no header can be read.
    """

    folder: Path
    patient_id: str
    uid: str


def find_series(folder: Path) -> list[Series]:
    """Finds the folders with `.dcm` files, in order; the first header of each that can be read is taken, and
    other modalities than CT (the collection holds X-rays) are left out.
    """
    found, others = [], 0
    for path, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = sorted(name for name in names if name.endswith(".dcm") and not name.startswith("."))
        if not files:
            continue
        here = Path(path)
        header = next((h for name in files if (h := _read_header(here / name)) is not None), {})
        if header.get("Modality", "CT") != "CT":
            others += 1
            continue
        named = [part for part in here.parts if PATIENT.fullmatch(part)]
        patient_id = named[-1] if named else header.get("PatientID") or here.name
        found.append(Series(here, patient_id, header.get("SeriesInstanceUID") or here.name))
    if others:
        LOGGER.info("%d series are no CT and are left out", others)
    return found


def find_readings(folder: Path, series: Sequence[Series], listing: Listing) -> dict[str, Path]:
    """Finds the XML file of each series, by Series Instance UID.

    A malformed file belongs to the series in whose folder it lies, and is told when its case is inspected.
    One without a series, and two for one series, are problems.
    """
    uids = {item.uid for item in series}
    by_folder = {item.folder: item.uid for item in series}
    readings: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*.xml")):
        if path.name.startswith("."):
            continue
        try:
            reading = load_reading(path)
            uid = "" if reading is None else reading.series_uid
        except ImageFileError as problem:
            uid = by_folder.get(path.parent, "")
            if not uid:
                listing.problem(problem.what, path, problem.fix)
        if uid and uid not in uids:
            what = f"the XML's series {uid} is not in the data set"
            listing.problem(what, path, "add the DICOM files of the series, or take the XML file out")
        elif uid:
            readings[uid].append(path)
    for uid, paths in readings.items():
        if len(paths) > 1:
            names = ", ".join(map(str, paths))
            listing.problem(f"{len(paths)} XML files name the series {uid}", names, "keep one of them")
    return {uid: paths[0] for uid, paths in readings.items()}


def _read_header(path: Path) -> dict[str, str] | None:
    """The few tags that matter here; None when the file is no DICOM or damaged, which its case will tell."""
    import pydicom

    from pipeline.io.dicom_slices import DAMAGED

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        return {name: str(header[name].value or "") for name in TAGS if name in header}
    except DAMAGED:
        return None
