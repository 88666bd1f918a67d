"""What a lot holds, by the rules of the data set's layout: its cases, and why it may not come in, or not yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from flows.lot_places import CASES, FACTS, PATIENTS, NotYetError, Placed, place_files, shorten_names
from flows.lots import Lot
from flows.overlay import place_file
from pipeline.case_checks import UNKNOWN_VALUE, check_labels
from pipeline.case_reading import derive_references, list_roles, read_case
from pipeline.cases import CaseRecord
from pipeline.config import InspectParams
from pipeline.drafts import hash_bytes
from pipeline.errors import SegtrailError
from pipeline.io.case_files import UnknownDependencyError, describe_builder, list_files
from pipeline.io.dataset import DatasetFacts
from pipeline.io.lot_tables import format_rows, load_rows
from pipeline.io.sources import RawDataset, open_dataset

OWN_PATIENTS = ("table", "dicom")  # layouts whose patients stand elsewhere than in patients.csv
OWN_FACTS = ("msd", "table")  # layouts whose dataset.json must be there
NOT_YET = ("missing", "truncated")  # codes of findings: the file may still come, or come again
NEVER = ("unreadable", "corrupt", UNKNOWN_VALUE)  # the last one would stop every later run
Content = Counter[str]


@dataclass
class ReadLot:
    """A lot that can come in.

    Attributes:
        lot: As it lies in the incoming folder.
        name: Without what identifies a person.
        folder: Of links, where it looks like a data set of its own.
        records: Its new cases; paths below `folder`.
        same: Its cases that the data set holds already, to the byte.
        places: New files by their place in the data set.
        table: Rows for `cases.csv` of the layout table.
        patients: Rows for `patients.csv`.
        left_out: Reasons by path of what does not come in.
    """

    lot: Lot
    name: str
    folder: Path
    records: list[CaseRecord] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    places: dict[str, Path] = field(default_factory=dict)
    table: list[dict[str, str]] = field(default_factory=list)
    patients: list[dict[str, str]] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)


class LotReader:
    """Reads lots one after the other; a later one may not say otherwise than an earlier one.

    Args:
        target: Folder of the data set.
        dataset: What it holds.
        params: Layout and limits.
        folder: Where folders of links are made.
    """

    def __init__(self, target: Path, dataset: RawDataset, params: InspectParams, folder: Path) -> None:
        self.target, self.dataset, self.params, self.folder = target, dataset, params, folder
        self._records = {record.case_id: record for record in dataset.records}
        self._known: dict[str, Content] = {}
        self._taken: set[str] = set()
        self._count = 0

    def read(self, lot: Lot, name: str, files: Mapping[str, Path]) -> ReadLot:
        """Lists and checks the cases of a lot.

        Args:
            lot: It is whole as far as names, sizes and times tell.
            name: Of the lot, without what identifies a person.
            files: Those that come in, by name relative to the lot; the lot's own, or what de-identification made
                of them.

        Raises:
            NotYetError: Something is missing that may still come.
            SegtrailError: The lot can never come in as it is.
        """
        tables = {table: files.get(table) or lot.tables.get(table) for table in (FACTS, PATIENTS)}
        self._check_facts(tables[FACTS])
        channels = len(self.dataset.facts.channels)
        placed = place_files(name, files, self.params.layout, self.target, channels, self._taken)
        self._count += 1
        read = ReadLot(lot, name, self.folder / str(self._count) / self.target.name)
        read.left_out = {files[left]: why for left, why in placed.left_out.items()}
        self._link(placed, files, read.folder)
        dataset = open_dataset(read.folder, self.params.layout)
        self._require_labels(dataset)
        contents = {record.case_id: _content(record, dataset) for record in dataset.records}
        self._sort_cases(dataset, contents, read)
        for record in read.records:
            self._check_case(record, dataset)
        self._set_patients(read, tables[PATIENTS])
        read.table = [row for row in placed.table if row["case_id"] not in read.same]
        self._choose_files(placed, files, dataset, read)
        self._known |= {record.case_id: contents[record.case_id] for record in read.records}
        self._taken |= {PurePosixPath(place).parts[0] for place in placed.names}
        return read

    def _check_facts(self, path: Path | None) -> None:
        """What a lot says of classes and channels must be what the data set says."""
        if path is None:
            return
        there, here = comparable(self.dataset.facts), comparable(DatasetFacts.load(path))
        if different := [
            f"{key} {here[key]}, expected {there[key]}" for key in there if there[key] != here[key]
        ]:
            what = f"its dataset.json differs from the data set's: {'; '.join(different)}"
            raise SegtrailError(what, FACTS, "bring the lot into the classes and channels of the data set")

    def _link(self, placed: Placed, files: Mapping[str, Path], folder: Path) -> None:
        """A data set of its own: the lot's cases, and what the data set says of all."""
        folder.mkdir(parents=True)
        layout = self.params.layout
        skipped = (FACTS, PATIENTS, CASES) if layout in OWN_FACTS else (PATIENTS,)
        for path in self.target.iterdir():
            if path.is_file() and path.name not in skipped and not path.name.startswith("."):
                place_file(path, folder / path.name)
        for place, name in placed.names.items():
            if not (folder / place).exists():
                place_file(files[name], folder / place)
        if layout in OWN_FACTS:
            self.dataset.facts.save(folder / FACTS)
        if layout == "table":
            (folder / CASES).write_text(format_rows(list(placed.table[0]), placed.table), encoding="utf-8")

    def _require_labels(self, dataset: RawDataset) -> None:
        """An empty cell of `cases.csv` says that there is no label; a missing file may still come."""
        bare = [r.case_id for r in dataset.records if not r.label and r.case_id not in dataset.references]
        if bare and self.params.layout != "table":
            raise NotYetError(f"no label yet for {shorten_names(bare)}", bare[0], "add the label")

    def _sort_cases(self, dataset: RawDataset, contents: Mapping[str, Content], read: ReadLot) -> None:
        """Tells new cases from those that are there; the same name must mean the same bytes."""
        other = []
        for record in dataset.records:
            before = self._records.get(record.case_id)
            known = self._known.get(record.case_id) or (_content(before, self.dataset) if before else None)
            if known is None:
                read.records.append(record)
            elif known and known == contents[record.case_id]:
                read.same.append(record.case_id)
            else:
                other.append(record.case_id)
        if other:
            what = f"there is {shorten_names(other)} already, with other content"
            fix = "give a new case a name of its own; a corrected label comes in by segtrail data accept or data add"
            raise SegtrailError(what, f"case {other[0]}", fix)

    def _check_case(self, record: CaseRecord, dataset: RawDataset) -> None:
        """Reads every byte: what is cut off waits, what can never be read is refused, the rest is for `inspect`."""
        reading = read_case(record, self.params)
        build = dataset.references.get(record.case_id)
        if build is not None and reading.images:
            derive_references(reading, build, self.params)
        found = [*reading.findings]
        if "label" in reading.maps:
            found += check_labels(reading.maps["label"], self.dataset.facts)
        for codes, error in ((NEVER, SegtrailError), (NOT_YET, NotYetError)):
            if reasons := [finding.reason for finding in found if finding.code in codes]:
                what = f"case {record.case_id}: {'; '.join(reasons)}"
                raise error(what, _names_of(record), "copy it again or mend it, else drop the case")

    def _set_patients(self, read: ReadLot, table: Path | None) -> None:
        """Rows of new cases for `patients.csv`, where the data set or the lot has one."""
        there = (self.target / PATIENTS).is_file()
        if self.params.layout in OWN_PATIENTS or not (there or table):
            return
        rows = {row.get("case_id", ""): row for row in (load_rows(table) if table else ())}
        missing = [r.case_id for r in read.records if not rows.get(r.case_id, {}).get("patient_id")]
        if missing:
            what = f"{PATIENTS} does not say yet whose {shorten_names(missing)} is"
            raise NotYetError(what, PATIENTS, "add a row with case_id and patient_id for each case")
        read.patients = [rows[record.case_id] for record in read.records]

    def _choose_files(
        self, placed: Placed, files: Mapping[str, Path], dataset: RawDataset, read: ReadLot
    ) -> None:
        """New files of the data set: those of cases that are there already are none."""
        new = {path for record in read.records for path in _files_of(record, dataset)}
        same = {path for r in dataset.records if r.case_id in read.same for path in _files_of(r, dataset)}
        for place, name in placed.names.items():
            path, there = read.folder / place, self.target / place
            if path in same - new:
                continue
            if not read.records:
                read.left_out[files[name]] = "no file of a case, and the cases are there already"
            elif not there.exists():
                read.places[place] = path
            elif path.exists() and there.read_bytes() != path.read_bytes():
                raise SegtrailError("the data set has another file of this name", place, "rename the file")


def comparable(facts: DatasetFacts) -> dict[str, object]:
    """What must stay the same when cases come in."""
    return {
        "channels": facts.channels, "labels": facts.labels, "ignore": facts.ignore,
        "regions": facts.regions, "regions_class_order": facts.regions_class_order,
    }  # fmt: skip


def _names_of(record: CaseRecord) -> str:
    """Names of a case's files, for a message; not where they were linked."""
    return ", ".join(Path(name).name for _, name in list_roles(record))


def _files_of(record: CaseRecord, dataset: RawDataset) -> set[Path]:
    """All files that a case is made of."""
    found = {path for _, name in list_roles(record) for path in list_files(name)}
    build = dataset.references.get(record.case_id)
    if build is not None:
        found |= {file for path in describe_builder(build)[1] for file in list_files(str(path))}
    return found


def _content(record: CaseRecord, dataset: RawDataset) -> Content:
    """Hashes of a case's files, whatever they are called; empty where its files cannot be told."""
    try:
        return Counter(hash_bytes(path) for path in _files_of(record, dataset) if path.is_file())
    except UnknownDependencyError:
        return Counter()
