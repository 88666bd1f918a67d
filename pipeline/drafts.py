"""Drafts: label maps that a model made for a person to correct, and what becomes of them."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.case_checks import UNKNOWN_VALUE, check_labels
from pipeline.errors import ImageFileError, SegtrailError
from pipeline.grids import Grid, describe_difference
from pipeline.io.dataset import DatasetFacts
from pipeline.io.header_text import blank_header_text
from pipeline.io.image_names import NIFTI_SUFFIXES, PICTURE_SUFFIXES, image_suffix
from pipeline.io.images import StoredImage, read_image_file, to_label_map
from pipeline.io.nifti import save_volume
from pipeline.metrics import count_voxels, dice
from pipeline.volume import LabelMap, Volume

RECORD = "_draft.json"  # ends the name of a draft's record
ORIGINALS = "originals"  # folder of the label maps as the model made them
COPIED = (*NIFTI_SUFFIXES, *PICTURE_SUFFIXES)
AGAIN = "segtrail data draft makes it again"


class Draft(BaseModel):
    """What is known of one draft; stands beside its image and its label map as `<case_id>_draft.json`.

    Attributes:
        case_id: Name of the case.
        dataset: Folder below `data/raw` for which it was made.
        images: Names of the images' copies in the folder of the draft, in the order of the channels.
        image_sha256: Of the bytes of the data set's images; of a new case, of the copies.
        label: Name of the label map that a person corrects; as it was made it lies in `originals`.
        draft_sha256: Of the label map as it was made.
        labels: Value of each class, by name.
        model, version: Registered name and version; of a bare bundle its folder, and "".
        bundle_sha256: Of the bundle's weights.
        drafted_at: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    case_id: str
    dataset: str
    images: tuple[str, ...]
    image_sha256: str
    label: str
    draft_sha256: str
    labels: dict[str, int]
    model: str
    version: str
    bundle_sha256: str
    drafted_at: str


@dataclass(frozen=True)
class Correction:
    """A draft that came back.

    Attributes:
        draft: What was given out.
        label_map: What is in the file now, on the grid of the image.
        changed_voxels: Voxels that differ from the draft.
        dice: Mean over the classes that either has of the Dice between draft and correction; NaN without any.
    """

    draft: Draft
    label_map: LabelMap
    changed_voxels: int
    dice: float


def hash_images(paths: Sequence[Path]) -> tuple[str, StoredImage]:
    """sha256 of the bytes of all images of a case, and the first one.

    Raises:
        SegtrailError: One cannot be read.
    """
    read = [read_image_file(path) for path in paths]
    digests = [sha256 for _, sha256 in read]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return whole, read[0][0]


def hash_bytes(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copy_images(case_id: str, images: Sequence[Path], folder: Path) -> list[str]:
    """Puts images where a viewer finds them: NIfTI files and pictures as they are, all else as NIfTI on its own grid.

    Text of NIfTI headers is left out, as a new image comes into the data set by this way.

    Args:
        case_id: Begins the names.
        images: In the order of the channels.
        folder: Of the copies.

    Returns:
        Their names.

    Raises:
        SegtrailError: An image cannot be read.
    """
    names = []
    for index, path in enumerate(images):
        channel = f"_{index:04d}" if len(images) > 1 else ""
        suffix = image_suffix(path)
        copied = path.is_file() and suffix in COPIED
        names.append(f"{case_id}_image{channel}{suffix if copied else '.nii.gz'}")
        if copied and (blanked := blank_header_text(path)) is not None:
            (folder / names[-1]).write_bytes(blanked)
        elif copied:
            shutil.copyfile(path, folder / names[-1])
        else:
            stored, _ = read_image_file(path)
            save_volume(Volume(stored.array, stored.affine), folder / names[-1])
    return names


def save_draft(draft: Draft, partial: Path, folder: Path) -> None:
    """Moves images and label map of a draft to their places, and writes its record last.

    Args:
        draft: Names the files.
        partial: Folder where they are.
        folder: Of all drafts, on the same disk.
    """
    (folder / ORIGINALS).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(partial / draft.label, folder / ORIGINALS / draft.label)
    for name in (*draft.images, draft.label):
        (partial / name).replace(folder / name)
    text = draft.model_dump_json(indent=2) + "\n"
    (folder / f"{draft.case_id}{RECORD}").write_text(text, encoding="utf-8")


def load_drafts(folder: Path) -> tuple[list[Draft], list[SegtrailError]]:
    """Reads the records of all drafts in a folder, by case; and an error for each that is damaged."""
    drafts: list[Draft] = []
    errors: list[SegtrailError] = []
    for path in sorted(folder.glob(f"*{RECORD}")):
        try:
            draft = Draft.model_validate_json(path.read_bytes())
            if path.name != f"{draft.case_id}{RECORD}":
                raise ValueError(f"it is of case {draft.case_id}")
        except (OSError, ValidationError, ValueError) as error:
            what = f"the record of the draft cannot be used: {error}"
            errors.append(SegtrailError(what, str(path), AGAIN))
            continue
        drafts.append(draft)
    return drafts, errors


def is_changed(draft: Draft, folder: Path) -> bool:
    """Whether the label map in the folder is another file than the model made; also when it is gone."""
    path = folder / draft.label
    return not path.is_file() or hash_bytes(path) != draft.draft_sha256


def check_correction(
    draft: Draft, folder: Path, image: StoredImage, facts: DatasetFacts, limit_mm: float
) -> Correction:
    """Reads the label map that came back.

    Args:
        draft: Its record.
        folder: Of the drafts.
        image: Of the case, on whose grid it must lie.
        facts: Of the data set, for the legal values.
        limit_mm: Largest distance between the corners of label map and image.

    Raises:
        SegtrailError: It cannot be read, lies on another grid, has unknown values, or the draft itself is damaged.
    """
    path, original = folder / draft.label, folder / ORIGINALS / draft.label
    if not original.is_file() or hash_bytes(original) != draft.draft_sha256:
        what = "the label map as the model made it is missing, or is not the one that the record names"
        raise SegtrailError(what, f"case {draft.case_id}, {original}", AGAIN)
    try:
        label_map = to_label_map(read_image_file(path)[0], path)
        drafted = to_label_map(read_image_file(original)[0], original)
    except ImageFileError as problem:
        fix = "save the label map again under this name"
        raise SegtrailError(problem.what, f"case {draft.case_id}, {path}", fix) from problem
    wanted, found = Grid(image.array.shape[1:], image.affine), Grid(label_map.array.shape, label_map.affine)
    if difference := describe_difference(wanted, found, limit_mm):
        what = f"the label map does not lie on the image: {difference}"
        fix = "save it on the grid of the image (3D Slicer: export with the image as reference volume)"
        raise SegtrailError(what, f"case {draft.case_id}, {path}", fix)
    for finding in check_labels(label_map, facts):
        if finding.code == UNKNOWN_VALUE:
            fix = "use the values of dataset.json"
            raise SegtrailError(finding.reason, f"case {draft.case_id}, {path}", fix)
    changed = int(np.count_nonzero(label_map.array != drafted.array))
    of_classes = mean_dice(drafted, label_map, facts.foreground)
    return Correction(draft, LabelMap(label_map.array, image.affine), changed, of_classes)


def mean_dice(first: LabelMap, second: LabelMap, labels: Mapping[str, int]) -> float:
    """Mean Dice over the classes that either of two label maps has; NaN without any."""
    found = [dice(count_voxels(first.array == v, second.array == v)) for v in labels.values()]
    defined = [value for value in found if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
