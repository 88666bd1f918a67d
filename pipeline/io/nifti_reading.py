"""The bytes of a NIfTI file, checked before a voxel of it is believed."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from pipeline.errors import ImageFileError
from pipeline.io.stored import COPY_AGAIN, Digest, StoredImage, read_contents, require_image
from pipeline.volume import Affine, corner_distance_mm

Header = Any  # nibabel.Nifti1Header or Nifti2Header, which carry no types

FOREIGN_UNITS = {1: "metres", 3: "micrometres"}  # NIFTI_UNITS_METER, NIFTI_UNITS_MICRON

_QUIET = logging.getLogger("segtrail.nifti")  # nibabel tells of every header that it mends
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


def read_nifti(path: Path, digest: Digest | None = None) -> StoredImage:
    """Reads a `.nii` or `.nii.gz` file (NIfTI-1 or NIfTI-2, either byte order).

    Whether the bytes are gzip is seen from the bytes, not from the name.

    Args:
        path: The file.
        digest: Is given the bytes too.

    Returns:
        The affine is the sform if coded, else the qform, else spacing about the centre.

    Raises:
        ImageFileError: The file is missing, or is not one whole and sane NIfTI image.
    """
    raw = _inflate(read_contents(path, digest), path)
    header = parse_header(raw, path)
    shape = voxel_shape(header, path)
    affine, conflict = _affine(header, shape, path)
    return StoredImage(np.moveaxis(_voxels(raw, header, shape, path), -1, 0), affine, conflict)


def _inflate(contents: bytes, path: Path) -> bytes:
    if contents[:2] != b"\x1f\x8b":
        return contents
    try:
        return gzip.decompress(contents)  # reads to the end of every member: length and CRC are compared
    except EOFError as error:
        what = f"the gzip stream is cut off after {len(contents)} bytes"
        raise ImageFileError("truncated", what, path, COPY_AGAIN) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ImageFileError("corrupt", f"the gzip stream is damaged: {error}", path, COPY_AGAIN) from error


def parse_header(raw: bytes, path: Path) -> Header:
    """Takes the first bytes of an unpacked NIfTI file as its header.

    Raises:
        ImageFileError: They are no NIfTI header, or a damaged one.
    """
    if raw[344:348] == b"n+1\0":
        header: Header = nibabel.Nifti1Header(raw[:348], check=False)  # type: ignore[no-untyped-call]
    elif raw[4:8] == b"n+2\0" and len(raw) >= 540:
        header = nibabel.Nifti2Header(raw[:540], check=False)  # type: ignore[no-untyped-call]
    else:
        require_image(raw, path)
        raise _foreign(raw, path)
    zero = [i for i in range(1, 1 + min(int(header["dim"][0]), 3)) if not header["pixdim"][i]]
    if zero and not header["sform_code"]:  # readers would take 1 mm without a word
        what = f"the voxel size is 0 mm along axis {zero[0]} (pixdim), and there is no sform"
        raise ImageFileError("geometry_invalid", what, path, "export the file again with its voxel size")
    units = int(header["xyzt_units"]) & 7
    if units in FOREIGN_UNITS:  # SimpleITK converts them, nibabel does not
        what = f"spacing is in {FOREIGN_UNITS[units]}, expected mm"
        raise ImageFileError("geometry_invalid", what, path, "export the file again in mm")
    try:
        header.check_fix(logger=_QUIET, error_level=40)
    except HeaderDataError as error:
        what = f"the NIfTI header is damaged: {error}"
        raise ImageFileError("unreadable", what, path, "export the file again") from error
    return header


def _foreign(raw: bytes, path: Path) -> ImageFileError:
    if raw[344:348] == b"ni1\0":
        what, fix = "the file is one half of a .hdr/.img pair", "convert the pair to one .nii.gz file"
    else:
        what, fix = f"the file is not NIfTI (it starts with {raw[:8]!r})", "convert it to .nii.gz"
    return ImageFileError("unreadable", what, path, fix)


def voxel_shape(header: Header, path: Path) -> tuple[int, int, int, int]:
    """The shape as (X, Y, Z, C); axes of length 1 are added or dropped after the third."""
    try:
        shape = tuple(int(n) for n in header.get_data_shape())
    except HeaderDataError as error:
        raise ImageFileError(
            "unreadable", f"the header's shape is damaged: {error}", path, "export it again"
        ) from error
    if len(shape) < 2 or min(shape) < 1:
        what = f"shape is {shape}, expected at least 1 voxel along each of 2 to 4 axes"
        raise ImageFileError("shape_invalid", what, path, "export the file again")
    spatial, rest = (*shape, 1)[:3], [n for n in shape[3:] if n > 1]
    if len(rest) > 1:
        what = f"shape is {shape}, expected X, Y, Z and at most one axis of channels"
        raise ImageFileError(
            "shape_invalid", what, path, "store channels on the fourth axis, time points as cases"
        )
    return spatial[0], spatial[1], spatial[2], rest[0] if rest else 1


def _affine(header: Header, shape: tuple[int, ...], path: Path) -> tuple[Affine, float]:
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
        affine = np.array(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise ImageFileError(
            "geometry_invalid", f"the affine is damaged: {error}", path, "export it again"
        ) from error
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        what = f"the affine {affine[:3].round(4).tolist()} maps the grid to no space"
        raise ImageFileError("geometry_invalid", what, path, "export the file again with its geometry")
    conflict = 0.0 if sform is None or qform is None else corner_distance_mm(shape[:3], sform, qform)
    return affine, conflict


def _voxels(raw: bytes, header: Header, shape: tuple[int, ...], path: Path) -> NDArray[Any]:
    dtype, offset = header.get_data_dtype(), header.get_data_offset()
    if dtype.kind not in "iuf":
        what = f"voxels are {dtype}, expected integers or floats"
        raise ImageFileError(
            "unreadable", what, path, "store colours as channels, complex numbers as magnitude"
        )
    needed = offset + math.prod(shape) * dtype.itemsize
    if len(raw) < needed:
        what = f"the file holds {len(raw)} bytes, its header promises {needed}"
        raise ImageFileError("truncated", what, path, COPY_AGAIN)
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError as error:
        raise ImageFileError(
            "unreadable", f"the scale factor is damaged: {error}", path, "export it again"
        ) from error
    stored = np.frombuffer(raw, dtype, math.prod(shape), offset).reshape(shape, order="F")
    if slope is None or (slope == 1 and inter in (0, None)):
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes Inf, and is refused as such
            return stored.astype(np.float32 if dtype.kind == "f" else dtype.newbyteorder("="), order="K")
    scaled = np.empty(shape, np.float32, order="F")
    for z in range(shape[2]):  # slice by slice: the float64 in between stays small
        scaled[:, :, z] = stored[:, :, z].astype(np.float64) * slope + (inter or 0.0)
    return scaled
