"""NIfTI files on a given grid: the geometry of the source kept bit by bit."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageFileError, SegtrailError
from pipeline.io.nifti_reading import Header, parse_header, voxel_shape
from pipeline.io.stored import COPY_AGAIN, read_contents, write_whole
from pipeline.volume import Affine, corner_distance_mm

GEOMETRY_FIELDS = (
    *("xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
SAME_GRID_MM = 1e-3  # float32 headers of one grid differ by less
SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT
MILLIMETRES = 2  # NIFTI_UNITS_MM


def write_nifti(array: NDArray[Any], affine: Affine, path: Path, like: Path | None) -> None:
    """Writes (C, X, Y, Z) voxels through a temporary file; see `pipeline.io.nifti.save_label_map`.

    Raises:
        SegtrailError: The grid is not that of `like`, or the file cannot be written.
    """
    header = _build_header(array.shape, affine, path, like)
    dtype = np.dtype(np.uint8) if array.dtype == bool else array.dtype
    header.set_data_dtype(dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = len(header.binaryblock) + 4
    voxels = np.moveaxis(array, 0, -1).astype(dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    data = header.binaryblock + bytes(4) + voxels  # four zero bytes: no extensions
    if path.name.endswith(".gz"):
        data = gzip.compress(data, compresslevel=6, mtime=0)  # no time stamp: equal voxels, equal bytes
    write_whole(data, path)


def _build_header(shape: tuple[int, ...], affine: Affine, path: Path, like: Path | None) -> Header:
    """A header for (C, X, Y, Z) voxels; nothing but geometry is taken from `like` (no names, no dates)."""
    header: Header = nibabel.Nifti1Header(endianness="<")  # type: ignore[no-untyped-call]
    header["xyzt_units"] = MILLIMETRES
    dims = (*shape[1:], shape[0]) if shape[0] > 1 else shape[1:]
    if like is not None:
        source = _load_header(like)
        _require_grid_of(source, shape[1:], affine, path, like)
        header = _copy_geometry(source, header)
        if int(source["dim"][0]) == 2 and shape[0] == 1:
            dims = dims[:2]
    header.set_data_shape(dims)
    _complete_forms(header, shape[1:], affine)
    return header


def _load_header(path: Path) -> Header:
    contents = read_contents(path)
    if contents[:2] == b"\x1f\x8b":
        try:
            contents = zlib.decompressobj(wbits=31).decompress(contents, 540)
        except zlib.error as error:
            what = f"the gzip stream is damaged: {error}"
            raise ImageFileError("corrupt", what, path, COPY_AGAIN) from error
    return parse_header(contents, path)


def _copy_geometry(source: Header, header: Header) -> Header:
    """Copies spacing and forms; the result is NIfTI-2 when float32 would change them."""
    header["pixdim"][:4] = source["pixdim"][:4]
    for name in GEOMETRY_FIELDS:
        header[name] = source[name]
    spacing_kept = np.array_equal(header["pixdim"][:4], source["pixdim"][:4])
    if spacing_kept and all(np.array_equal(header[name], source[name]) for name in GEOMETRY_FIELDS):
        return header
    if isinstance(header, nibabel.Nifti2Header):
        return header
    return _copy_geometry(source, nibabel.Nifti2Header(endianness="<"))  # type: ignore[no-untyped-call]


def _require_grid_of(source: Header, shape: tuple[int, ...], affine: Affine, path: Path, like: Path) -> None:
    own = voxel_shape(source, like)[:3]
    moved = corner_distance_mm(shape, affine, source.get_best_affine()) if own == shape else math.inf
    if moved > SAME_GRID_MM:
        what = f"shape {shape} lies {moved:.3g} mm from the grid of {like} (shape {own}), expected that grid"
        raise SegtrailError(what, str(path), f"bring the label map back to the grid of {like} first")


def _complete_forms(header: Header, shape: tuple[int, ...], affine: Affine) -> None:
    """Makes sform and qform both present and equal, as far as the affine's bits allow it."""
    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    if sform is None and qform is None:
        header.set_sform(affine, SCANNER)
        _set_qform(header, shape, affine, SCANNER)
    elif qform is None or (sform is not None and corner_distance_mm(shape, sform, qform) > SAME_GRID_MM):
        _set_qform(header, shape, affine, int(header["sform_code"]))
    elif sform is None:
        # An sform is float32, a qform's affine is not: coded only where it takes nothing away.
        exact = np.array_equal(affine.astype(np.float32), affine)
        header.set_sform(affine, int(header["qform_code"]) if exact else 0)


def _set_qform(header: Header, shape: tuple[int, ...], affine: Affine, code: int) -> None:
    spacing = header["pixdim"][1:4].copy()
    header.set_qform(affine, code, strip_shears=True)
    if np.allclose(header["pixdim"][1:4], spacing, rtol=1e-5, atol=0):
        header["pixdim"][1:4] = spacing
    if corner_distance_mm(shape, affine, header.get_qform()) > SAME_GRID_MM:
        header["qform_code"] = 0  # a sheared affine has no qform; a wrong one is worse than none
