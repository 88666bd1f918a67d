"""The door to images of every format: what stands above reads and writes voxels and knows no format.

A folder is a DICOM series, `FOLDER#UID` one of several in it; a file is what its suffix says. Pictures (PNG, TIFF,
JPEG, GIF) are volumes of one slice, a TIFF of several pages is one of several: X is the column, Y the row, the affine
is the identity, so that 1 mm stands for 1 pixel. `FILE.h5#NAME` is a data set of an HDF5 file, `FILE.h5#NAME[3]` one
entry of a stack.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ImageFileError, SegtrailError
from pipeline.io import nifti
from pipeline.io.image_names import (
    HDF5_SUFFIXES,
    IMAGE_SUFFIXES,
    METAIMAGE_SUFFIXES,
    MGH_SUFFIXES,
    NIFTI_SUFFIXES,
    NRRD_SUFFIXES,
    PAIR_SUFFIXES,
    PICTURE_SUFFIXES,
    TIFF_SUFFIXES,
    file_of,
    image_stem,
    image_suffix,
)
from pipeline.io.stored import Digest, StoredImage, count_not_finite, round_labels, to_label_map
from pipeline.volume import SAME_GRID_MM, LabelMap, Volume, axis_codes, corner_distance_mm

__all__ = [
    "COLOURS",
    "IMAGE_SUFFIXES",
    "PICTURE_SUFFIXES",
    "StoredImage",
    "count_not_finite",
    "file_of",
    "find_images",
    "image_stem",
    "image_suffix",
    "is_colour_picture",
    "is_series",
    "load_label_map",
    "load_volume",
    "prediction_suffix",
    "read_image_file",
    "round_labels",
    "save_instance_map",
    "save_label_map",
    "to_label_map",
]

COLOURS = ("R", "G", "B")  # channel names of a picture in colours

Reader = Callable[[Path, Digest | None], StoredImage]


def load_volume(paths: Sequence[Path]) -> Volume:
    """Reads one image: one file a channel, or one file with all channels.

    Args:
        paths: Files, data sets of HDF5 files, or folders of a DICOM series each, in the order of the channels.

    Returns:
        (C, X, Y, Z): integers as stored when nothing scales them to fractions, otherwise float32. A 2D image
        has Z = 1. The affine is that of the first file.

    Raises:
        SegtrailError: A file is missing, cut off, corrupt, of another format than its suffix says, holds NaN
            or Inf, or lies on another grid than the first.
    """
    if not paths:
        raise SegtrailError("an image needs at least one file, got none", "load_volume", "name a file")
    files = [_reader(path)(path, None) for path in paths]
    for path, file in zip(paths, files, strict=True):
        _require_finite(file, path)
        _require_same_grid(files[0], file, path)
    if len(files) == 1:
        return Volume(files[0].array, files[0].affine)
    same = len({file.array.dtype for file in files}) == 1
    arrays = [file.array if same else file.array.astype(np.float32) for file in files]
    return Volume(np.concatenate(arrays), files[0].affine)


def load_label_map(path: Path) -> LabelMap:
    """Reads a label map or an instance map.

    Returns:
        Integer labels (X, Y, Z); see `pipeline.io.stored.round_labels`.

    Raises:
        SegtrailError: As for `load_volume`; or several channels, or values that are not whole numbers.
    """
    return to_label_map(_reader(path)(path, None), path)


def read_image_file(path: Path) -> tuple[StoredImage, str]:
    """Reads one file, or one folder of a DICOM series, once.

    Returns:
        The voxels; and the sha256 (hex) of all bytes they come from: of a header (`.mhd`, `.nhdr`, `.hdr`) its own,
        then those of the data file; of a DICOM series its slices in the order of their names; of an HDF5 data set
        its name, type, geometry and voxels.

    Raises:
        ImageFileError: The image cannot be read.
    """
    digest = hashlib.sha256()
    return _reader(path)(path, digest), digest.hexdigest()


def save_label_map(label_map: LabelMap, path: Path, like: Path | None = None) -> None:
    """Writes a label map, whole or not at all; the same input gives the same bytes.

    Args:
        label_map: (X, Y, Z).
        path: Ends in `.nii.gz` (or `.nii`), stored in the smallest integer type; or, of a single slice, in
            `.png`, stored in 8 bits.
        like: Image whose grid this is. The geometry fields of a NIfTI file are kept bit by bit; of other
            formats the affine says it all.

    Raises:
        SegtrailError: The grid is not that of the NIfTI file `like`, a PNG cannot hold the labels, or the
            file cannot be written.
    """
    _save(label_map, path, like, 8)


def save_instance_map(instances: LabelMap, path: Path, like: Path | None = None) -> None:
    """Writes a map of ids as `save_label_map` does; a PNG has 16 bits."""
    _save(instances, path, like, 16)


def prediction_suffix(images: Sequence[Path]) -> str:
    """Suffix of what is predicted for an image: `.png` for a picture of one page, otherwise `.nii.gz`."""
    suffix = image_suffix(images[0])
    if suffix in TIFF_SUFFIXES:
        from pipeline.io.raster import is_stack

        return ".nii.gz" if is_stack(images[0]) else ".png"
    return ".png" if suffix in PICTURE_SUFFIXES else ".nii.gz"


def is_colour_picture(path: Path) -> bool:
    """Whether a file is a picture in colours, so that it holds several channels; only its header is read."""
    if image_suffix(path) not in PICTURE_SUFFIXES:
        return False
    from pipeline.io.raster import is_colour

    return is_colour(path)


def is_series(path: Path) -> bool:
    """Whether a path stands for a DICOM series: its folder, or `FOLDER#UID` of one among several."""
    folder, mark, _ = path.name.rpartition("#")
    return path.is_dir() or (bool(mark) and path.with_name(folder or ".").is_dir())


def find_images(folder: Path) -> Iterator[Path]:
    """Image files and folders of DICOM series below a folder, itself included, by path.

    Hidden ones are left out, and so is the second half of a `.hdr`/`.img` pair. Of an HDF5 file only the file is
    listed.
    """
    from pipeline.io.dicom_slices import is_dicom_series

    for path in (folder, *sorted(folder.rglob("*"))):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if is_dicom_series(path) or (image_suffix(path) and path.is_file() and not _is_second_half(path)):
            yield path


def _is_second_half(path: Path) -> bool:
    if image_suffix(path) not in PAIR_SUFFIXES:
        return False
    from pipeline.io.nifti_reading import halves_of

    header, data = halves_of(path)
    return path == data and header.exists()


def _save(label_map: LabelMap, path: Path, like: Path | None, bits: int) -> None:
    if image_suffix(path) == ".png":
        from pipeline.io.raster import write_png

        write_png(label_map.array, path, bits)
    else:
        same_format = like is not None and image_suffix(like) in NIFTI_SUFFIXES
        nifti.save_label_map(label_map, path, like if same_format else None)


def _reader(path: Path) -> Reader:
    """The reader of a path's format; the libraries of the other formats are not imported."""
    if is_series(path):
        from pipeline.io.dicom import read_dicom_series

        return read_dicom_series
    suffix = image_suffix(path)
    if suffix in NIFTI_SUFFIXES or suffix in PAIR_SUFFIXES:
        from pipeline.io.nifti_reading import read_nifti

        return read_nifti
    if suffix in METAIMAGE_SUFFIXES:
        from pipeline.io.metaimage import read_metaimage

        return read_metaimage
    if suffix in NRRD_SUFFIXES:
        from pipeline.io.nrrd import read_nrrd

        return read_nrrd
    if suffix in MGH_SUFFIXES:
        from pipeline.io.mgh import read_mgh

        return read_mgh
    if suffix in HDF5_SUFFIXES:
        from pipeline.io.hdf5 import read_hdf5

        return read_hdf5
    if suffix in PICTURE_SUFFIXES:
        from pipeline.io.raster import read_picture

        return read_picture
    what = f"{path.suffix or 'this'} is no image suffix, expected one of {', '.join(IMAGE_SUFFIXES)}"
    raise ImageFileError("unreadable", what, path, "convert it to .nii.gz")


def _require_finite(file: StoredImage, path: Path) -> None:
    bad = count_not_finite(file.array)
    if bad:
        what = f"{bad} of {file.array.size} voxels are NaN or Inf"
        raise ImageFileError("not_finite", what, path, "export the image again, or leave the case out")


def _require_same_grid(first: StoredImage, file: StoredImage, path: Path) -> None:
    if first.array.shape[1:] != file.array.shape[1:]:
        what = f"shape is {file.array.shape[1:]}, the first channel has {first.array.shape[1:]}"
    elif (moved := corner_distance_mm(first.array.shape, first.affine, file.affine)) > SAME_GRID_MM:
        what = (
            f"grid ({axis_codes(file.affine)}) lies {moved:.3g} mm from that of the first channel "
            f"({axis_codes(first.affine)}), at most {SAME_GRID_MM} mm"
        )
    else:
        return
    raise ImageFileError("geometry_mismatch", what, path, "resample all channels of a case to one grid")
