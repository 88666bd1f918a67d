"""`segtrail data accept`: corrected drafts become labels of the data set, a new version under DVC, or nothing does."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from flows.data import dvc_add, require_version
from flows.overlay import clear_place, link_tree
from flows.provenance import user_name
from flows.staging import build_tree, recover, restored_on_failure, swap_in
from pipeline.annotations import ANNOTATIONS, AnnotationRow, format_annotations, load_annotations
from pipeline.cases import CaseRecord
from pipeline.config import InspectParams, load_params
from pipeline.drafts import (
    Correction,
    Draft,
    check_correction,
    hash_bytes,
    hash_images,
    is_changed,
    load_drafts,
)
from pipeline.errors import SegtrailError, collect
from pipeline.io.images import load_label_map, prediction_suffix, save_label_map
from pipeline.io.label_places import NewLabel, Places, place_labels, require_layout
from pipeline.io.sources import RawDataset, open_dataset

LOGGER = logging.getLogger("segtrail")


@dataclass(frozen=True)
class _Accepted:
    """One label on its way into the data set.

    Attributes:
        correction: What came back.
        place: Of its file, relative to the data set.
        images: Of a new case: place and file of each image.
    """

    correction: Correction
    place: str
    images: Mapping[str, Path]


def accept_drafts(
    folder: Path, accepted_by: str = "", unchanged: bool = False, project: Path = Path()
) -> int:
    """Puts the corrected label maps of a folder into the data set; all of them, or none.

    Args:
        folder: Of the drafts.
        accepted_by: Person, for the record; "" = the user of this process.
        unchanged: Take drafts that nobody changed too, as somebody has looked at them.
        project: Top folder of the project.

    Returns:
        Number of labels that are new.

    Raises:
        SegtrailError: A draft is damaged, lies on another grid, has unknown values, is of another image or data set;
            the layout has no place for it; the data set is not under DVC; DVC refuses. Nothing has changed then.
    """
    params = load_params(project / "params.yaml").inspect
    require_layout(params.layout)
    target = project / "data" / "raw" / params.dataset
    recover(target)
    require_version(target, project)
    dataset = open_dataset(target, params.layout)
    drafts, errors = load_drafts(folder)
    if not drafts and not errors:
        raise SegtrailError("no draft in this folder", str(folder), f"segtrail data draft -o {folder}")
    left = [draft.case_id for draft in drafts if not unchanged and not is_changed(draft, folder)]
    wanted = [draft for draft in drafts if draft.case_id not in left]
    corrections = _check_all(wanted, folder, target, dataset, params, errors)
    places = _find_places(wanted, target, dataset, params)
    accepted = [_Accepted(one, *_place_of(one.draft, places, folder)) for one in corrections]
    if left:
        LOGGER.info(
            "%d draft(s) that nobody changed are left out (--unchanged): %s", len(left), ", ".join(left)
        )
    new = [one for one in accepted if not _is_there(one, target)]
    if new:
        _tell_replaced(new, target)
        _bring(new, places.texts, target, accepted_by, project)
    for one in new:
        told = one.correction
        LOGGER.info(
            "accepted %s: %d voxels changed, Dice %.3f with its draft",
            one.place,
            told.changed_voxels,
            told.dice,
        )
    LOGGER.info("%d label(s) accepted, %d there already", len(new), len(accepted) - len(new))
    if new:
        LOGGER.info("commit data/raw/%s.dvc to share them; next: make repro", target.name)
    return len(new)


def _check_all(
    drafts: Sequence[Draft],
    folder: Path,
    target: Path,
    dataset: RawDataset,
    params: InspectParams,
    errors: list[SegtrailError],
) -> list[Correction]:
    """Checks every draft; what is wrong with any is told together.

    Args:
        errors: What is known to be wrong already.
    """
    records = {record.case_id: record for record in dataset.records}
    corrections = []
    for draft in drafts:
        try:
            corrections.append(_check(draft, records.get(draft.case_id), folder, target, dataset, params))
        except SegtrailError as error:
            errors.append(error)
    if errors:
        raise collect(errors)
    return corrections


def _place_of(draft: Draft, places: Places, folder: Path) -> tuple[str, dict[str, Path]]:
    """Place of a label, and of each image of a new case with the file that goes there."""
    images = places.images.get(draft.case_id)
    files = [folder / name for name in draft.images]
    return places.labels[draft.case_id], dict(zip(images, files, strict=True)) if images else {}


def _check(
    draft: Draft,
    record: CaseRecord | None,
    folder: Path,
    target: Path,
    dataset: RawDataset,
    params: InspectParams,
) -> Correction:
    if draft.dataset != target.name:
        what = f"the draft was made for the data set {draft.dataset}, params.yaml has {target.name}"
        raise SegtrailError(what, f"case {draft.case_id}", "set inspect.dataset, or take the draft out")
    images = [folder / name for name in draft.images] if record is None else [Path(p) for p in record.images]
    sha256, image = hash_images(images)
    if sha256 != draft.image_sha256:
        what = "the image is not the one that was drafted: its sha256 differs"
        raise SegtrailError(what, f"case {draft.case_id}, {images[0]}", "draft the case again")
    return check_correction(draft, folder, image, dataset.facts, params.affine_tolerance_mm)


def _find_places(drafts: Sequence[Draft], target: Path, dataset: RawDataset, params: InspectParams) -> Places:
    records = {record.case_id: record for record in dataset.records}
    labels = [
        NewLabel(
            case_id=draft.case_id,
            record=records.get(draft.case_id),
            images=draft.images,
            suffix=prediction_suffix([Path(draft.images[0])]),
            several_readers=draft.case_id in dataset.references,
        )
        for draft in drafts
    ]
    return place_labels(params.layout, target, labels)


def _is_there(one: _Accepted, target: Path) -> bool:
    """Whether the data set holds this very label, accepted before."""
    path = target / one.place
    if not path.is_file():
        return False
    rows = load_annotations(target / ANNOTATIONS)
    known = any(
        row.case_id == one.correction.draft.case_id and row.label_sha256 == hash_bytes(path) for row in rows
    )
    return known and np.array_equal(load_label_map(path).array, one.correction.label_map.array)


def _tell_replaced(accepted: Sequence[_Accepted], target: Path) -> None:
    """Warns of labels that were accepted while these were drafts, maybe of somebody else: they are replaced."""
    rows = load_annotations(target / ANNOTATIONS)
    for draft in (one.correction.draft for one in accepted):
        since = [row for row in rows if row.case_id == draft.case_id and row.accepted_at >= draft.drafted_at]
        if since:
            last = since[-1]
            LOGGER.warning(
                "%s: replaces the label that %s gave at %s, after this draft was made; git and dvc checkout of "
                "data/raw/%s.dvc bring that one back", draft.case_id, last.accepted_by, last.accepted_at, target.name
            )  # fmt: skip


def _bring(
    accepted: Sequence[_Accepted], texts: Mapping[str, str], target: Path, accepted_by: str, project: Path
) -> None:
    """Builds the new tree beside the old one, then changes data and DVC record together."""
    whole = project / ".segtrail" / "accept" / target.name
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(whole, ignore_errors=True)
    try:
        link_tree(target, whole)
        for one in accepted:
            for place, source in one.images.items():
                clear_place(whole / place).write_bytes(source.read_bytes())
            save_label_map(one.correction.label_map, clear_place(whole / one.place))
        for name, text in texts.items():
            clear_place(whole / name).write_text(text, encoding="utf-8")
        rows = [*load_annotations(target / ANNOTATIONS), *_rows(accepted, whole, target, accepted_by)]
        clear_place(whole / ANNOTATIONS).write_text(format_annotations(rows), encoding="utf-8")
        open_dataset(whole, load_params(project / "params.yaml").inspect.layout)  # must still be one
        change = build_tree(whole, target, staging)
        with restored_on_failure(target, project / "params.yaml"):
            swap_in(staging, target)
            dvc_add(target, project)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(whole, ignore_errors=True)
    LOGGER.info("data/raw/%s: %s", target.name, change)


def _rows(accepted: Sequence[_Accepted], whole: Path, target: Path, accepted_by: str) -> list[AnnotationRow]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = []
    for one in accepted:
        draft, before = one.correction.draft, target / one.place
        rows.append(
            AnnotationRow(
                case_id=draft.case_id,
                label=one.place,
                label_sha256=hash_bytes(whole / one.place),
                previous_sha256=hash_bytes(before) if before.is_file() else "",
                model=draft.model,
                version=draft.version,
                bundle_sha256=draft.bundle_sha256,
                draft_sha256=draft.draft_sha256,
                changed_voxels=str(one.correction.changed_voxels),
                dice="" if one.correction.dice != one.correction.dice else f"{one.correction.dice:.6f}",
                accepted_by=accepted_by or user_name(),
                accepted_at=now,
            )
        )
    return rows
