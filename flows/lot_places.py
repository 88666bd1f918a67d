"""Where the files of a lot belong in a data set, by its layout, and which of them are still missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from flows.lots import CASE_FOLDERS, CHANNEL, SUFFIXES
from pipeline.errors import SegtrailError
from pipeline.io.lot_tables import load_rows

FACTS, PATIENTS, CASES = "dataset.json", "patients.csv", "cases.csv"
LAYOUTS = ("msd", "table", "dicom", "lidc", "bids", "brats", "kits", "lits", "acdc", "sunnybrook", "dsb2018")
FREE_PLACES = ("table", "dicom", "lidc")  # layouts whose cases are not called like their folders
PATHS = ("image", "label", "instances")  # columns of cases.csv that name files, or begin so


class NotYetError(SegtrailError):
    """The lot is not whole: it waits."""


@dataclass
class Placed:
    """Places of a lot's files.

    Attributes:
        names: Name in the lot, by the place in the data set.
        table: Rows for `cases.csv` of the layout table, with paths relative to the data set.
        left_out: Names of files that have no place, with the reason.
    """

    names: dict[str, str]
    table: list[dict[str, str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def place_files(
    lot: str, files: Mapping[str, Path], layout: str, target: Path, channels: int, taken: Collection[str]
) -> Placed:
    """Finds the place of each file.

    In `msd` a lot's folders are those of the data set, in `dsb2018` its images lie beside the others; in all other
    layouts the lot becomes a folder of the data set.

    Args:
        lot: Its name.
        files: By name relative to the lot.
        layout: Of the data set.
        target: Folder of the data set.
        channels: Of its images.
        taken: Names at the top of the data set that other lots will have.

    Raises:
        NotYetError: An image, a label or a table may still come.
        SegtrailError: There is nothing that the layout knows.
    """
    tables = (FACTS, PATIENTS, *((CASES,) if layout == "table" else ()))
    names = [name for name in files if name not in tables]
    if layout == "msd":
        placed = {name: name for name in names if PurePosixPath(name).parts[0] in CASE_FOLDERS}
        _require_pairs(list(placed), channels)
        why = f"only {', '.join(CASE_FOLDERS)} come in"
        return Placed(placed, left_out={name: why for name in names if name not in placed})
    if layout == "dsb2018":
        root = "stage1_train/" if (target / "stage1_train").is_dir() else ""
        bare = {name: name.removeprefix("stage1_train/") for name in names}
        single = any(name.startswith(("images/", "masks/")) for name in bare.values())
        return Placed({f"{root}{f'{lot}/' if single else ''}{bare[name]}": name for name in names})
    top = _free(lot, target, taken) if layout in FREE_PLACES else lot
    table = _rows(files.get(CASES), names, top) if layout == "table" else []
    return Placed({f"{top}/{name}": name for name in names}, table)


def _free(name: str, target: Path, taken: Collection[str]) -> str:
    """A name that no folder of the data set has."""
    number, free = 1, name
    while (target / free).exists() or free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _require_pairs(names: Sequence[str], channels: int) -> None:
    """Images need their labels, labels their images, and several channels all of their files.

    Raises:
        NotYetError: A file may still come.
        SegtrailError: There is no file at all that the layout knows.
    """
    if not names:
        fix = f"put images into {CASE_FOLDERS[0]} and labels into {CASE_FOLDERS[1]}"
        raise SegtrailError(f"it has no folder {CASE_FOLDERS[0]}", "layout msd", fix)
    stems = {
        folder: {_stem(name) for name in names if name.startswith(f"{folder}/")} for folder in CASE_FOLDERS
    }
    images, labels = stems[CASE_FOLDERS[0]], stems[CASE_FOLDERS[1]]
    numbered = {
        m[1]
        for stem in images - labels
        if (m := CHANNEL.fullmatch(stem)) and (channels > 1 or m[1] in labels)
    }
    cases = {m[1] if (m := CHANNEL.fullmatch(s)) and m[1] in numbered else s for s in images}
    missing = [f"no label yet for {shorten_names(sorted(cases - labels))}"] if cases - labels else []
    missing += [f"no image yet for {shorten_names(sorted(labels - cases))}"] if labels - cases else []
    absent = sorted(f"{n}_{i:04d}" for n in numbered for i in range(channels) if f"{n}_{i:04d}" not in images)
    missing += [f"no image yet of channel {shorten_names(absent)}"] if absent else []
    if missing:
        raise NotYetError("; ".join(missing), "layout msd", "add the file")


def _rows(path: Path | None, names: Sequence[str], top: str) -> list[dict[str, str]]:
    """Rows of a lot's `cases.csv`, with paths that are relative to the data set."""
    if path is None:
        raise NotYetError(f"there is no {CASES} yet", "layout table", "add one with a row for each case")
    there = {str(parent) for name in names for parent in (PurePosixPath(name), *PurePosixPath(name).parents)}
    rows, missing = [], []
    for row in load_rows(path):
        for column in (
            name for name in row if name.split("_")[0].rstrip("s") in ("image", "label", "instance")
        ):
            texts = [text.strip() for text in row[column].split(";") if text.strip()]
            missing += [
                t for t in texts if str(PurePosixPath(t)) not in there and t.split("#")[0] not in there
            ]
            row[column] = ";".join(f"{top}/{text}" for text in texts)
        rows.append(row)
    if missing:
        raise NotYetError(f"{CASES} names {shorten_names(missing)}, not there yet", CASES, "add the file")
    if not rows:
        raise NotYetError(f"{CASES} has no row yet", CASES, "add a row for each case")
    return rows


def _stem(name: str) -> str:
    base = PurePosixPath(name).name
    return next((base.removesuffix(suffix) for suffix in SUFFIXES if base.endswith(suffix)), base)


def shorten_names(names: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
