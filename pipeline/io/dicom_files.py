"""Which files are DICOM, and which of them make a series.

A series is named by the folder that holds nothing else, or by `FOLDER#UID`: the slices of the series with that
SeriesInstanceUID, wherever below the folder they lie.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from pipeline.errors import ImageFileError

SUFFIXES = (".dcm", ".ima")
SERIES_MARK = "#"
Index = dict[str, list[tuple[Path, str]]]  # files and their SOPInstanceUIDs, by SeriesInstanceUID
# What pydicom raises for damaged and for unsupported files.
DAMAGED = (
    *(
        AttributeError,
        EOFError,
        IndexError,
        KeyError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
    ),
    *(BytesLengthException, InvalidDicomError, zlib.error),
)


def is_dicom_series(folder: Path) -> bool:
    """Whether a folder itself (not one below it) holds DICOM files."""
    return folder.is_dir() and any(is_dicom(path) for path in folder.iterdir())


def name_series(folder: Path, uid: str) -> Path:
    """Names one series among several of a folder, and of those below it, as `FOLDER#UID`."""
    return folder.with_name(f"{folder.name}{SERIES_MARK}{uid}")


def split_series(path: Path) -> tuple[Path, str]:
    """Folder and UID of what `name_series` made; the UID is "" for a path that is no such name."""
    name, _, uid = path.name.rpartition(SERIES_MARK)
    if name and uid and not set(uid) - set("0123456789.") and not path.exists():
        return path.with_name(name), uid
    return path, ""


def find_files(folder: Path) -> list[Path]:
    """Files of a series, sorted by path."""
    place, uid = split_series(folder)
    try:
        if uid:
            files = _drop_copies(_index(place, _stamp(place)).get(uid, []))
        else:
            files = sorted(path for path in folder.iterdir() if is_dicom(path))
    except FileNotFoundError as error:
        raise ImageFileError("missing", "there is no such folder", folder, "put the series there") from error
    if not files:
        what = f"the folder holds no DICOM file{f' of the series {uid}' if uid else ''}"
        raise ImageFileError("missing", what, folder, "put the series there")
    return files


def list_series(path: Path) -> list[Path]:
    """Files of one series among several (`FOLDER#UID`), sorted, repeated slices included; none for every other path."""
    place, uid = split_series(path)
    return sorted(file for file, _ in _index(place, _stamp(place)).get(uid, [])) if uid else []


def is_dicom(path: Path) -> bool:
    """A file with the suffix of DICOM, damaged or not, or with its mark; DICOMDIR is a table of contents."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _stamp(folder: Path) -> tuple[tuple[str, int], ...]:
    """Changes when files below a folder come or go."""
    return tuple((here, Path(here).stat().st_mtime_ns) for here, _, _ in os.walk(folder, followlinks=True))


@lru_cache(maxsize=4)
def _index(folder: Path, stamp: tuple[tuple[str, int], ...]) -> Index:
    """All DICOM files below a folder; kept, because each series of the folder asks for it."""
    found: Index = defaultdict(list)
    for here, _ in stamp:
        for path in (path for path in Path(here).iterdir() if is_dicom(path)):
            try:
                tags = ["SeriesInstanceUID", "SOPInstanceUID"]
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
            except DAMAGED:
                continue
            uid = str(header.get("SeriesInstanceUID", ""))
            found[uid].append((path, str(header.get("SOPInstanceUID", ""))))
    return found


def _drop_copies(files: Sequence[tuple[Path, str]]) -> list[Path]:
    """Sorted by path, without files of the same instance and bytes as an earlier one: exports repeat slices."""
    kept: dict[tuple[str, str], Path] = {}
    uids = [uid for _, uid in files]
    for path, uid in sorted(files):
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if uids.count(uid) > 1 else ""
        kept.setdefault((uid, digest), path)
    return list(kept.values())
