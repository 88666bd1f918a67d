"""Where an accepted label belongs in a raw data set, and which text files must then name it; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.cases import CaseRecord
from pipeline.errors import SegtrailError
from pipeline.io.dataset import read_json
from pipeline.io.lot_tables import append_training, format_rows, load_rows

LAYOUTS = ("msd", "table")
WRITABLE = (".nii.gz", ".nii", ".png")  # of `pipeline.io.images.save_label_map`


@dataclass(frozen=True)
class NewLabel:
    """A label that is to come into a data set.

    Attributes:
        case_id: Its case.
        record: Of the data set; None where the case is new.
        images: Names of the images, in the order of the channels.
        suffix: Of the label's file, ".nii.gz" or ".png".
        several_readers: Whether the case has labels of several readers.
    """

    case_id: str
    record: CaseRecord | None
    images: tuple[str, ...]
    suffix: str
    several_readers: bool = False


@dataclass
class Places:
    """Paths relative to the data set.

    Attributes:
        labels: File of each label, by case.
        images: Files of the images of each new case.
        texts: What text files shall hold.
    """

    labels: dict[str, str] = field(default_factory=dict)
    images: dict[str, tuple[str, ...]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def require_layout(layout: str) -> None:
    """Refuses a layout whose labels are not files that may be replaced.

    Raises:
        SegtrailError: It names those that may.
    """
    if layout not in LAYOUTS:
        raise SegtrailError(
            f"labels of the layout {layout!r} come as they are published, not from drafts",
            "params.yaml: inspect.layout",
            f"keep a copy of the data set in one of the layouts {', '.join(LAYOUTS)} (data/README.md)",
        )


def place_labels(layout: str, folder: Path, labels: Sequence[NewLabel]) -> Places:
    """Finds the place of each label by the rule of the layout.

    Args:
        layout: "msd" or "table".
        folder: Of the data set; text files are read from it.
        labels: One a case.

    Raises:
        SegtrailError: The layout is another one, or has no place for a label.
    """
    require_layout(layout)
    for new in labels:
        if new.several_readers:
            what = "the case has labels of several readers; a corrected draft is not one of them"
            raise SegtrailError(
                what, f"case {new.case_id}", "add it to cases.csv as a reader's label by hand"
            )
    places = Places()
    (_place_msd if layout == "msd" else _place_table)(folder, labels, places)
    return places


def _place_msd(folder: Path, labels: Sequence[NewLabel], places: Places) -> None:
    """In the place of the label before; of a new case image and label by name, with an entry in the list."""
    facts = read_json(folder / "dataset.json")
    added = []
    for new in labels:
        if new.record is not None:
            places.labels[new.case_id] = _relative(new.record.label, folder)
            continue
        if new.suffix != ".nii.gz" or not all(name.endswith((".nii.gz", ".nii")) for name in new.images):
            what = f"the images {', '.join(new.images)} are no NIfTI files, which the layout msd asks for"
            raise SegtrailError(what, f"case {new.case_id}", "convert them, or use the layout table")
        if (folder / "patients.csv").exists():
            what = "patients.csv must say whose the new case is"
            fix = "add image, a first label and the row with segtrail data add, then draft again"
            raise SegtrailError(what, f"case {new.case_id}", fix)
        channels = [""] if len(new.images) == 1 else [f"_{index:04d}" for index in range(len(new.images))]
        places.images[new.case_id] = tuple(
            f"imagesTr/{new.case_id}{channel}{_nifti_suffix(name)}"
            for channel, name in zip(channels, new.images, strict=True)
        )
        places.labels[new.case_id] = f"labelsTr/{new.case_id}.nii.gz"
        added.append((places.images[new.case_id][0], places.labels[new.case_id]))
    if added and facts.get("training"):
        places.texts["dataset.json"] = append_training(facts, added)


def _place_table(folder: Path, labels: Sequence[NewLabel], places: Places) -> None:
    """In the place of the label before; of a case without one in `labels/`, named in `cases.csv`."""
    table = folder / "cases.csv"
    rows = load_rows(table)
    columns = list(rows[0])
    cell = next((name for name in columns if name in ("label", "labels", "label_1")), "label")
    changed = {}
    for new in labels:
        if new.record is None:
            what = "cases.csv has no row of this case, and so no patient"
            fix = "add image and row (with an empty label) with segtrail data add, then draft again"
            raise SegtrailError(what, f"case {new.case_id}, {table}", fix)
        before = new.record.label
        if before and before.endswith(WRITABLE):
            places.labels[new.case_id] = _relative(before, folder)
            continue
        places.labels[new.case_id] = changed[new.case_id] = f"labels/{new.case_id}{new.suffix}"
    if changed:
        labelled = [
            row | ({cell: changed[row["case_id"]]} if row["case_id"] in changed else {}) for row in rows
        ]
        places.texts["cases.csv"] = format_rows(columns, labelled)


def _relative(path: str, folder: Path) -> str:
    return PurePosixPath(path).relative_to(folder.as_posix()).as_posix()


def _nifti_suffix(name: str) -> str:
    return ".nii.gz" if name.endswith(".nii.gz") else ".nii"
