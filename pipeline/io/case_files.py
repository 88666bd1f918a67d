"""The files that an image of a case is made of, and those that a reference is derived from."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from pipeline.io.image_names import file_of

# Headers that name the file of their voxels, and what they may write in its place.
DETACHED = {
    ".mhd": re.compile(r"^\s*ElementDataFile\s*=\s*(.*?)\s*$", re.MULTILINE),
    ".nhdr": re.compile(r"^\s*data ?file\s*:\s*(.*?)\s*$", re.MULTILINE | re.IGNORECASE),
}
SEVERAL = re.compile(r"^LIST|%\d*d")
HALVES = {
    ".hdr": ".img",
    ".img": ".hdr",
    ".hdr.gz": ".img",
    ".img.gz": ".hdr",
}  # of a pair; either may be gzip
HEADER_BYTES = 1 << 16


class UnknownDependencyError(Exception):
    """What a reference is derived from cannot be told."""


def list_files(name: str) -> list[Path]:
    """Every file that an image's bytes may come from, in a fixed order.

    Args:
        name: As `CaseRecord` has it: a file, a folder, `folder#series`, or `file.h5#data set`.

    Returns:
        All files of a folder, of `folder#series` those of the series; of a header also the file with its voxels,
        whether it exists or not.
    """
    path = file_of(Path(name))
    if path.is_dir():
        return _series(Path(name)) or _walk(path)
    lower = path.name.lower()
    for suffix, other in HALVES.items():
        if lower.endswith(suffix):
            stem = path.name[: -len(suffix)]
            return [path, path.with_name(stem + other), path.with_name(f"{stem}{other}.gz")]
    named = DETACHED.get(path.suffix.lower())
    return [path] if named is None or not path.is_file() else [path, *_detached(path, named)]


def _series(path: Path) -> list[Path]:
    """Files of one DICOM series among several; none for every other path."""
    if "#" not in path.name:
        return []
    from pipeline.io.dicom_files import list_series  # pydicom takes half a second

    return list_series(path)


def _walk(folder: Path) -> list[Path]:
    found = [Path(here) / name for here, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(found)


def _detached(path: Path, pattern: re.Pattern[str]) -> list[Path]:
    try:
        with path.open("rb") as stream:
            match = pattern.search(stream.read(HEADER_BYTES).decode("latin-1"))
    except OSError:
        return []  # its reader says what is wrong
    text = match.group(1) if match else "LOCAL"
    if text == "LOCAL":
        return []
    # Several files by a list or a pattern: whatever lies beside the header may be one of them.
    return _walk(path.parent) if SEVERAL.search(text) else [path.parent / text]


def describe_builder(builder: Any) -> tuple[str, list[Path]]:
    """What a function that derives references depends on, besides the image and the params.

    It is told from the arguments that `functools.partial` has bound, from what a closure has kept, or from the
    fields of a dataclass that can be called: a path, also as text, stands for all its files; everything else stands
    for itself.

    Returns:
        A text of everything bound, and the paths in it.

    Raises:
        UnknownDependencyError: Something is bound that has no lasting text.
    """
    paths: list[Path] = []
    return _describe(builder, paths), paths


def _describe(value: Any, paths: list[Path]) -> str:
    if isinstance(value, Path) or (isinstance(value, str) and "/" in value and Path(value).exists()):
        paths.append(Path(value))
        return f"path {value}"
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, partial):
        parts = (value.func, *value.args, *(item for pair in sorted(value.keywords.items()) for item in pair))
        return f"partial({_join(parts, paths)})"
    if isinstance(value, FunctionType):
        kept = [cell.cell_contents for cell in value.__closure__ or ()]
        return (
            f"{value.__module__}.{value.__qualname__}({_join([*kept, *(value.__defaults__ or ())], paths)})"
        )
    if isinstance(value, MethodType):
        return f"{value.__func__.__qualname__}({_describe(value.__self__, paths)})"
    if isinstance(value, (tuple, list)):
        return f"[{_join(value, paths)}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{','.join(sorted(_describe(item, paths) for item in value))}}}"
    if isinstance(value, Mapping):
        return f"{{{_join([item for pair in value.items() for item in pair], paths)}}}"
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__qualname__}({_join([getattr(value, f.name) for f in fields(value)], paths)})"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return (
            f"{value.dtype}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
        )
    raise UnknownDependencyError(type(value).__qualname__)


def _join(values: Any, paths: list[Path]) -> str:
    return ",".join(_describe(value, paths) for value in values)
