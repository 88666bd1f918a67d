"""The door to images of every format: what stands above reads and writes voxels and knows no format.

A folder is a DICOM series; a file is what its suffix says. Pictures (PNG, TIFF, JPEG) are volumes of one
slice: X is the column, Y the row, the affine is the identity, so that 1 mm stands for 1 pixel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ImageFileError, SegtrailError
from pipeline.io import nifti
from pipeline.io.stored import Digest, StoredImage, count_not_finite, to_label_map
from pipeline.volume import SAME_GRID_MM, LabelMap, Volume, axis_codes, corner_distance_mm

__all__ = [
    "COLOURS",
    "IMAGE_SUFFIXES",
    "PICTURE_SUFFIXES",
    "StoredImage",
    "count_not_finite",
    "find_images",
    "image_stem",
    "image_suffix",
    "is_colour_picture",
    "load_label_map",
    "load_volume",
    "prediction_suffix",
    "read_image_file",
    "save_instance_map",
    "save_label_map",
    "to_label_map",
]

NIFTI_SUFFIXES = (".nii.gz", ".nii")
METAIMAGE_SUFFIXES = (".mhd", ".mha")
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
COLOURS = ("R", "G", "B")  # channel names of a picture in colours
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, *PICTURE_SUFFIXES, *METAIMAGE_SUFFIXES)

Reader = Callable[[Path, Digest | None], StoredImage]


def load_volume(paths: Sequence[Path]) -> Volume:
    """Reads one image: one file a channel, or one file with all channels.

    Args:
        paths: Files, or folders of a DICOM series each, in the order of the channels.

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
        Integer labels (X, Y, Z); see `pipeline.io.stored.to_label_map`.

    Raises:
        SegtrailError: As for `load_volume`; or several channels, or values that are not whole numbers.
    """
    return to_label_map(_reader(path)(path, None), path)


def read_image_file(path: Path) -> tuple[StoredImage, str]:
    """Reads one file, or one folder of a DICOM series, once.

    Returns:
        The voxels; and the sha256 (hex) of all bytes they come from: of a `.mhd` the header, then the data
        file; of a DICOM series its slices in the order of their names.

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


def image_suffix(path: Path) -> str:
    """Suffix of IMAGE_SUFFIXES that a file's name ends in, in any case; "" when it is none of them."""
    name = path.name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), "")


def image_stem(path: Path) -> str:
    """Name of a file without its image suffix, or of a folder."""
    if path.is_dir():
        return path.resolve().name  # "." has a name too
    return path.name[: len(path.name) - len(image_suffix(path))]


def prediction_suffix(images: Sequence[Path]) -> str:
    """Suffix of what is predicted for an image: `.png` for a picture, otherwise `.nii.gz`."""
    return ".png" if image_suffix(images[0]) in PICTURE_SUFFIXES else ".nii.gz"


def is_colour_picture(path: Path) -> bool:
    """Whether a file is a picture in colours, so that it holds several channels; only its header is read."""
    if image_suffix(path) not in PICTURE_SUFFIXES:
        return False
    from pipeline.io.raster import is_colour

    return is_colour(path)


def find_images(folder: Path) -> Iterator[Path]:
    """Image files and folders of DICOM series below a folder, itself included, by path; hidden ones left out."""
    from pipeline.io.dicom_slices import is_dicom_series

    for path in (folder, *sorted(folder.rglob("*"))):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if is_dicom_series(path) or (image_suffix(path) and path.is_file()):
            yield path


def _save(label_map: LabelMap, path: Path, like: Path | None, bits: int) -> None:
    if image_suffix(path) == ".png":
        from pipeline.io.raster import write_png

        write_png(label_map.array, path, bits)
    else:
        same_format = like is not None and image_suffix(like) in NIFTI_SUFFIXES
        nifti.save_label_map(label_map, path, like if same_format else None)


def _reader(path: Path) -> Reader:
    """The reader of a path's format; the libraries of the other formats are not imported."""
    if path.is_dir():
        from pipeline.io.dicom import read_dicom_series

        return read_dicom_series
    suffix = image_suffix(path)
    if suffix in NIFTI_SUFFIXES:
        from pipeline.io.nifti_reading import read_nifti

        return read_nifti
    if suffix in METAIMAGE_SUFFIXES:
        from pipeline.io.metaimage import read_metaimage

        return read_metaimage
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
