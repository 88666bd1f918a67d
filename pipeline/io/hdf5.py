"""HDF5: named data sets of one file, as networks' own stores of patches and volumes have them.

Axes are those of an array in C order, slowest first: (Z, Y, X) = (slice, row, column), (rows, columns) of one slice,
or (C, Z, Y, X). Geometry comes from the attributes `spacing_mm` (X, Y, Z) or `affine` (4 x 4, to RAS+) of the data
set, else of the file; without them 1 mm stands for 1 voxel, as in a picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.cases import Finding
from pipeline.errors import ImageFileError
from pipeline.io.image_names import Hdf5Name, parse_hdf5_name
from pipeline.io.stored import COPY_AGAIN, Digest, StoredImage, read_contents, require_image, to_native
from pipeline.volume import Affine

SIGNATURE = b"\x89HDF\r\n\x1a\n"
USUAL_NAME = "image"  # taken where a file holds several data sets and none is named
SHOWN = 8  # names that a message lists
# What h5py raises for damaged files.
DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, NotImplementedError)
NO_SPACING = Finding(
    "spacing_unknown",
    "the HDF5 data set has no attribute spacing_mm or affine; 1 mm stands for 1 voxel",
    fatal=False,
)


def read_hdf5(path: Path, digest: Digest | None = None) -> StoredImage:
    """Reads one data set, or one entry along the first axis of a stack.

    Args:
        path: `file.h5#name`, `file.h5#name[3]`, or `file.h5` when it holds one data set, or one named `image`.
        digest: Is given name, type, attributes and voxels: what else is in the file does not count.

    Returns:
        (C, X, Y, Z): integers as stored, floats as float32.

    Raises:
        ImageFileError: The file is missing, cut off or damaged; it has no such data set, or one of other axes, of
            no numbers, or with parts that were never written.
    """
    asked = parse_hdf5_name(path) or Hdf5Name(path)
    _require_hdf5(asked.file)
    try:
        with h5py.File(asked.file, "r") as file:
            dataset = _find(file, asked, path)
            _require_written(dataset, path)
            geometry = _geometry(dataset, file)
            stored = np.asarray(dataset[_select(dataset, asked, path)])
            name = str(dataset.name)
    except ImageFileError:
        raise
    except DAMAGED as error:
        code = "truncated" if "truncated" in str(error) else "corrupt"
        what = f"the HDF5 file is damaged: {error}"
        raise ImageFileError(code, what, asked.file, COPY_AGAIN) from error
    affine, remarks = _affine(geometry, path)
    if digest is not None:
        facts = f"{name} {asked.index} {stored.dtype.str} {stored.shape} {affine.tolist()}"
        digest.update(facts.encode())
        digest.update(np.ascontiguousarray(stored).tobytes())
    return StoredImage(_to_volume(stored, path), affine, remarks=remarks)


def measure_hdf5(path: Path) -> int:
    """Bytes that `read_hdf5` would unpack.

    Raises:
        OSError: The file cannot be read, or has no such data set.
    """
    asked = parse_hdf5_name(path) or Hdf5Name(path)
    try:
        with h5py.File(asked.file, "r") as file:
            dataset = _find(file, asked, path)
            whole = int(dataset.size) * int(dataset.dtype.itemsize)
            return whole if asked.index is None else whole // max(int(dataset.shape[0]), 1)
    except (*DAMAGED, ImageFileError) as error:
        raise OSError(str(error)) from error


def _require_hdf5(path: Path) -> None:
    if not path.is_file():
        read_contents(path)  # says why not
    with path.open("rb") as stream:
        start = stream.read(200)
    require_image(start, path)
    if not h5py.is_hdf5(path):  # the signature may also stand behind a user's own block of bytes
        code = "corrupt" if start.startswith(SIGNATURE[:4]) else "unreadable"
        what = f"the file is no whole HDF5 file (it starts with {start[:8]!r})"
        raise ImageFileError(code, what, path, COPY_AGAIN)


def _list_names(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _find(file: h5py.File, asked: Hdf5Name, path: Path) -> h5py.Dataset:
    names = _list_names(file)  # links to other files are not among them
    name = asked.name.strip("/")
    if not name:
        name = names[0] if len(names) == 1 else USUAL_NAME
    if name not in names:
        listed = ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
        what = f"the file has no data set {name!r}; it has {listed or 'none'}"
        fix = f"name one: {asked.file.name}#{names[0] if names else 'NAME'}"
        raise ImageFileError("missing", what, path, fix)
    return file[name]


def _require_written(dataset: h5py.Dataset, path: Path) -> None:
    """Refuses what HDF5 would fill up with zeros without a word, and what it would fetch from other files."""
    if dataset.is_virtual or dataset.external:
        what = f"the data set {dataset.name} takes its voxels from other files"
        raise ImageFileError("unreadable", what, path, "store them in this file")
    if dataset.dtype.kind not in "iufb":
        what = f"the data set {dataset.name} is of type {dataset.dtype}, expected whole numbers or floats"
        raise ImageFileError("unreadable", what, path, "name another data set")
    if dataset.chunks is None:
        there, promised = dataset.id.get_storage_size(), dataset.size * dataset.dtype.itemsize
    else:
        there = dataset.id.get_num_chunks()
        promised = int(
            np.prod([-(-n // step) for n, step in zip(dataset.shape, dataset.chunks, strict=True)])
        )
    if there < promised:
        unit = "bytes" if dataset.chunks is None else "chunks"
        what = f"only {there} of {promised} {unit} of {dataset.name} were ever written"
        raise ImageFileError("truncated", what, path, COPY_AGAIN)


def _select(dataset: h5py.Dataset, asked: Hdf5Name, path: Path) -> Any:
    if asked.index is None:
        return ()
    if dataset.ndim < 1 or asked.index >= dataset.shape[0]:
        what = f"there is no entry {asked.index} in {dataset.name}, whose shape is {dataset.shape}"
        raise ImageFileError("missing", what, path, "count from 0 along the first axis")
    return asked.index


def _geometry(dataset: h5py.Dataset, file: h5py.File) -> NDArray[Any] | None:
    """The first attribute that says where the voxels lie; those of the data set count before the file's."""
    places = ((holder, name) for holder in (dataset.attrs, file.attrs) for name in ("affine", "spacing_mm"))
    return next((np.asarray(holder[name]) for holder, name in places if name in holder), None)


