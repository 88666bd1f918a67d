"""Inspection: every raw voxel is read once, bad cases are set aside with a reason, good ones measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.case_checks import (
    UNKNOWN_VALUE,
    check_channels,
    check_grids,
    check_images,
    check_instances,
    check_labels,
)
from pipeline.cases import QUARANTINED, WARN, CaseRecord, Finding
from pipeline.config import InspectParams
from pipeline.errors import ImageFileError, SegtrailError, collect
from pipeline.fingerprint import Fingerprint, build_fingerprint
from pipeline.instances import describe_objects, find_instances
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import (
    PICTURE_SUFFIXES,
    StoredImage,
    image_suffix,
    read_image_file,
    save_instance_map,
    save_label_map,
    to_label_map,
)
from pipeline.io.references import OBJECT, ReferenceBuilder
from pipeline.objects import ObjectRow
from pipeline.outliers import find_copies, find_position_outliers
from pipeline.volume import LabelMap, Volume, axis_codes, spacing_mm, to_canonical

__all__ = ["Fingerprint", "InspectedCase", "inspect_case", "inspect_set", "require_usable_set"]

REFERENCES = ("label", "instances")


@dataclass(frozen=True)
class InspectedCase:
    """What the inspection of one case found.

    Attributes:
        record: With hash, geometry and verdict.
        fingerprint: None when the case is quarantined.
        objects: Its reference objects; none when the case is quarantined or has no label.
    """

    record: CaseRecord
    fingerprint: Fingerprint | None
    objects: tuple[ObjectRow, ...] = ()


@dataclass
class _Reading:
    """The files of one case by role, as far as they could be read."""

    images: dict[str, StoredImage] = field(default_factory=dict)
    maps: dict[str, LabelMap] = field(default_factory=dict)
    objects: tuple[ObjectRow, ...] | None = None
    findings: list[Finding] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """Of the digests of all files; "" when one could not be read."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest() if all(self.digests) else ""


def inspect_case(
    record: CaseRecord,
    facts: DatasetFacts,
    params: InspectParams,
    build: ReferenceBuilder | None = None,
    folder: Path | None = None,
) -> InspectedCase:
    """Reads a case's files, each once, and checks them.

    Args:
        record: The case as its layout lists it; paths relative to the working directory.
        facts: Of the data set: its channels and labels.
        params: Limits.
        build: What makes the reference of a case whose labels are no images.
        folder: Where such a reference is saved as `<case_id>_labels.nii.gz` and `<case_id>_instances.nii.gz`;
            None saves nothing. Only that of a usable case is saved.
    """
    reading = _read_case(record)
    images = list(reading.images.values())
    if build is not None and len(images) == len(record.images):
        _derive(reading, build, params)
    colours = all(image_suffix(Path(name)) in PICTURE_SUFFIXES for name in record.images)
    findings = [*reading.findings, *check_images(reading.images, colours)]
    if len(images) == len(record.images):
        findings += check_channels(images, facts)
    findings += check_grids(reading.images, reading.maps, params)
    label, instances = (reading.maps.get(role) for role in REFERENCES)
    if label is not None:
        findings += check_labels(label, facts)
    if label is not None and instances is not None and label.array.shape == instances.array.shape:
        findings += check_instances(instances.array, label.array)
    record = replace(record, sha256=reading.sha256)
    if images:
        record = _with_geometry(record, images[0])
    record = _with_findings(record, findings)
    if not record.usable:
        return InspectedCase(record, None)
    if build is not None and folder is not None:
        record = _save_references(record, reading.maps, folder)
    voxels = images[0].array if len(images) == 1 else np.concatenate([image.array for image in images])
    volume = Volume(voxels, images[0].affine)
    ids = None if instances is None else instances.array
    fingerprint = build_fingerprint(record.case_id, volume, label, facts.labels, record.sha256, ids)
    return InspectedCase(record, fingerprint, _list_objects(record, reading, facts))


def inspect_set(results: Sequence[InspectedCase], params: InspectParams) -> list[CaseRecord]:
    """Adds the findings that only the whole set shows.

    A case whose label lies where no other case has it is quarantined (`label_position`); a case with the
    voxels of another one gets a warning (`duplicate_of:<case_id>`).

    Args:
        results: What `inspect_case` returned for every case.
        params: Limits.
    """
    fingerprints = {r.record.case_id: r.fingerprint for r in results if r.fingerprint is not None}
    outliers = find_position_outliers(list(fingerprints.values()), params.position_outlier)
    copies = find_copies([f for case_id, f in fingerprints.items() if case_id not in outliers])
    cases = []
    for record in (result.record for result in results):
        findings = []
        if record.case_id in outliers:
            findings.append(Finding("label_position", outliers[record.case_id]))
        if record.case_id in copies:
            reason = f"the image has the same voxels as {copies[record.case_id]}"
            findings.append(Finding(f"duplicate_of:{copies[record.case_id]}", reason, fatal=False))
        cases.append(_with_findings(record, findings))
    return cases


