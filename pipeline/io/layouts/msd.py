"""Layout `msd` (Medical Segmentation Decathlon, and nnU-Net's): dataset.json, imagesTr, labelsTr.

Source: Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13:4128 (2022).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cases import CaseRecord
from pipeline.io.dataset import Listing, image_stem, parse_facts, read_json, read_patients

LOGGER = logging.getLogger("segtrail")
SUFFIXES = (".nii.gz", ".nii")
CHANNEL = re.compile(r"(.+)_\d{4}")


@dataclass(frozen=True)
class _Entry:
    """One line of the training list; paths relative to the data set."""

    case_id: str
    image: str
    label: str
    patient_id: str
    site: str


def list_dataset(folder: Path) -> Listing:
    """Lists the cases of a folder in MSD layout.

    Cases come from the training list of `dataset.json`, or from the files of imagesTr when there is no list.
    A case is one file (4D when there are several channels) or `<case>_0000`, `<case>_0001`... A patient is a
    case, unless `patients.csv` (case_id, patient_id, optionally site) or the list says otherwise. Instance
    maps lie in instancesTr under the name of the case.

    Raises:
        SegtrailError: There is no readable `dataset.json`.
    """
    listing = Listing(folder)
    raw = read_json(folder / "dataset.json")
    listing.facts = parse_facts(raw, folder / "dataset.json", listing)
    channels = len(listing.facts.channels) if listing.facts else 1
    training = raw.get("training")
    entries = _listed(training, listing) if training else _found(listing)
    patients = _patients(raw, entries, listing)
    for entry in entries:
        patient_id, site = patients.get(entry.case_id, (entry.patient_id, entry.site))
        listing.records.append(
            CaseRecord(
                case_id=entry.case_id,
                patient_id=patient_id,
                site=site,
                images=_images(entry, channels, listing),
                label=listing.require(entry.label, "label", entry.case_id),
                instances=_instances(entry.case_id, folder),
            )
        )
    return listing


def _listed(training: Any, listing: Listing) -> list[_Entry]:
    """Cases of the training list: objects with image and label, or just names of images."""
    if not isinstance(training, list):
        what = f"training is {type(training).__name__}, expected a list"
        listing.problem(what, listing.folder / "dataset.json", "write a list of {image, label}")
        return []
    entries = []
    for number, item in enumerate(training, 1):
        fields: Mapping[str, Any] = item if isinstance(item, dict) else {"image": item}
        image = fields.get("image")
        if not isinstance(image, str) or not image:
            what = f"entry {number} of training is {item!r}, expected an image's name"
            listing.problem(what, listing.folder / "dataset.json", 'write {"image": "...", "label": "..."}')
            continue
        if Path(image).name.startswith("."):
            continue  # macOS leaves ._ files in archives and in lists made from them
        label = str(fields.get("label") or _label_beside(image, listing.folder))
        case_id = str(fields.get("case_id") or _case_of(image, image_stem(label)))
        patient_id = str(fields.get("patient_id") or case_id)
        entries.append(_Entry(case_id, image, label, patient_id, str(fields.get("site") or "")))
    listed = {image_stem(entry.image).removesuffix("_0000") for entry in entries}
    listed.update(image_stem(entry.image) for entry in entries)
    stems = [image_stem(path.name) for path in _files(listing.folder / "imagesTr")]
    left_out = [stem for stem in stems if stem not in listed and CHANNEL.sub(r"\1", stem) not in listed]
    if left_out:
        LOGGER.info("%d images are not in the list of dataset.json and are left out", len(left_out))
    return entries


def _found(listing: Listing) -> list[_Entry]:
    """Cases of imagesTr and labelsTr, paired by name."""
    images = listing.folder / "imagesTr"
    if not images.is_dir():
        listing.problem("the folder of images is missing", images, "put the training images there")
    labels = {image_stem(path.name): path.name for path in _files(listing.folder / "labelsTr")}
    entries: dict[str, _Entry] = {}
    for path in _files(images):
        stem = image_stem(path.name)
        channel = CHANNEL.fullmatch(stem)
        numbered = bool(channel and stem not in labels and channel[1] in labels)
        case_id = channel[1] if channel and numbered else stem
        image = f"{case_id}_0000{_suffix(path.name)}" if numbered else path.name
        label = labels.get(case_id, f"{case_id}{_suffix(path.name)}")
        entries[case_id] = _Entry(case_id, f"imagesTr/{image}", f"labelsTr/{label}", case_id, "")
    for case_id in sorted(labels.keys() - entries.keys()):
        label_path = listing.folder / "labelsTr" / labels[case_id]
        listing.problem("the label has no image", f"case {case_id}, {label_path}", "add or drop it")
    return list(entries.values())


def _images(entry: _Entry, channels: int, listing: Listing) -> tuple[str, ...]:
    """Files of a case: one, or one a channel when they are numbered."""
    folder, stem, suffix = Path(entry.image).parent, image_stem(entry.image), _suffix(entry.image)
    numbered = (folder / stem.removesuffix("_0000")).as_posix()
    named_like_its_case = stem == entry.case_id or not stem.endswith("_0000")
    whole = named_like_its_case and listing.find(entry.image).is_file()
    if whole or not listing.find(f"{numbered}_0000{suffix}").is_file():
        path = listing.require(entry.image, "image", entry.case_id)
        return (path,) if path else ()
    texts = [f"{numbered}_{index:04d}{suffix}" for index in range(channels)]
    found = [listing.require(text, f"image of channel {i}", entry.case_id) for i, text in enumerate(texts)]
    return tuple(path for path in found if path)


def _patients(raw: Mapping[str, Any], entries: list[_Entry], listing: Listing) -> dict[str, tuple[str, str]]:
    """Patient and site by case from `patients.csv`, or from "patients" of dataset.json."""
    path = listing.folder / "patients.csv"
    if not path.exists():
        named = raw.get("patients")
        sites = {entry.case_id: entry.site for entry in entries}
        if isinstance(named, dict):
            return {str(k): (str(v), sites.get(str(k), "")) for k, v in named.items()}
        return {}
    return read_patients(path, {entry.case_id for entry in entries}, listing)


def _instances(case_id: str, folder: Path) -> str:
    candidates = (folder / "instancesTr" / f"{case_id}{suffix}" for suffix in SUFFIXES)
    return next((path.as_posix() for path in candidates if path.is_file()), "")


def _files(folder: Path) -> list[Path]:
    """NIfTI files of a folder, hidden ones (macOS leaves `._name`) left out; none when it is missing."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))


def _label_beside(image: str, folder: Path) -> str:
    """Label of an image that is listed without one: the same name, or that without the channel."""
    name = Path(image).name
    if (folder / "labelsTr" / name).is_file():
        return f"labelsTr/{name}"
    return f"labelsTr/{image_stem(name).removesuffix('_0000')}{_suffix(name)}"


def _case_of(image: str, label_stem: str) -> str:
    """Case of a listed image: `_0000` at its end is a channel, unless the label is called so too."""
    stem = image_stem(image)
    return stem if stem == label_stem else stem.removesuffix("_0000")


def _suffix(name: str) -> str:
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), SUFFIXES[0])
