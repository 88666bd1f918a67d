"""FreeSurfer's MGH (`.mgh`) and the same in gzip (`.mgz`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError

from pipeline.cases import Finding
from pipeline.errors import ImageFileError
from pipeline.io.stored import (
    COPY_AGAIN,
    ORIENTATION_UNKNOWN,
    Digest,
    StoredImage,
    find_spacing_conflict,
    inflate_gzip,
    read_contents,
    require_image,
    to_native,
)
from pipeline.volume import Affine

HEADER_BYTES = 284
RAS_FLAG = slice(28, 30)
VERSION = b"\0\0\0\1"
DEFAULT_COLUMNS = ((-1, 0, 0), (0, 0, 1), (0, -1, 0))  # X to the left, Y down, Z to the front
NO_DIRECTIONS = Finding(
    ORIENTATION_UNKNOWN,
    "the header gives no directions (its flag goodRASFlag is 0); axes are taken as LIA at 1 mm, FreeSurfer's own",
    fatal=False,
)


def read_mgh(path: Path, digest: Digest | None = None) -> StoredImage:
    """Reads an image.

    Args:
        path: Ends in `.mgh` or `.mgz`; whether the bytes are gzip is seen from them.
        digest: Is given the bytes too.

    Returns:
        (C, X, Y, Z): the frames are the channels; integers as stored, floats as float32.

    Raises:
        ImageFileError: The file is missing, is not MGH, is cut off or damaged.
    """
    raw = inflate_gzip(read_contents(path, digest), path)
    if len(raw) < HEADER_BYTES or raw[:4] != VERSION:
        require_image(raw, path)
        what = f"the file is not MGH (it starts with {raw[:8]!r})"
        raise ImageFileError("unreadable", what, path, "convert it to .nii.gz")
    try:
        header: Any = MGHHeader(raw[:HEADER_BYTES], check=False)  # type: ignore[no-untyped-call]
        shape = tuple(int(size) for size in header["dims"])
        dtype = header.get_data_dtype()
        affine = np.array(header.get_affine(), dtype=np.float64)
        sizes = [float(size) for size in header["delta"]]
    except (HeaderDataError, KeyError, ValueError) as error:
        what = f"the MGH header is damaged: {error}"
        raise ImageFileError("unreadable", what, path, "export the file again") from error
    if min(shape) < 1:
        what = f"shape is {shape}, expected at least 1 voxel along each axis"
        raise ImageFileError("shape_invalid", what, path, "export the file again")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        what = f"the affine {affine[:3].round(4).tolist()} maps the grid to no space"
        raise ImageFileError("geometry_invalid", what, path, "export the file again with its geometry")
    needed = HEADER_BYTES + math.prod(shape) * dtype.itemsize  # scan parameters and tags may follow
    if len(raw) < needed:
        what = f"the file holds {len(raw)} bytes, its header promises {needed}"
        raise ImageFileError("truncated", what, path, COPY_AGAIN)
    stored = np.frombuffer(raw, dtype, math.prod(shape), HEADER_BYTES).reshape(shape, order="F")
    remarks: tuple[Finding, ...]
    if raw[RAS_FLAG] == bytes(2):
        affine = _default_affine(shape)
        remarks = (NO_DIRECTIONS,)
    else:
        remarks = find_spacing_conflict(affine, sizes)
    return StoredImage(to_native(np.moveaxis(stored, -1, 0)), affine, remarks=remarks)


def _default_affine(shape: tuple[int, ...]) -> Affine:
    """FreeSurfer's for a header without directions; nibabel's has Y and Z the other way round."""
    affine = np.eye(4)
    affine[:3, :3] = DEFAULT_COLUMNS
    affine[:3, 3] = -affine[:3, :3] @ np.array(shape[:3]) / 2
    return affine + 0.0  # no negative zeros
