"""The store of preprocessed cases: one safetensors file a case, mapped into memory. Files carry no time stamp."""

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

from pipeline.disk import temporary_path
from pipeline.errors import SegtrailError

MANIFEST = "_manifest.json"
LOWRES = "lowres"  # folder below the store of the plan's own grid: the cases on the coarser one
DTYPES = {"F16": np.float16, "F32": np.float32, "U8": np.uint8, "U16": np.uint16, "I16": np.int16}


@dataclass(frozen=True)
class StoredCase:
    """A case of the store, mapped into memory: slicing reads only what it touches.

    Attributes:
        image: (C, X, Y, Z) float16 or float32.
        label: (X, Y, Z) uint8 network indices; 255 where nobody labelled (`pipeline.ignored_voxels`).
        foreground: (N, 4) int16 rows of class index, x, y, z; index 0 only where voxels are not labelled.
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
    return save_arrays(case_path(folder, case_id), parts)


def save_arrays(path: Path, parts: dict[str, NDArray[Any]]) -> str:
    """Writes arrays as a safetensors file, whole or not at all; returns its sha256."""
    # As the library orders them: wider types first, so that each part is aligned to its type.
    names = sorted(parts, key=lambda name: (-parts[name].itemsize, name))
    digest = hashlib.sha256()
    temporary = temporary_path(path)
    blocks: Iterator[bytes | memoryview] = chain(
        _header({name: parts[name] for name in names}), *(_blocks(parts[name]) for name in names)
    )
    try:
        with temporary.open("wb") as stream:
            for block in blocks:
                stream.write(block)
                digest.update(block)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
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
        arrays = map_arrays(path, [part.name for part in fields(StoredCase)])
    except (OSError, ValueError, KeyError) as error:
        raise SegtrailError(
            f"the preprocessed case cannot be read: {error}", str(path), "dvc repro --force preprocess"
        ) from error
    return StoredCase(**arrays)


def map_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Maps arrays of a safetensors file into memory.

    Raises:
        OSError, ValueError, KeyError: The file is missing, damaged, or has no such array.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(stream.read(length))
    return {name: _mapped(path, header[name], 8 + length) for name in names}


def _mapped(path: Path, entry: dict[str, Any], start: int) -> NDArray[Any]:
    """Maps one tensor of a safetensors file; the format is a JSON header and flat little-endian data."""
    dtype = DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, mode="r", offset=start + entry["data_offsets"][0], shape=shape)
