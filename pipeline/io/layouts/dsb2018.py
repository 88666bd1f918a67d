"""Layout `dsb2018` (Data Science Bowl 2018, BBBC038): a folder an image, with one PNG mask a nucleus.

Source: Caicedo et al., Nucleus segmentation across imaging experiments, Nature Methods 16:1247-1253 (2019).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.cases import CaseRecord, Finding
from pipeline.config import InspectParams
from pipeline.errors import ImageFileError
from pipeline.io.dataset import DatasetFacts, Listing, read_patients, read_table
from pipeline.io.images import COLOURS, read_image_file
from pipeline.io.references import OBJECT, Piece, References, crop, overlap_findings, paint, shorten
from pipeline.io.stored import StoredImage

GREY_COLOUR_TYPES = (0, 4)  # of the PNG header: grey, grey with alpha


def list_dataset(folder: Path) -> Listing:
    """Lists the cases of a folder `stage1_train/<ImageId>/{images,masks}`, or `<ImageId>/{images,masks}`.

    A case is an image, under its own id. Each is a patient of its own, unless `groups.csv` (case_id,
    patient_id, optionally site) says otherwise; without it the site is the column `type` of
    `image_types.csv` (image_id, type), if that is there. Channels are always R, G, B: a grey image is named
    once a channel.
    """
    listing = Listing(folder)
    listing.facts = DatasetFacts(
        folder.name,
        COLOURS,
        {"background": 0, "nucleus": OBJECT},
        "Microscopy images with one mask a nucleus; a pixel of several masks belongs to the smallest.",
    )
    root = folder / "stage1_train"
    root = root if root.is_dir() else folder
    cases = {path.name: path for path in sorted(root.iterdir()) if _is_case(path)}
    groups = read_patients(folder / "groups.csv", cases.keys(), listing)
    types = _read_types(folder / "image_types.csv", listing)
    for case_id, path in cases.items():
        patient_id, site = groups.get(case_id, (case_id, types.get(case_id, "")))
        images = _images(path, listing)
        listing.records.append(CaseRecord(case_id, patient_id, site, images, label="", instances=""))
        listing.references[case_id] = partial(build_references, path / "masks")
    return listing


def build_references(masks: Path, image: StoredImage, params: InspectParams) -> References:
    """Makes the instance map of one image from its mask files, in the order of their names.

    Args:
        masks: Folder of the masks: what is not 0 belongs to the nucleus. An empty one is an image without any.
        image: The image that the masks must fit.
        params: Play no role here.

    Returns:
        Without maps when the folder is missing, or a mask is empty, unreadable or of another size.
    """
    if not masks.is_dir():
        what = f"there is no folder {masks.name} beside the image; an image without nuclei has an empty one"
        return References(findings=(Finding("missing", what),))
    problems: dict[str, list[str]] = {}
    pieces, names = [], []
    for path in sorted(masks.glob("*.png")):
        if path.name.startswith("."):
            continue
        try:
            pieces.append(_read_mask(path, image))
            names.append(path.name)
        except ImageFileError as problem:
            problems.setdefault(problem.code, []).append(f"{path.name}: {problem.what}")
    if problems:
        found = tuple(Finding(code, f"mask {shorten(texts)}") for code, texts in problems.items())
        return References(findings=found)
    instances, ids, shared = paint(pieces, image.array.shape[1:])
    return References(instances, findings=tuple(overlap_findings(ids, names, shared)))


def _read_mask(path: Path, image: StoredImage) -> Piece:
    mask: NDArray[np.bool_] = np.any(read_image_file(path)[0].array, axis=0)
    width, height, _ = image.array.shape[1:]
    if mask.shape != image.array.shape[1:]:
        what = f"it has {mask.shape[0]} x {mask.shape[1]} pixels, its image {width} x {height}"
        raise ImageFileError("geometry_mismatch", what, path, "export the mask again in the image's size")
    piece = crop(mask)
    if piece is None:
        what = f"0 of {mask.size} pixels are set, expected at least 1"
        raise ImageFileError("empty_mask", what, path, "remove the file, or draw the nucleus")
    return piece


def _is_case(path: Path) -> bool:
    there = (path / "images").is_dir() or (path / "masks").is_dir()
    return there and not path.name.startswith(".")


def _images(path: Path, listing: Listing) -> tuple[str, ...]:
    """The one image of a case, once; a grey one once a channel."""
    found = [image for image in sorted(path.glob("images/*.png")) if not image.name.startswith(".")]
    if len(found) > 1:
        what = f"{len(found)} images ({shorten([image.name for image in found])}), expected one"
        listing.problem(what, f"case {path.name}, {path / 'images'}", "keep one image in the folder")
    image = found[0] if found else path / "images" / f"{path.name}.png"
    return (image.as_posix(),) * (len(COLOURS) if _is_grey(image) else 1)


def _is_grey(path: Path) -> bool:
    """Whether a PNG says so in its header; False when there is none, which shows when it is read."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        header = stream.read(26)
    return header[12:16] == b"IHDR" and len(header) == 26 and header[25] in GREY_COLOUR_TYPES


def _read_types(path: Path, listing: Listing) -> dict[str, str]:
    if not path.exists():
        return {}
    return {row["image_id"]: row["type"] for row in read_table(path, ("image_id", "type"), listing)}
