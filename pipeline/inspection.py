"""Inspection: every raw voxel is read once, bad cases are set aside with a reason, good ones measured."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.cases import QUARANTINED, WARN, CaseRecord
from pipeline.config import InspectParams
from pipeline.errors import SegtrailError, collect
from pipeline.fingerprint import Fingerprint, build_fingerprint
from pipeline.grids import Grid, describe_difference
from pipeline.io.nifti import (
    NiftiError,
    StoredImage,
    count_not_finite,
    parse_nifti,
    read_contents,
    to_label_map,
)
from pipeline.io.sources import DatasetFacts
from pipeline.outliers import find_copies, find_position_outliers
from pipeline.volume import LabelMap, Volume, axis_codes, spacing_mm, to_canonical

__all__ = ["Finding", "Fingerprint", "inspect_case", "inspect_set", "require_usable_set"]

UNKNOWN_VALUE = "label_value_unknown"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a case.

    Attributes:
        code: Machine-readable, such as "not_finite".
        reason: For a person, with the measured value and the limit.
        fatal: Whether the case is quarantined for it; otherwise it only warns.
    """

    code: str
    reason: str
    fatal: bool = True


@dataclass
class _Reading:
    """The files of one case by role, as far as they could be read."""

    sha256: str = ""
    images: dict[str, StoredImage] = field(default_factory=dict)
    maps: dict[str, LabelMap] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def inspect_case(
    record: CaseRecord, facts: DatasetFacts, params: InspectParams
) -> tuple[CaseRecord, Fingerprint | None]:
    """Reads a case's files, each once, and checks them.

    Args:
        record: The case as its layout lists it; paths relative to the working directory.
        facts: Of the data set: its channels and labels.
        params: Limits.

    Returns:
        The record with hash, geometry and verdict; and the fingerprint, None when the case is quarantined.
    """
    reading = _read_case(record)
    images = list(reading.images.values())
    findings = [*reading.findings, *_check_images(reading.images)]
    if len(images) == len(record.images):
        findings += _check_channels(images, facts)
    findings += _check_grids(reading, params)
    label = reading.maps.get("label")
    if label is not None:
        findings += _check_labels(label, facts)
    record = replace(record, sha256=reading.sha256)
    if images:
        record = _with_geometry(record, images[0])
    record = _with_findings(record, findings)
    if not record.usable:
        return record, None
    voxels = images[0].array if len(images) == 1 else np.concatenate([image.array for image in images])
    volume = Volume(voxels, images[0].affine)
    return record, build_fingerprint(record.case_id, volume, label, facts.labels, record.sha256)


def inspect_set(
    results: Sequence[tuple[CaseRecord, Fingerprint | None]], params: InspectParams
) -> list[CaseRecord]:
    """Adds the findings that only the whole set shows.

    A case whose label lies where no other case has it is quarantined (`label_position`); a case with the
    voxels of another one gets a warning (`duplicate_of:<case_id>`).

    Args:
        results: What `inspect_case` returned for every case.
        params: Limits.
    """
    fingerprints = {f.case_id: f for _, f in results if f is not None}
    outliers = find_position_outliers(list(fingerprints.values()), params.position_outlier)
    copies = find_copies([f for case_id, f in fingerprints.items() if case_id not in outliers])
    cases = []
    for record, _ in results:
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
    """Reads each file once: its bytes for the hash of the case, then its voxels."""
    reading, digest = _Reading(), hashlib.sha256()
    several = len(record.images) > 1
    roles = [(f"image {i}" if several else "image", name) for i, name in enumerate(record.images)]
    roles += [(role, name) for role in ("label", "instances") if (name := getattr(record, role))]
    for role, name in roles:
        path = Path(name)
        try:
            contents = read_contents(path)
            digest.update(contents)
            stored = parse_nifti(contents, path)
            if role in ("label", "instances"):
                reading.maps[role] = to_label_map(stored, path)
            else:
                reading.images[role] = stored
        except NiftiError as problem:
            reading.findings.append(Finding(problem.code, f"{role}: {problem.what}"))
    reading.sha256 = digest.hexdigest()
    return reading


def _check_images(images: Mapping[str, StoredImage]) -> list[Finding]:
    findings = []
    for role, image in images.items():
        bad = count_not_finite(image.array)
        if bad:
            what = f"{role}: {bad} of {image.array.size} voxels are NaN or Inf, limit 0"
            findings.append(Finding("not_finite", what))
            continue
        for index, channel in enumerate(image.array):
            if channel.min() == channel.max():
                at = f"{role}, channel {index}" if len(image.array) > 1 else role
                what = f"{at}: all voxels are {channel.flat[0]:g}, expected at least two values"
                findings.append(Finding("constant_image", what))
    return findings


def _check_channels(images: Sequence[StoredImage], facts: DatasetFacts) -> list[Finding]:
    count = sum(len(image.array) for image in images)
    if count == len(facts.channels):
        return []
    names = ", ".join(facts.channels)
    what = f"the image has {count} channel(s), dataset.json names {len(facts.channels)} ({names})"
    return [Finding("channel_count", what)]


def _check_grids(reading: _Reading, params: InspectParams) -> list[Finding]:
    """Compares every file with the first image, and the two forms of the first image's header."""
    grids = [(role, Grid(image.array.shape[1:], image.affine)) for role, image in reading.images.items()]
    if not grids:
        return []
    first_role, first = grids[0]
    grids += [(role, Grid(m.array.shape, m.affine)) for role, m in reading.maps.items()]
    limit = params.affine_tolerance_mm
    findings = []
    for role, grid in grids[1:]:
        difference = describe_difference(first, grid, limit)
        if difference:
            what = f"{role} against {first_role}: {difference}, limit inspect.affine_tolerance_mm = {limit:g}"
            findings.append(Finding("geometry_mismatch", what))
    conflict = reading.images[first_role].form_conflict_mm
    if conflict > limit:
        what = f"{first_role}: sform and qform differ by {conflict:.3g} mm, the sform is used"
        findings.append(Finding("form_conflict", what, fatal=False))
    return findings


def _check_labels(label: LabelMap, facts: DatasetFacts) -> list[Finding]:
    counts: Counter[int] = Counter()
    for plane in np.moveaxis(label.array, -1, 0):  # sorting small planes beats sorting the volume
        values, voxels = np.unique(plane, return_counts=True)
        counts.update(dict(zip(values.tolist(), voxels.tolist(), strict=True)))
    known = set(facts.labels.values())
    unknown = [f"{value} ({count} voxels)" for value, count in sorted(counts.items()) if value not in known]
    if unknown:
        legal = ", ".join(map(str, sorted(known)))
        return [Finding(UNKNOWN_VALUE, f"label: value {', '.join(unknown)}; known are {legal}")]
    if set(counts) == {0}:
        return [Finding("empty_label", "label: no voxel is foreground", fatal=False)]
    return []


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
