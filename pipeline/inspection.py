"""Inspection: every raw voxel is read once, bad cases are set aside with a reason, good ones measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.case_checks import (
    UNKNOWN_VALUE,
    check_channels,
    check_images,
    check_instances,
    check_labels,
    check_value_range,
    compare_images,
)
from pipeline.case_reading import REFERENCES, Reading, derive_references, list_roles, read_case
from pipeline.cases import VERDICTS, CaseRecord, Finding
from pipeline.config import InspectParams
from pipeline.errors import SegtrailError, collect
from pipeline.finding_codes import is_drawn
from pipeline.fingerprint import Fingerprint, build_fingerprint
from pipeline.ignored_voxels import find_ignored, hide_ignored
from pipeline.inspected_case import PICTURES, InspectedCase
from pipeline.instances import describe_objects, find_instances
from pipeline.io.dataset import DatasetFacts
from pipeline.io.identifying_text import find_identifying_text
from pipeline.io.images import (
    PICTURE_SUFFIXES,
    StoredImage,
    image_suffix,
    save_instance_map,
    save_label_map,
)
from pipeline.io.references import ReferenceBuilder
from pipeline.objects import ObjectRow
from pipeline.outliers import describe_copies, find_position_outliers, find_value_outliers
from pipeline.volume import LabelMap, Volume, axis_codes, spacing_mm, to_canonical

__all__ = ["Fingerprint", "InspectedCase", "inspect_case", "inspect_set", "require_usable_set"]

RAW = Path("data/raw")


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
        folder: Where such a reference is saved as `<case_id>_labels.nii.gz` and `<case_id>_instances.nii.gz`
            (only that of a usable case), and a picture of a case with findings as `pictures/<case_id>.png`; None
            saves nothing.
    """
    reading = read_case(record, params)
    complete = len(reading.images) == len(record.images)
    if build is not None and complete:
        derive_references(reading, build, params)
    # Voxels that nobody labelled are no background of the objects beside them.
    ignored = find_ignored(reading.maps["label"], facts.ignore) if "label" in reading.maps else None
    maps = hide_ignored(reading.maps, ignored)
    findings = _check(record, reading, maps, facts, params)
    record = replace(
        record, sha256=reading.sha256, fixes=tuple(f"{fix.role}:{fix.fix}" for fix in reading.fixes)
    )
    images = list(reading.images.values())
    if images:
        record = _with_geometry(record, images[0])
    record = with_findings(record, findings)
    if folder is not None and reading.images:
        _draw(record, reading, facts, findings, folder)
    files = tuple(reading.files) if findings else ()
    if not record.usable:
        return InspectedCase(record, None, findings=tuple(findings), fixes=tuple(reading.fixes), files=files)
    if build is not None and folder is not None:
        record = _save_references(record, reading.maps, folder)
    label, instances = (maps.get(role) for role in REFERENCES)
    voxels = images[0].array if len(images) == 1 else np.concatenate([image.array for image in images])
    volume = Volume(voxels, images[0].affine)
    ids = None if instances is None else instances.array
    fingerprint = build_fingerprint(record.case_id, volume, label, facts.labels, record.sha256, ids)
    if ignored is not None:
        fingerprint = fingerprint.model_copy(update={"ignored_fraction": round(float(ignored.mean()), 6)})
    objects = reading.objects if reading.objects is not None else _list_objects(record, maps, facts)
    return InspectedCase(
        record, fingerprint, objects, tuple(findings), tuple(reading.fixes), files, reading.readers
    )


def _check(
    record: CaseRecord,
    reading: Reading,
    maps: Mapping[str, LabelMap],
    facts: DatasetFacts,
    params: InspectParams,
) -> list[Finding]:
    """Everything that one case shows by itself; in `maps` is background what nobody labelled."""
    colours = all(image_suffix(Path(name)) in PICTURE_SUFFIXES for name in record.images)
    findings = [*reading.findings, *check_images(reading.images, colours)]
    if len(reading.images) == len(record.images):
        findings += check_channels(list(reading.images.values()), facts)
        findings += check_value_range(reading.images, facts)
    findings += compare_images(reading.images, params)
    if "label" in reading.maps:
        findings += check_labels(reading.maps["label"], facts)
    label, instances = (maps.get(role) for role in REFERENCES)
    if label is not None and instances is not None and label.array.shape == instances.array.shape:
        findings += check_instances(instances.array, label.array)
    places = find_identifying_text(dict(list_roles(record)), RAW / params.dataset)
    if places:
        what = f"{len(places)} place(s) hold something like a name or a date: {'; '.join(places)}"
        findings.append(Finding("identifying_text", what, fatal=False, measured=str(len(places)), limit="0"))
    return findings