def require_usable_set(cases: Sequence[CaseRecord], params: InspectParams) -> None:
    """Refuses a set with unknown label values, with too many bad cases, or with none that is good.

    Raises:
        SegtrailError: Lists every case concerned, with its reason.
    """
    bad = [case for case in cases if not case.usable]
    unknown = [case for case in bad if UNKNOWN_VALUE in case.code.split(";")]
    folder = Path("data/raw") / params.dataset
    errors = []
    if unknown:
        what = f"{len(unknown)} label map(s) hold values that dataset.json does not know:\n{_list(unknown)}"
        fix = "add the values to labels in dataset.json, or correct these label maps"
        errors.append(SegtrailError(what, str(folder / "dataset.json"), fix))
    limit = params.max_bad_fraction
    bad = [case for case in bad if case.code != UNKNOWN_VALUE]  # listed already
    if len(bad) > limit * len(cases) or len(bad) == len(cases):
        share = len(bad) / max(len(cases), 1)
        what = (
            f"{len(bad)} of {len(cases)} cases are quarantined ({share:.0%}), limit "
            f"inspect.max_bad_fraction = {limit:g}:\n{_list(bad)}"
        )
        fix = "mend or remove these cases, or raise inspect.max_bad_fraction in params.yaml"
        errors.append(SegtrailError(what, str(folder), fix))
    if errors:
        raise collect(errors)


def _list(cases: Sequence[CaseRecord]) -> str:
    return "\n".join(f"    {case.case_id}: {case.code} ({case.reason})" for case in cases)


def _read_case(record: CaseRecord) -> _Reading:
    """Reads each file once: its bytes for the hash of the case, and its voxels."""
    reading = _Reading()
    several = len(record.images) > 1
    roles = [(f"image {i}" if several else "image", name) for i, name in enumerate(record.images)]
    roles += [(role, name) for role in REFERENCES if (name := getattr(record, role))]
    read: dict[str, tuple[StoredImage, str]] = {}  # a grey picture is named once a channel
    for role, name in roles:
        sha256 = ""
        try:
            stored, sha256 = read[name] = read.get(name) or read_image_file(Path(name))
            if role in REFERENCES:
                reading.maps[role] = to_label_map(stored, Path(name))
            else:
                reading.images[role] = stored
        except ImageFileError as problem:
            reading.findings.append(Finding(problem.code, f"{role}: {problem.what}"))
        reading.digests.append(sha256)
    return reading


def _derive(reading: _Reading, build: ReferenceBuilder, params: InspectParams) -> None:
    """Makes the reference that the raw data do not hold as images.

    Its voxels and the rows of its objects count into the case's hash: FROC takes centres, diameters and ignored
    findings from the rows, and not all of them show in the voxels.
    """
    image = next(iter(reading.images.values()))
    references = build(image, params.agreement)
    reading.findings += references.findings
    if references.instances is None:
        return
    instances = references.instances
    label = np.where(instances > 0, np.uint8(OBJECT), np.uint8(0))
    reading.maps = {"label": LabelMap(label, image.affine), "instances": LabelMap(instances, image.affine)}
    reading.objects = references.objects
    reading.digests.append(hashlib.sha256(np.ascontiguousarray(instances).tobytes()).hexdigest())
    if references.objects is not None:
        rows = "\n".join(",".join(map(str, astuple(row))) for row in references.objects)
        reading.digests.append(hashlib.sha256(rows.encode()).hexdigest())


def _save_references(record: CaseRecord, maps: Mapping[str, LabelMap], folder: Path) -> CaseRecord:
    label, instances = (folder / f"{record.case_id}_{name}.nii.gz" for name in ("labels", "instances"))
    save_label_map(maps["label"], label)
    save_instance_map(maps["instances"], instances)
    return replace(record, label=label.as_posix(), instances=instances.as_posix())


def _list_objects(record: CaseRecord, reading: _Reading, facts: DatasetFacts) -> tuple[ObjectRow, ...]:
    """The rows of the annotation; without one, what the maps show."""
    if reading.objects is not None:
        return reading.objects
    if "label" not in reading.maps:
        return ()
    label = reading.maps["label"]
    ids = reading.maps["instances"].array if "instances" in reading.maps else find_instances(label.array)
    names = {value: name for name, value in facts.labels.items() if value}
    return tuple(
        ObjectRow(record.case_id, o.id, names[o.label], o.diameter_mm, *o.centroid_mm, o.voxels)
        for o in describe_objects(ids, label.array, label.affine)
        if o.label
    )


def _with_geometry(record: CaseRecord, image: StoredImage) -> CaseRecord:
    array, affine = to_canonical(image.array, image.affine)
    return replace(
        record, shape=array.shape[1:], spacing_mm=spacing_mm(affine), orientation=axis_codes(image.affine)
    )


def _with_findings(record: CaseRecord, findings: Sequence[Finding]) -> CaseRecord:
    """Adds findings to a record, before those it has; codes are joined by ";", the verdict is the worst."""
    if not findings:
        return record
    fatal = any(f.fatal for f in findings) or record.verdict == QUARANTINED
    codes = [*dict.fromkeys(f.code for f in findings), *filter(None, [record.code])]
    reasons = [*(f.reason for f in findings), *filter(None, [record.reason])]
    verdict = QUARANTINED if fatal else WARN
    return replace(record, verdict=verdict, code=";".join(codes), reason="; ".join(reasons))
