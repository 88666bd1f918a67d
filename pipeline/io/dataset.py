"""What every source layout shares: `dataset.json`, tables of text, and files that must be there."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.cases import CaseRecord
from pipeline.errors import SegtrailError, collect
from pipeline.io.dataset_regions import parse_regions, split_labels
from pipeline.io.image_names import file_of
from pipeline.io.references import ReferenceBuilder

CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
IGNORE = "ignore"  # name, among the labels, of voxels that nobody labelled
MOST_CLASSES = (
    255  # with an ignore value: background included, as `pipeline.ignored_voxels` takes the last index
)
CONTRACT = "see data/README.md for what the file holds"


@dataclass(frozen=True)
class DatasetFacts:
    """What is true of a data set as a whole.

    Attributes:
        name: Of the data set.
        channels: Modality of each channel, such as ("MRI",) or ("FLAIR", "T1w").
        labels: Value of each class, background (0) included, ordered by value.
        description: One sentence, "" when unknown.
        licence: Short name, "" when unknown.
        regions: Values of each overlapping region, in the order in which regions are painted into a label map, a
            later one over an earlier one; empty when the classes themselves are what is asked for.
        regions_class_order: Value that each region paints.
        ignore: Value of voxels that nobody labelled; None = every voxel is labelled.
    """

    name: str
    channels: tuple[str, ...]
    labels: dict[str, int]
    description: str = ""
    licence: str = ""
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    regions_class_order: tuple[int, ...] = ()
    ignore: int | None = None

    @property
    def foreground(self) -> dict[str, int]:
        """Value of each class but the background."""
        return {name: value for name, value in self.labels.items() if value != 0}

    def save(self, path: Path) -> None:
        """Writes the facts as JSON."""
        facts = asdict(self)
        ignore = facts.pop("ignore")
        facts["labels"] |= {} if ignore is None else {IGNORE: ignore}
        path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> DatasetFacts:
        """Reads a `dataset.json` in Segtrail's, MSD's or nnU-Net's spelling.

        Raises:
            SegtrailError: The file is missing or damaged; all problems at once.
        """
        listing = Listing(path.parent)
        facts = parse_facts(read_json(path), path, listing)
        if facts is None or listing.problems:
            raise collect(listing.problems)
        return facts


@dataclass
class Listing:
    """What a layout finds in a folder; problems are gathered, so that they are reported together.

    Attributes:
        folder: Of the raw data set, relative to the project.
        facts: None when `dataset.json` is damaged.
        records: The cases, without geometry or hash.
        references: What makes the reference of a case, by case_id; for cases whose labels are no images.
        problems: Everything that is wrong.
    """

    folder: Path
    facts: DatasetFacts | None = None
    records: list[CaseRecord] = field(default_factory=list)
    references: dict[str, ReferenceBuilder] = field(default_factory=dict)
    problems: list[SegtrailError] = field(default_factory=list)

    def problem(self, what: str, where: str | Path, fix: str) -> None:
        """Notes a problem."""
        self.problems.append(SegtrailError(what, str(where), fix))

    def find(self, text: str) -> Path:
        """Path of a file that the data set names, relative to its folder; it need not exist."""
        return self.folder / PurePosixPath(text)

    def require(
        self, text: str, kind: str, case_id: str, series: Callable[[Path], bool] | None = None
    ) -> str:
        """Path (relative to the project) of a file that must be there; "" and a problem when it is not.

        Args:
            text: As the data set names it: a file, a folder, or `file.h5#name`.
            kind: What it is, for messages.
            case_id: Whose it is.
            series: Whether a folder holds a DICOM series; None = only a file will do.
        """
        path = self.find(text)
        if PurePosixPath(text).is_absolute() or ".." in path.relative_to(self.folder).parts or ";" in text:
            what = f"the {kind} {text!r} lies outside the data set's folder, or has ';' in its name"
            self.problem(
                what, f"case {case_id}", f"put the file below {self.folder}, name it relative to that"
            )
        elif path.is_dir() and not (series and series(path)):
            wrong = "a folder without a DICOM series" if series else "a folder, expected a file"
            self.problem(f"the {kind} is {wrong}", f"case {case_id}, {path}", "name a file, or drop the case")
        elif not file_of(path).exists():
            self.problem(
                f"the {kind} is missing", f"case {case_id}, {path}", "add the file, or drop the case"
            )
        else:
            return path.as_posix()
        return ""


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        SegtrailError: The file is missing or is not a JSON object.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise SegtrailError(f"{path.name} is missing", str(path), CONTRACT) from error
    except (ValueError, OSError) as error:
        raise SegtrailError(f"{path.name} cannot be read as JSON: {error}", str(path), CONTRACT) from error
    if not isinstance(raw, dict):
        raise SegtrailError(
            f"{path.name} holds {type(raw).__name__}, expected an object", str(path), CONTRACT
        )
    return raw


def read_table(
    path: Path, needed: tuple[str, ...], listing: Listing, separator: str = ","
) -> list[dict[str, str]]:
    """Reads a CSV file with a header line; cells are stripped, rows without any text are left out."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restkey="", restval="", delimiter=separator)
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            rows = [{k: v.strip() for k, v in row.items() if k} for row in reader]
    except FileNotFoundError:
        listing.problem(f"{path.name} is missing", path, CONTRACT)
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        listing.problem(f"{path.name} cannot be read: {error}", path, "save it as comma-separated UTF-8 text")
        return []
    missing = [name for name in needed if name not in names]
    if missing:
        what = f"columns {missing} are missing; there are {names}"
        name = "tab" if separator == "\t" else "comma"
        listing.problem(what, path, f"add the columns; the separator is a {name}")
        return []
    return [row for row in rows if any(row.values())]


