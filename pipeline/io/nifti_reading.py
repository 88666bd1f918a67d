"""The bytes of a NIfTI file, checked before a voxel of it is believed."""

from __future__ import annotations

import logging
import math
import re
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1PairHeader
from nibabel.nifti2 import Nifti2PairHeader
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

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
from pipeline.volume import Affine, corner_distance_mm

Header = Any  # nibabel.Nifti1Header or Nifti2Header, which carry no types

SINGLE_HEADERS: tuple[Any, Any] = (nibabel.Nifti1Header, nibabel.Nifti2Header)
PAIR_HEADERS: tuple[Any, Any] = (Nifti1PairHeader, Nifti2PairHeader)
HALF = re.compile(r"\.(hdr|img)(\.gz|)$", re.IGNORECASE)
NO_FORM = Finding(
    ORIENTATION_UNKNOWN,
    "the header has a voxel size but no orientation (sform_code and qform_code are 0); axes are taken as LAS",
    fatal=False,
)
ANALYZE_BYTES = 348  # of a header file, and the first number in it
FOREIGN_UNITS = {1: "metres", 3: "micrometres"}  # NIFTI_UNITS_METER, NIFTI_UNITS_MICRON

_QUIET = logging.getLogger("segtrail.nifti")  # nibabel tells of every header that it mends
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


def read_nifti(path: Path, digest: Digest | None = None) -> StoredImage:
    """Reads a `.nii` or `.nii.gz` file, or a pair of `.hdr` and `.img` (NIfTI-1 or NIfTI-2, either byte order).

    Whether the bytes are gzip is seen from the bytes, not from the name.

    Args:
        path: The file; of a pair either half.
        digest: Is given the bytes too, of a pair those of the header first.

    Returns:
        The affine is the sform if coded, else the qform, else spacing about the centre.

    Raises:
        ImageFileError: The file is missing, or is not one whole and sane NIfTI image.
    """
    header_path, data_path = halves_of(path)
    raw = inflate_gzip(read_contents(header_path, digest), header_path)
    header = parse_header(raw, header_path, paired=data_path != header_path)
    shape = voxel_shape(header, header_path)
    affine, conflict = _affine(header, shape, header_path)
    remarks = (*_find_remarks(raw, header, affine), *_dropped_axes(header, shape))
    if data_path != header_path:
        raw = inflate_gzip(read_contents(data_path, digest), data_path)
        require_image(raw, data_path)
    voxels = np.moveaxis(_voxels(raw, header, shape, data_path), -1, 0)
    return StoredImage(voxels, affine, conflict, remarks)


def _dropped_axes(header: Header, shape: tuple[int, int, int, int]) -> tuple[Finding, ...]:
    """Tells of axes of length 1 beyond the third, which hold nothing."""
    there, taken = header.get_data_shape(), shape if shape[3] > 1 else shape[:3]
    if len(there) <= len(taken):
        return ()
    before, after = (" x ".join(map(str, axes)) for axes in (there, taken))
    what = f"shape is {before}, taken as {after}"
    return (Finding("axis_dropped", what, fatal=False, measured=before, limit=after, fixed=True),)


def _find_remarks(raw: bytes, header: Header, affine: Affine) -> tuple[Finding, ...]:
    if header["qform_code"]:
        return ()  # it is compared with the sform as a whole
    if not header["sform_code"]:
        return (NO_FORM,)
    stored = type(header)(
        raw[: header.sizeof_hdr], check=False
    )  # nibabel has mended sizes of 0 to 1 in the other
    return find_spacing_conflict(affine, np.abs(stored["pixdim"][1:4]).tolist())


def halves_of(path: Path) -> tuple[Path, Path]:
    """Files of header and voxels: the same one, unless the name is one of a `.hdr`/`.img` pair."""
    match = HALF.search(path.name)
    if match is None:
        return path, path
    stem, half, gz = path.name[: match.start()], match[1], match[2]
    other = {"hdr": "img", "img": "hdr"}[half.lower()]
    other = other.upper() if half.isupper() else other
    partner = next(
        (found for end in (gz, ".gz", "") if (found := path.with_name(f"{stem}.{other}{end}")).exists()),
        path.with_name(f"{stem}.{other}{gz}"),
    )
    return (path, partner) if half.lower() == "hdr" else (partner, path)


def parse_header(raw: bytes, path: Path, paired: bool = False) -> Header:
    """Takes the first bytes of an unpacked NIfTI file as its header.

    Args:
        raw: The bytes.
        path: The file, for messages.
        paired: Whether the voxels lie in a file of their own.

    Raises:
        ImageFileError: They are no NIfTI header, or a damaged one.
    """
    marks = (b"ni1\0", b"ni2\0") if paired else (b"n+1\0", b"n+2\0")
    first, second = PAIR_HEADERS if paired else SINGLE_HEADERS
    if raw[344:348] == marks[0]:
        header: Header = first(raw[:348], check=False)
    elif raw[4:8] == marks[1] and len(raw) >= 540:
        header = second(raw[:540], check=False)
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
    if raw[344:347] in (b"ni1", b"n+1") or raw[4:7] in (b"ni2", b"n+2"):
        what = "the file is one half of a .hdr/.img pair, or a whole NIfTI image, against its name"
        return ImageFileError("unreadable", what, path, "convert it to one .nii.gz file")
    if len(raw) == ANALYZE_BYTES and raw[:4] in (
        struct.pack("<i", ANALYZE_BYTES),
        struct.pack(">i", ANALYZE_BYTES),
    ):
        what = "the header is Analyze 7.5, which has no orientation: left and right cannot be told apart"
        fix = "convert it to .nii.gz with a program that knows how its scanner stored it"
        return ImageFileError("geometry_invalid", what, path, fix)
    what = f"the file is not NIfTI (it starts with {raw[:8]!r})"
    return ImageFileError("unreadable", what, path, "convert it to .nii.gz")


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
        return to_native(stored)
    scaled = np.empty(shape, np.float32, order="F")
    for z in range(shape[2]):  # slice by slice: the float64 in between stays small
        scaled[:, :, z] = stored[:, :, z].astype(np.float64) * slope + (inter or 0.0)
    return scaled
