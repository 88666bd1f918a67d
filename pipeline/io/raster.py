"""Pictures (PNG, TIFF, JPEG) as volumes of one slice, and label maps as PNG.

X is the column, Y the row, counted from the upper left corner; the affine is the identity: 1 mm stands for
1 pixel. A rotation noted in a JPEG's camera data (EXIF) is not applied.
"""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from pipeline.errors import ImageFileError, SegtrailError
from pipeline.io.stored import COPY_AGAIN, Digest, StoredImage, read_contents, require_image, write_whole

FORMATS = ("PNG", "TIFF", "JPEG")
# What becomes of Pillow's modes; "" is taken as it is.
MODES = {
    **dict.fromkeys(("1", "L", "I", "F", "RGB", "I;16", "I;16B", "I;16L", "I;16N"), ""),
    **dict.fromkeys(("RGBA", "RGBX", "P", "PA"), "RGB"),  # without the alpha channel, palettes as colours
    "LA": "L",
}
# What Pillow raises for damaged files.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error),
    Image.DecompressionBombError,
)

CUT = ("truncated", "incomplete", "png file (chunk")  # in what Pillow says of a file that ends too early


def read_picture(path: Path, digest: Digest | None = None) -> StoredImage:
    """Reads a picture.

    Args:
        path: PNG, TIFF or JPEG; which of them is seen from the bytes.
        digest: Is given the bytes too.

    Returns:
        (C, X, Y, 1): 1 channel for grey (8, 16 or 32 bits as stored; 1 bit as 0 and 1), 3 for colours and
        palettes; an alpha channel is dropped. Affine: the identity.

    Raises:
        ImageFileError: The file is missing, cut off or damaged, has several pages, or colours of another kind
            than 8-bit RGB.
    """
    contents = read_contents(path, digest)
    require_image(contents, path)
    try:
        with Image.open(BytesIO(contents), formats=FORMATS) as image:
            image.verify()  # the checksums of a PNG, to its last byte; it cannot be used afterwards
        with Image.open(BytesIO(contents), formats=FORMATS) as image:
            _require_one_plain_page(image, path)
            image.load()
            pixels = np.array(image.convert(MODES[image.mode]) if MODES[image.mode] else image)
    except UnidentifiedImageError as error:
        what = f"the file is no whole PNG, TIFF or JPEG (it starts with {contents[:8]!r})"
        raise ImageFileError("unreadable", what, path, COPY_AGAIN) from error
    except DAMAGED as error:
        cut = any(word in str(error).lower() for word in CUT)
        code = "truncated" if cut else "corrupt"
        raise ImageFileError(code, f"the picture is damaged: {error}", path, COPY_AGAIN) from error
    return StoredImage(_to_volume(pixels), np.eye(4))


def is_colour(path: Path) -> bool:
    """Whether a picture has colours, as its first bytes say; False when they cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return MODES.get(image.mode) == "RGB" or image.mode == "RGB"
    except DAMAGED:
        return False


def write_png(array: NDArray[np.integer[Any]], path: Path, bits: int) -> None:
    """Writes whole numbers as a grey PNG, whole or not at all; the same input gives the same bytes.

    Args:
        array: (X, Y, 1), from 0.
        path: Ends in `.png`.
        bits: 8 or 16.

    Raises:
        SegtrailError: There are several slices, a number does not fit, or the file cannot be written.
    """
    if array.shape[2] != 1:
        what = f"{array.shape[2]} slices, a PNG holds one"
        raise SegtrailError(what, str(path), "write volumes as .nii.gz")
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0 or high >= 2**bits:
        what = f"numbers from {low} to {high}, a PNG of {bits} bits holds 0 to {2**bits - 1}"
        fix = "use smaller label values, or predict from a .nii.gz file, which has no such limit"
        raise SegtrailError(what, str(path), fix)
    rows = array[:, :, 0].T.astype(np.uint8 if bits == 8 else np.uint16)
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(rows)).save(buffer, "PNG")
    write_whole(buffer.getvalue(), path)


def write_drawing(pixels: NDArray[np.uint8], path: Path) -> None:
    """Writes a drawing as a PNG of at most 256 colours: over photographs four times smaller than in full colour.

    Args:
        pixels: (rows, columns, 3) red, green, blue.
        path: Ends in `.png`.
    """
    buffer = BytesIO()
    drawing = Image.fromarray(np.ascontiguousarray(pixels)).quantize(256, Image.Quantize.FASTOCTREE)
    drawing.save(buffer, "PNG", optimize=True)
    write_whole(buffer.getvalue(), path)


def _require_one_plain_page(image: Image.Image, path: Path) -> None:
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        what = f"the file has {pages} pages, expected 1"
        fix = "store each page as a file of its own, or the stack as a .nii.gz volume"
        raise ImageFileError("shape_invalid", what, path, fix)
    deep = image.mode in ("RGB", "RGBA") and "16" in _stored_mode(
        image
    )  # Pillow would drop half of each number
    if deep or image.mode not in MODES:
        kind = "16 bits a colour" if deep else f"mode {image.mode}"
        what = f"the picture has {kind}, expected grey of up to 32 bits or RGB of 8"
        raise ImageFileError("unreadable", what, path, "store one grey file a channel, or RGB of 8 bits")


def _stored_mode(image: Image.Image) -> str:
    """Pillow's name for the pixels in the file, such as "RGB;16B"; the mode says what they become."""
    arguments = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else None
    return arguments[0] if isinstance(arguments, tuple) and arguments else str(arguments)


def _to_volume(pixels: NDArray[Any]) -> NDArray[Any]:
    """(rows, columns[, C]) as (C, X, Y, 1) in native byte order."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return native.reshape(*native.shape[:2], -1).transpose(2, 1, 0)[..., np.newaxis]