def read_patients(path: Path, case_ids: Collection[str], listing: Listing) -> dict[str, tuple[str, str]]:
    """Reads who a case is of, from a table with case_id, patient_id and optionally site.

    Returns:
        Patient and site by case_id; nothing when there is no table. A case without a row is a problem: it
        would silently be a patient of its own, which is the way a patient gets on two sides of the split.
    """
    if not path.exists():
        return {}
    rows = read_table(path, ("case_id", "patient_id"), listing)
    patients = {row["case_id"]: (row["patient_id"], row.get("site", "")) for row in rows}
    missing = sorted(set(case_ids) - {name for name, (patient, _) in patients.items() if patient})
    if rows and missing:
        listing.problem(f"no patient_id for {', '.join(missing)}", path, "add a row for each case")
    return patients


def parse_facts(raw: Mapping[str, Any], path: Path, listing: Listing) -> DatasetFacts | None:
    """Takes the facts from a `dataset.json`; what is wrong is noted in `listing`."""
    before = len(listing.problems)
    channels = _channels(raw, path, listing)
    plain, lists = split_labels(raw.get("labels"))
    labels = _labels(plain, path, listing)
    ignore = labels.pop(IGNORE, None)
    if ignore is not None and (ignore == 0 or len(labels) > MOST_CLASSES):
        what = f"the label {IGNORE!r} is {ignore} beside {len(labels)} classes with the background"
        listing.problem(what, path, f"give it a value of its own above 0, and at most {MOST_CLASSES} classes")
    regions, order, wrong = parse_regions(raw, lists, labels)
    for what, fix in wrong:
        listing.problem(what, path, fix)
    if len(listing.problems) > before:
        return None
    name = str(raw.get("name") or path.parent.name)
    licence = str(raw.get("licence") or raw.get("license") or "")
    about = str(raw.get("description") or "")
    return DatasetFacts(name, channels, labels, about, licence, regions, order, ignore)


def _channels(raw: Mapping[str, Any], path: Path, listing: Listing) -> tuple[str, ...]:
    found = raw.get("channels") or raw.get("channel_names") or raw.get("modality")
    if isinstance(found, dict) and sorted(found, key=str) == sorted(map(str, range(len(found)))):
        return tuple(str(found[str(index)]) for index in range(len(found)))
    if isinstance(found, list) and found:
        return tuple(map(str, found))
    what = f"modality (or channel_names) is {found!r}, expected a name for each channel from 0 on"
    listing.problem(what, path, 'write "modality": {"0": "MRI"}')
    return ()


def _labels(found: Any, path: Path, listing: Listing) -> dict[str, int]:
    """Labels as name -> value, from value -> name (MSD) or name -> value (nnU-Net)."""
    pairs: list[tuple[str, Any]] = []
    if isinstance(found, dict) and found:
        by_value = all(str(key).isdigit() for key in found)
        pairs = [(str(v), int(k)) if by_value else (str(k), v) for k, v in found.items()]
    wrong = [f"{name}: {value!r}" for name, value in pairs if not _is_label_value(value)]
    if not pairs or wrong:
        what = f"labels are {wrong or found!r}, expected one whole number from 0 to 65535 for each name"
        fix = 'write "labels": {"0": "background", "1": "..."}'
        listing.problem(what, path, fix)
        return {}
    for kind, counts in (
        ("name", Counter(name for name, _ in pairs)),
        ("value", Counter(value for _, value in pairs)),
    ):
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            listing.problem(
                f"labels give the {kind} {twice} twice", path, "give each class one name and value"
            )
    if 0 not in dict(pairs).values():
        pairs.append(("background", 0))
    return dict(sorted(pairs, key=lambda pair: int(pair[1])))


def _is_label_value(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535


def image_stem(name: str) -> str:
    """File name without folder and NIfTI suffix."""
    base = PurePosixPath(name).name
    for suffix in (".nii.gz", ".nii"):
        if base.endswith(suffix):
            return base.removesuffix(suffix)
    return base
