"""Inspected cases, kept by what they were computed from: only new and changed ones are computed.

The key of a case is a sha256 over the bytes of its files, how its layout lists it, the facts of the data set, the
limits, what its reference is derived from, and the code. One folder a key, moved to its place when it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline.cases import CaseRecord
from pipeline.config import InspectParams
from pipeline.disk import temporary_path
from pipeline.inspected_case import InspectedCase
from pipeline.inspection import inspect_case
from pipeline.io.case_files import UnknownDependencyError, describe_builder, list_files
from pipeline.io.sources import RawDataset
from pipeline.stat_memo import StatMemo, hash_file
from pipeline.store import content_key

CASE, FINGERPRINT = "case.json", "fingerprint.json"
FILES = "files"  # folder of an entry: what the inspection has written for the case
OF_THE_SET = {
    "dataset",
    "layout",
    "position_outlier",
    "value_outlier",
    "max_bad_fraction",
}  # params that no single case depends on
ADAPTER = TypeAdapter(InspectedCase)


@dataclass(frozen=True)
class MemoizedCase:
    """A case and where its files are kept.

    Attributes:
        result: With the fingerprint's samples left out; paths of what the inspection has written are relative to
            the folder `files`.
        folder: Of the entry.
        computed: Whether it was computed just now.
    """

    result: InspectedCase
    folder: Path
    computed: bool

    @property
    def fingerprint(self) -> Path:
        """The whole fingerprint, a file that nobody changes; only there when the result has one."""
        return self.folder / FINGERPRINT

    def files(self) -> list[tuple[Path, Path]]:
        """What the inspection has written for the case, and where that lies in the folder it was given."""
        folder = self.folder / FILES
        return [(path, path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]


class InspectionMemo:
    """The inspected cases of a data set, kept below a folder; threads share it.

    Args:
        folder: One a data set.
        dataset: As its layout lists it.
        params: Limits.
        code: Digest of the code that inspects.
    """

    def __init__(self, folder: Path, dataset: RawDataset, params: InspectParams, code: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dataset = dataset
        self.params = params
        limits = params.model_dump_json(exclude=OF_THE_SET)
        self.base = content_key(code, json.dumps(asdict(dataset.facts)), limits)
        self.hashes = StatMemo(folder / "files.json")
        self._used: set[str] = set()
        self._names: set[str] = set()

    def recall(self, record: CaseRecord) -> MemoizedCase | None:
        """What is kept of a case, when that is known without reading its files."""
        return self._find(record, reading=False)[1]

    def obtain(self, record: CaseRecord) -> MemoizedCase:
        """What is kept of a case, or its inspection."""
        key, kept = self._find(record, reading=True)
        return kept or self._compute(record, key)

    def save(self) -> None:
        """Keeps what is known of files."""
        self.hashes.save()

    def forget_others(self) -> None:
        """Removes all cases that were not asked for."""
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in self._used:
                shutil.rmtree(path, ignore_errors=True)
        self.hashes.keep_only(self._names)
        self.hashes.save()

    def _find(self, record: CaseRecord, reading: bool) -> tuple[str, MemoizedCase | None]:
        """Key of a case ("" when files must be read for it and may not), and what is kept under it."""
        bound, groups = self._dependencies(record)
        hashes = []
        for name, files in groups.items():
            sha256 = self.hashes.digest(name, files) if reading else self.hashes.recall(name, files)
            if sha256 is None:
                return "", None
            hashes.append(sha256)
        self._names.update(groups)
        key = content_key(self.base, json.dumps(asdict(record)), bound, *hashes)
        return key, self._load(key, reading)

    def _dependencies(self, record: CaseRecord) -> tuple[str, dict[str, list[Path]]]:
        """What the reference of a case is derived from besides files; and all files of the case, by group."""
        names = [*record.images, *filter(None, (record.label, record.instances))]
        bound, paths = "", list[Path]()
        builder = self.dataset.references.get(record.case_id)
        if builder is not None:
            try:
                bound, paths = describe_builder(builder)
            except UnknownDependencyError as unknown:
                # It may read anything, so any change of the data set counts.
                bound, paths = f"unknown {unknown}", [Path("data/raw") / self.params.dataset]
        groups = {}
        for name in [*names, *map(str, paths)]:
            files = list_files(name)
            # Many cases may lie in one HDF5 file: it is read once.
            groups[str(files[0]) if len(files) == 1 else name] = files
        return bound, groups

    def _load(self, key: str, reading: bool) -> MemoizedCase | None:
        folder = self.folder / key
        try:
            result, products = _parse((folder / CASE).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            shutil.rmtree(folder, ignore_errors=True)  # torn by a power failure
            return None
        for name, sha256 in products.items():
            path = folder / name
            known = (self.hashes.digest if reading else self.hashes.recall)(str(path), [path])
            if known is None:
                return None
            if (
                known != sha256
            ):  # a product is linked into the output, where somebody may have written into it
                shutil.rmtree(folder, ignore_errors=True)
                return None
        self._use(key, products)
        return MemoizedCase(result, folder, computed=False)

    def _use(self, key: str, products: Collection[str]) -> None:
        self._used.add(key)
        self._names.update(str(self.folder / key / name) for name in products)

    def _compute(self, record: CaseRecord, key: str) -> MemoizedCase:
        temporary = temporary_path(self.folder / key)
        shutil.rmtree(temporary, ignore_errors=True)
        written = temporary / FILES
        written.mkdir(parents=True)
        build = self.dataset.references.get(record.case_id)
        try:
            result = inspect_case(record, self.dataset.facts, self.params, build, written)
            text, products = _store(temporary, _relative(result, written))
            groups = self._dependencies(record)[1]
            if not all(self.hashes.still_holds(name, files) for name, files in groups.items()):
                key = content_key(key, "the files changed while they were read")
            folder = self.folder / key
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for name, sha256 in products.items():
            self.hashes.note(folder / name, sha256)
        self._use(key, products)
        # As the next run will read it, so that the output does not depend on what was kept.
        return MemoizedCase(_parse(text)[0], folder, computed=True)


def _store(folder: Path, result: InspectedCase) -> tuple[str, dict[str, str]]:
    """Writes what is kept of a case; its text, and the sha256 of all other files of the entry."""
    slim = result
    if result.fingerprint is not None:
        result.fingerprint.save(folder / FINGERPRINT)
        slim = replace(result, fingerprint=result.fingerprint.without_samples())
    with suppress(OSError):
        (folder / FILES).rmdir()  # when it is empty
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    products = {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}
    text = json.dumps({"result": asdict(slim), "products": products}, default=_to_plain)
    (folder / CASE).write_text(text, encoding="utf-8")
    return text, products


def _parse(text: str) -> tuple[InspectedCase, dict[str, str]]:
    stored = json.loads(text)
    return ADAPTER.validate_python(stored["result"]), stored["products"]


def _relative(result: InspectedCase, folder: Path) -> InspectedCase:
    """The record with the paths of what was written for it relative to the folder they lie in."""
    start = f"{folder.as_posix()}/"
    changed = {
        name: text.removeprefix(start)
        for name in ("label", "instances")
        if (text := getattr(result.record, name)).startswith(start)
    }
    return replace(result, record=replace(result.record, **changed))


def _to_plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON")