def _affine(found: NDArray[Any] | None, path: Path) -> tuple[Affine, tuple[Finding, ...]]:
    if found is None:
        return np.eye(4), (NO_SPACING,)
    if found.dtype.kind in "iuf" and found.shape in ((3,), (4, 4)):
        affine = found.astype(np.float64) if found.ndim == 2 else np.diag([*found.astype(np.float64), 1.0])
        spaced = found.ndim == 2 or found.min() > 0
        if spaced and np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12:
            return affine, ()
    what = f"the attribute is {found.tolist()}, expected spacing_mm (X, Y, Z) above 0 or affine (4 x 4)"
    raise ImageFileError("geometry_invalid", what, path, "correct the attribute")


def _to_volume(stored: NDArray[Any], path: Path) -> NDArray[Any]:
    if stored.ndim not in (2, 3, 4) or min(stored.shape) < 1:
        what = (
            f"shape is {stored.shape}, expected (Y, X), (Z, Y, X) or (C, Z, Y, X) with at least 1 voxel each"
        )
        fix = "name one entry of a stack: file.h5#name[0]"
        raise ImageFileError("shape_invalid", what, path, fix)
    if stored.dtype.kind == "b":
        stored = stored.astype(np.uint8)
    if stored.ndim == 2:
        stored = stored[np.newaxis]
    channels = stored if stored.ndim == 4 else stored[np.newaxis]
    return to_native(channels.transpose(0, 3, 2, 1))