def _draw(
    record: CaseRecord, reading: Reading, facts: DatasetFacts, findings: Sequence[Finding], folder: Path
) -> None:
    """A picture of a case of which a finding can be seen."""
    if not any(is_drawn(finding.code) for finding in findings):
        return
    from pipeline.inspection_pictures import (
        draw_case,  # Matplotlib takes a second: a good set needs no picture
    )

    image = next(iter(reading.images.values()))
    stored = reading.stored.get("label")
    label = reading.maps.get("label") or (
        None if stored is None else LabelMap(stored.array[0], stored.affine)
    )
    path = folder / PICTURES / f"{record.case_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_case(Volume(image.array, image.affine), label, facts.labels, record.case_id, path)


def inspect_set(
    results: Sequence[InspectedCase], params: InspectParams, channels: Sequence[str] = ()
) -> list[InspectedCase]:
    """Adds the findings that only the whole set shows, in front of those of each case.

    A case whose label lies where no other case has it is quarantined (`label_position`); a case with the
    voxels of another one (`duplicate_of:<case_id>`, and `same_patient` when that has another patient_id), or with
    volumes or intensities far from those of all others (`volume_outlier`, `intensity_outlier`), gets a remark.

    Args:
        results: What `inspect_case` returned for every case.
        params: Limits.
        channels: Their names; of one called CT the intensities are compared as HU.
    """
    prints = [r.fingerprint for r in results if r.fingerprint is not None]
    found: dict[str, list[Finding]] = {}
    # Where only some slices are labelled, a label lies where its reader happened to draw.
    misplaced = find_position_outliers([f for f in prints if not f.ignored_fraction], params.position_outlier)
    found |= {case_id: [finding] for case_id, finding in misplaced.items()}
    left = [f for f in prints if f.case_id not in misplaced]
    patients = {r.record.case_id: r.record.patient_id for r in results}
    for case_id, several in (
        *describe_copies(left, patients),
        *find_value_outliers(left, params.value_outlier, channels),
    ):
        found.setdefault(case_id, []).extend(several)
    return [
        replace(
            result,
            record=with_findings(result.record, found.get(result.record.case_id, [])),
            findings=(*found.get(result.record.case_id, []), *result.findings),
        )
        for result in results
    ]


def require_usable_set(cases: Sequence[CaseRecord], params: InspectParams) -> None:
    """Refuses a set with unknown label values, with too many bad cases, or with none that is good.

    Raises:
        SegtrailError: Lists every case concerned, with its reason.
    """
    bad = [case for case in cases if not case.usable]
    unknown = [case for case in bad if UNKNOWN_VALUE in case.code.split(";")]
    folder = RAW / params.dataset
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


def _save_references(record: CaseRecord, maps: Mapping[str, LabelMap], folder: Path) -> CaseRecord:
    for role, save in (("label", save_label_map), ("instances", save_instance_map)):
        if role in maps:
            path = folder / f"{record.case_id}_{'labels' if role == 'label' else role}.nii.gz"
            save(maps[role], path)
            name = path.as_posix()
            record = replace(record, label=name) if role == "label" else replace(record, instances=name)
    return record


def _list_objects(
    record: CaseRecord, maps: Mapping[str, LabelMap], facts: DatasetFacts
) -> tuple[ObjectRow, ...]:
    """The objects that the maps show."""
    if "label" not in maps:
        return ()
    label = maps["label"]
    ids = maps["instances"].array if "instances" in maps else find_instances(label.array)
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


def with_findings(record: CaseRecord, findings: Sequence[Finding]) -> CaseRecord:
    """Adds findings to a record, before those it has; codes are joined by ";", the verdict is the worst."""
    if not findings:
        return record
    codes = [*dict.fromkeys(f.code for f in findings), *filter(None, [record.code])]
    reasons = [*(f.reason for f in findings), *filter(None, [record.reason])]
    verdict = max((record.verdict, *(f.verdict for f in findings)), key=VERDICTS.index)
    return replace(record, verdict=verdict, code=";".join(codes), reason="; ".join(reasons))
