"""Layout `dicom`: a folder tree as a hospital hands it over, labelled by DICOM-SEG and RTSTRUCT objects."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.io.dataset import DatasetFacts, Listing, parse_facts, read_json
from pipeline.io.dicom_labels import build_references
from pipeline.io.dicom_tree import DicomTree, ImageSeries, LabelObject, scan_tree
from pipeline.io.references import shorten

LOGGER = logging.getLogger("segtrail")
FACTS = "dataset.json"
CHANNEL = {"CT": "CT", "MR": "MRI", "PT": "PET"}  # name of the channel of a modality
MODALITY = {"CT": "CT", "PT": "PT", "PET": "PT"}  # first word of a channel's name; every other one is MR
TAIL = 6  # digits of the series' UID in a case_id
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def list_dataset(folder: Path) -> Listing:
    """Lists the series of CT, MR or PET images below a folder; each is a case of one channel.

    A series is what has one SeriesInstanceUID, wherever its files lie. Segmentations and structure sets label
    the series that they name; where that one is not here, the only series in their frame of reference. Classes
    are those of `dataset.json`; without one, the names of all segments and structures in alphabetical order.
    """
    listing = Listing(folder)
    tree = scan_tree(folder)
    _say_left_out(tree)
    listing.facts = _read_facts(folder, tree, listing)
    if listing.facts is None:
        return listing
    series = [item for item in tree.series if item.modality == _modality(listing.facts)]
    if len(series) < len(tree.series):
        LOGGER.info(
            "%d series of another modality than %s are left out",
            len(tree.series) - len(series),
            listing.facts.channels[0],
        )
    labels = _assign(tree.objects, tree.series)
    for item, case_id in zip(series, _name_cases(series), strict=True):
        patient = item.patient_id or f"unknown-{_tail(item.study_uid)}"
        images = (item.path.as_posix(),)
        listing.records.append(CaseRecord(case_id, patient, "", images, label="", instances=""))
        if objects := labels.get(item.uid):
            values = dict(listing.facts.labels)
            listing.references[case_id] = partial(build_references, item.path, objects, values)
    return listing


def _say_left_out(tree: DicomTree) -> None:
    for modality, count in sorted(tree.others.items()):
        LOGGER.info("%d DICOM files of modality %s are left out", count, modality)
    if tree.damaged:
        names = shorten([str(path) for path in tree.damaged])
        LOGGER.warning("%d DICOM files cannot be read and are left out: %s", len(tree.damaged), names)


def _read_facts(folder: Path, tree: DicomTree, listing: Listing) -> DatasetFacts | None:
    """Facts of `dataset.json`, else of what is there."""
    path = folder / FACTS
    if path.exists():
        facts = parse_facts(read_json(path), path, listing)
        if facts is not None and len(facts.channels) != 1:
            what = (
                f"channels are {', '.join(facts.channels)}, expected one: a series is a case of one channel"
            )
            listing.problem(what, path, "name one modality; for several channels use the layout table")
            return None
        return facts
    counts = Counter(item.modality for item in tree.series)
    if len(counts) != 1:
        found = ", ".join(f"{count} of {name}" for name, count in sorted(counts.items())) or "none"
        what = f"series of one of the modalities CT, MR and PT are expected, found {found}"
        fix = 'write a dataset.json with "modality": {"0": "CT"} and "labels"'
        listing.problem(what, folder, fix)
        return None
    names = sorted({name for item in tree.objects for name in item.names})
    return DatasetFacts(
        folder.name,
        (CHANNEL[next(iter(counts))],),
        {"background": 0, **{name: value for value, name in enumerate(names, 1)}},
        "DICOM series; the classes are the names of their segments and structures.",
    )


def _modality(facts: DatasetFacts) -> str:
    word = re.split(r"[^A-Z]", facts.channels[0].upper())[0]
    return MODALITY.get(word, "MR")


def _assign(
    objects: Sequence[LabelObject], series: Sequence[ImageSeries]
) -> dict[str, tuple[LabelObject, ...]]:
    """Objects by the UID of the series that they label."""
    known = {item.uid for item in series}
    by_frame: dict[str, list[str]] = {}
    for item in series:
        by_frame.setdefault(item.frame_uid, []).append(item.uid)
    found: dict[str, tuple[LabelObject, ...]] = {}
    for label in objects:
        uids = label.series_uids & known
        if not uids:
            near = [uid for frame in label.frame_uids for uid in by_frame.get(frame, [])]
            uids = frozenset(near) if len(set(near)) == 1 else frozenset()
        if not uids:
            LOGGER.warning("%s labels no series that is here, and is left out", label.path)
        for uid in uids:
            found[uid] = (*found.get(uid, ()), label)
    return found


def _name_cases(series: Sequence[ImageSeries]) -> list[str]:
    """`<patient>_<last digits of the UID>`; where that is not unique, digits of the UID's hash."""
    stems = [NOT_IN_NAMES.sub("-", item.patient_id).strip("-._") or "unknown" for item in series]
    names = [f"{stem}_{_tail(item.uid)}" for stem, item in zip(stems, series, strict=True)]
    counts = Counter(names)
    hashes = [hashlib.sha256(item.uid.encode()).hexdigest()[:12] for item in series]
    return [
        name if counts[name] == 1 else f"{stem}_{digest}"
        for name, stem, digest in zip(names, stems, hashes, strict=True)
    ]


def _tail(uid: str) -> str:
    return uid.replace(".", "")[-TAIL:] or "0"
