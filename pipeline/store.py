"""The store of preprocessed cases: one safetensors file a case and a manifest of content keys.

A case is computed again only if its key (content, plan, code) differs. Files carry no time stamp and the
manifest is sorted, so the folder's hash does not depend on its history.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SegtrailError

MANIFEST = "_manifest.json"
DTYPES = {"F16": np.float16, "F32": np.float32, "U8": np.uint8, "U16": np.uint16, "I16": np.int16}


@dataclass(frozen=True)
class StoredCase:
    """A case of the store, mapped into memory: slicing reads only what it touches.

    Attributes:
        image: (C, X, Y, Z) float16 or float32.
        label: (X, Y, Z) uint8 network indices.
        foreground: (N, 4) int16 rows of class index, x, y, z.
        instances: (X, Y, Z) uint16, ids 1..n, 0 is background.
        instance_labels: (n + 1,) uint8, network index of the class of each id; entry 0 is 0.
    """

    image: NDArray[Any]
    label: NDArray[np.uint8]
    foreground: NDArray[np.int16]
    instances: NDArray[np.uint16]
    instance_labels: NDArray[np.uint8]


def content_key(*parts: str) -> str:
    """sha256 over text parts; the identity of a product."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def case_path(folder: Path, case_id: str) -> Path:
    """File of a case."""
    return folder / f"{case_id}.safetensors"


def save_case(folder: Path, case_id: str, case: StoredCase) -> str:
    """Writes a case whole or not at all, as a safetensors file; no part is copied as a whole.

    The file is not forced to the disk: what a power failure tears no longer has the manifest's sha256.

    Returns:
        sha256 of the file.
    """
    parts = {part.name: getattr(case, part.name) for part in fields(StoredCase)}
    # As the library orders them: wider types first, so that each part is aligned to its type.
    names = sorted(parts, key=lambda name: (-parts[name].itemsize, name))
    path, digest = case_path(folder, case_id), hashlib.sha256()
    temporary = path.with_suffix(".tmp")
    blocks: Iterator[bytes | memoryview] = chain(
        _header({name: parts[name] for name in names}), *(_blocks(parts[name]) for name in names)
    )
    with temporary.open("wb") as stream:
        for block in blocks:
            stream.write(block)
            digest.update(block)
    temporary.replace(path)
    return digest.hexdigest()


def _header(parts: dict[str, NDArray[Any]]) -> list[bytes]:
    """Length and JSON of a safetensors file: type, shape and place of each part."""
    codes = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
    entries, end = {}, 0
    for name, array in parts.items():
        begin, end = end, end + array.nbytes
        entries[name] = {"dtype": codes[array.dtype], "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text]


def _blocks(array: NDArray[Any]) -> Iterator[memoryview]:
    """The values in C order; of an array that lies otherwise in memory one plane at a time is copied."""
    whole = array.flags.c_contiguous
    for block in (array,) if whole else array:
        yield np.ascontiguousarray(block).reshape(-1).view(np.uint8).data


def load_case(folder: Path, case_id: str) -> StoredCase:
    """Maps a case into memory.

    Raises:
        SegtrailError: The file is missing or not a case of the store.
    """
    path = case_path(folder, case_id)
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        names = [part.name for part in fields(StoredCase)]
        arrays = {name: _mapped(path, header[name], 8 + length) for name in names}
    except (OSError, ValueError, KeyError) as error:
        raise SegtrailError(
            f"the preprocessed case cannot be read: {error}", str(path), "dvc repro --force preprocess"
        ) from error
    return StoredCase(**arrays)


def _mapped(path: Path, entry: dict[str, Any], start: int) -> NDArray[Any]:
    """Maps one tensor of a safetensors file; the format is a JSON header and flat little-endian data."""
    dtype = DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, mode="r", offset=start + entry["data_offsets"][0], shape=shape)


class Manifest:
    """Which case was computed from what.

    Args:
        folder: The store; created when missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / MANIFEST
        self.entries: dict[str, dict[str, str]] = {}
        if self.path.exists():
            try:
                self.entries = json.loads(self.path.read_text(encoding="utf-8"))
            except ValueError:
                self.entries = {}  # a torn manifest only costs the recomputation

    def holds(self, case_id: str, key: str) -> bool:
        """Whether the case's product is there, whole, and made from this key."""
        entry = self.entries.get(case_id)
        if entry is None or entry["key"] != key:
            return False
        path = case_path(self.folder, case_id)
        if not path.exists():
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == entry["sha256"]

    def add(self, case_id: str, key: str, sha256: str) -> None:
        """Notes a finished product and writes the manifest."""
        self.entries[case_id] = {"key": key, "sha256": sha256}
        self.save()

    def keep_only(self, case_ids: Iterable[str]) -> list[str]:
        """Removes products of other cases, and leftovers; returns the removed case ids."""
        wanted = set(case_ids)
        removed = [case_id for case_id in self.entries if case_id not in wanted]
        self.entries = {case_id: entry for case_id, entry in self.entries.items() if case_id in wanted}
        legal = {case_path(self.folder, case_id).name for case_id in self.entries} | {MANIFEST}
        for path in self.folder.iterdir():
            if path.name not in legal:
                path.unlink()
        self.save()
        return removed

    def save(self) -> None:
        """Writes the manifest, sorted, whole or not at all."""
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.entries, indent=0, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(self.path)
