"""The files of one case, read once each: what they hold, what is wrong with them, and what was mended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.cases import CaseRecord, Finding
from pipeline.config import InspectParams
from pipeline.errors import ImageFileError
from pipeline.findings import FileFacts, Fix
from pipeline.io.header_facts import count_bytes, read_header_facts
from pipeline.io.images import StoredImage, read_image_file
from pipeline.io.references import OBJECT, ReferenceBuilder
from pipeline.label_fixes import place_map
from pipeline.objects import ObjectRow
from pipeline.reader_rows import ReaderRow
from pipeline.volume import LabelMap, axis_codes, spacing_mm

REFERENCES = ("label", "instances")
AXES = "axes"  # name of `inspect.fix`
DROPPED = "axis_dropped"  # remark of a reader


@dataclass
class Reading:
    """The files of one case by role, as far as they could be read.

    Attributes:
        images: As stored.
        stored: Label and instance map as stored.
        maps: The same on the grid of the first image, where that is possible without loss.
        objects: Rows of the annotation; None = what the maps show.
        readers: How far its readers agree, where it has several.
        findings: Of single files, and of maps against the image.
        fixes: What was mended.
        digests: sha256 of each file; "" of one that could not be read.
        files: Facts of each.
    """

    images: dict[str, StoredImage] = field(default_factory=dict)
    stored: dict[str, StoredImage] = field(default_factory=dict)
    maps: dict[str, LabelMap] = field(default_factory=dict)
    objects: tuple[ObjectRow, ...] | None = None
    readers: tuple[ReaderRow, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    fixes: list[Fix] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    files: list[FileFacts] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """Of the digests of all files, and of what was mended; "" when one could not be read."""
        if not all(self.digests):
            return ""
        mended = "".join(f"{fix.role}:{fix.fix}:{fix.after}" for fix in self.fixes)
        return hashlib.sha256(("".join(self.digests) + mended).encode()).hexdigest()


def list_roles(record: CaseRecord) -> Iterator[tuple[str, str]]:
    """Role and path of each file of a case: "image", or "image 0" and on, then "label" and "instances"."""
    several = len(record.images) > 1
    yield from ((f"image {i}" if several else "image", name) for i, name in enumerate(record.images))
    yield from ((role, name) for role in REFERENCES if (name := getattr(record, role)))


def read_case(record: CaseRecord, params: InspectParams) -> Reading:
    """Reads each file once: its bytes for the hash of the case, and its voxels."""
    reading = Reading()
    read: dict[str, tuple[StoredImage, str]] = {}  # a grey picture is named once a channel
    for role, name in list_roles(record):
        sha256, path, stored = "", Path(name), None
        try:
            known = name in read
            stored, sha256 = read[name] = read.get(name) or read_image_file(path)
            if not known:
                _take_remarks(reading, role, name, stored, params)
            if role in REFERENCES:
                _take_map(reading, role, path, stored, params)
            else:
                reading.images[role] = stored
        except ImageFileError as problem:
            reading.findings.append(Finding(problem.code, f"{role}: {problem.what}"))
        reading.digests.append(sha256)
        reading.files.append(_facts(role, path, stored))
    return reading


def _take_map(reading: Reading, role: str, path: Path, stored: StoredImage, params: InspectParams) -> None:
    reading.stored[role] = stored
    placed = place_map(stored, path, role, next(iter(reading.images.items()), None), params)
    reading.maps[role] = placed.map
    reading.findings += placed.findings
    reading.fixes += placed.fixes


def _take_remarks(reading: Reading, role: str, name: str, stored: StoredImage, params: InspectParams) -> None:
    """What the reader had to take for granted; what it mended by itself is refused where params say so."""
    for remark in stored.remarks:
        found = replace(remark, reason=f"{role}: {remark.reason}")
        if remark.code == DROPPED and AXES not in params.fix:
            what = f"{found.reason}, and inspect.fix does not name {AXES}"
            found = replace(found, code="shape_invalid", reason=what, fatal=True, fixed=False)
        elif remark.code == DROPPED:
            reading.fixes.append(Fix(role, AXES, "shape", remark.measured, remark.limit, name))
        reading.findings.append(found)


def _facts(role: str, path: Path, stored: StoredImage | None) -> FileFacts:
    if stored is None:
        return FileFacts(role, count_bytes(path), header=read_header_facts(path))
    x, y, z = (float(v) for v in stored.affine[:3, 3])
    return FileFacts(
        role,
        count_bytes(path),
        str(stored.array.dtype),
        stored.array.shape,
        spacing_mm(stored.affine),
        (x, y, z),
        axis_codes(stored.affine),
    )


def derive_references(reading: Reading, build: ReferenceBuilder, params: InspectParams) -> None:
    """Makes the reference that the raw data do not hold as images.

    Its voxels and the rows of its objects count into the case's hash: FROC takes centres, diameters and ignored
    findings from the rows, and not all of them show in the voxels.
    """
    image = next(iter(reading.images.values()))
    references = build(image, params)
    reading.findings += references.findings
    label, instances = references.label, references.instances
    if label is None and instances is not None:
        label = np.where(instances > 0, np.uint8(OBJECT), np.uint8(0))
    maps = {"label": label, "instances": instances}
    reading.maps = {role: LabelMap(array, image.affine) for role, array in maps.items() if array is not None}
    reading.objects, reading.readers = references.objects, references.readers
    for array in (instances, references.label):
        if array is not None:
            reading.digests.append(hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
    if references.objects is not None:
        rows = "\n".join(",".join(map(str, astuple(row))) for row in references.objects)
        reading.digests.append(hashlib.sha256(rows.encode()).hexdigest())
