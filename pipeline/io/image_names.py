"""Names of images: the suffixes of every format, and `file.h5#name` or `file.h5#name[3]` in an HDF5 file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

HDF5_SUFFIXES = (".h5", ".hdf5")
NIFTI_SUFFIXES = (".nii.gz", ".nii")
PAIR_SUFFIXES = (".hdr", ".hdr.gz", ".img", ".img.gz")  # either half stands for both
METAIMAGE_SUFFIXES = (".mhd", ".mha")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
MGH_SUFFIXES = (".mgz", ".mgh")
TIFF_SUFFIXES = (".tif", ".tiff")
PICTURE_SUFFIXES = (".png", *TIFF_SUFFIXES, ".jpg", ".jpeg", ".gif")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *PAIR_SUFFIXES, *METAIMAGE_SUFFIXES, *NRRD_SUFFIXES, *MGH_SUFFIXES)
IMAGE_SUFFIXES = (*VOLUME_SUFFIXES, *HDF5_SUFFIXES, *PICTURE_SUFFIXES)
HDF5_NAME = re.compile(
    r"(?P<file>.*?\.(?:h5|hdf5))(?:#(?P<name>.+?)(?:\[(?P<index>\d{1,9})\])?)?", re.IGNORECASE
)


@dataclass(frozen=True)
class Hdf5Name:
    """One data set of an HDF5 file.

    Attributes:
        file: The file.
        name: Of the data set, with the groups it lies in ("scan/image"); "" = the only one, or `image`.
        index: Place along the first axis of a stack; None = all of the data set.
    """

    file: Path
    name: str = ""
    index: int | None = None


def parse_hdf5_name(path: Path) -> Hdf5Name | None:
    """Takes a name apart; None when it names nothing in an HDF5 file.

    A file that exists under just this name is that file, whatever is in the name.
    """
    match = HDF5_NAME.fullmatch(path.as_posix())
    if match is None or (path.exists() and not path.name.lower().endswith(HDF5_SUFFIXES)):
        return None
    index = match["index"]
    return Hdf5Name(Path(match["file"]), match["name"] or "", None if index is None else int(index))


def file_of(path: Path) -> Path:
    """The file or folder that must exist for an image: `file` of `file.h5#name`, `folder` of `folder#series`."""
    inside = parse_hdf5_name(path)
    if inside is not None:
        return inside.file
    folder, mark, _ = path.name.rpartition("#")
    return path.with_name(folder) if mark and folder and path.with_name(folder).is_dir() else path


def image_suffix(path: Path) -> str:
    """Suffix of IMAGE_SUFFIXES that a file's name ends in, in any case; "" when it is none of them."""
    name = file_of(path).name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), "")


def image_stem(path: Path) -> str:
    """Name of a file without its image suffix, or of a folder; `file_name_3` of `file.h5#name[3]`."""
    if path.is_dir():
        return path.resolve().name  # "." has a name too
    file, inside = file_of(path), parse_hdf5_name(path)
    parts = [file.name[: len(file.name) - len(image_suffix(path))]]
    if inside is not None:
        parts += [inside.name.strip("/").replace("/", "_")] if inside.name else []
        parts += [] if inside.index is None else [str(inside.index)]
    return "_".join(parts)
