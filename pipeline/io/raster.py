"""Pictures (PNG, TIFF, JPEG, GIF) as volumes of one slice, and label maps as PNG.

X is the column, Y the row, counted from the upper left corner; the affine is the identity: 1 mm stands for
1 pixel. The pages of a TIFF are the slices of a volume, as microscopes write them. A rotation noted in a JPEG's
camera data (EXIF) is not applied.
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
from pipeline.io.tiff_pages import count_slices

FORMATS = ("PNG", "TIFF", "JPEG", "GIF")
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

BITS_PER_SAMPLE = 258  # tag of a TIFF
CUT = ("truncated", "incomplete", "png file (chunk")  # in what Pillow says of a file that ends too early


def read_picture(path: Path, digest: Digest | None = None) -> StoredImage:
    """Reads a picture, or a TIFF of several pages.

    Args:
        path: PNG, TIFF, JPEG or GIF; which of them is seen from the bytes.
        digest: Is given the bytes too.

    Returns:
        (C, X, Y, Z): 1 channel for grey (8, 16 or 32 bits as stored; 1 bit as 0 and 1) and for palettes of greys
        alone, 3 for colours and other palettes; an alpha channel is dropped. Z is 1, or the number of pages.
        Affine: the identity.

    Raises:
        ImageFileError: The file is missing, cut off or damaged, has colours of another kind than 8-bit RGB, or
            pages that are no slices of one volume (a film, channels or time points, several sizes).
    """
    contents = read_contents(path, digest)
    require_image(contents, path)
    try:
        with Image.open(BytesIO(contents), formats=FORMATS) as image:
            image.verify()  # the checksums of a PNG, to its last byte; it cannot be used afterwards
        with Image.open(BytesIO(contents), formats=FORMATS) as image:
            pages = [_read_page(image, index, path) for index in range(count_slices(image, contents, path))]
    except UnidentifiedImageError as error:
        what = f"the file is no whole PNG, TIFF, JPEG or GIF (it starts with {contents[:8]!r})"
        raise ImageFileError("unreadable", what, path, COPY_AGAIN) from error
    except DAMAGED as error:
        cut = any(word in str(error).lower() for word in CUT)
        code = "truncated" if cut else "corrupt"
        raise ImageFileError(code, f"the picture is damaged: {error}", path, COPY_AGAIN) from error
    if len({(page.shape, page.dtype) for page in pages}) > 1:
        kinds = ", ".join(sorted({f"{page.shape[1]} x {page.shape[0]} {page.dtype}" for page in pages}))
        what = f"the {len(pages)} pages are of several kinds ({kinds}), expected the slices of one volume"
        raise ImageFileError("shape_invalid", what, path, "store each page as a file of its own")
    return StoredImage(_to_volume(np.stack(pages)), np.eye(4))


def is_colour(path: Path) -> bool:
    """Whether a picture has colours, as its first bytes say; False when they cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return _target_mode(image) == "RGB" or image.mode == "RGB"
    except DAMAGED:
        return False


def is_stack(path: Path) -> bool:
    """Whether a picture has several pages; False when they cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return getattr(image, "n_frames", 1) > 1
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


def _read_page(image: Image.Image, index: int, path: Path) -> NDArray[Any]:
    """(rows, columns[, 3])."""
    if index:
        image.seek(index)
    _require_plain(image, path)
    image.load()
    mode = _target_mode(image)
    return np.array(image.convert(mode) if mode else image)


def _target_mode(image: Image.Image) -> str:
    """The mode to convert to; "" = none."""
    palette = image.getpalette("RGB") if image.mode == "P" else None
    if palette and palette[::3] == palette[1::3] == palette[2::3]:
        return "L"
    return MODES.get(image.mode, "")


def _require_plain(image: Image.Image, path: Path) -> None:
    # Pillow would drop half of each number
    deep = image.mode in ("RGB", "RGBA") and ("16" in _stored_mode(image) or _bits_a_sample(image) > 8)
    if deep or image.mode not in MODES:
        kind = "16 bits a colour" if deep else f"mode {image.mode}"
        what = f"the picture has {kind}, expected grey of up to 32 bits or RGB of 8"
        raise ImageFileError("unreadable", what, path, "store one grey file a channel, or RGB of 8 bits")


def _stored_mode(image: Image.Image) -> str:
    """Pillow's name for the pixels in the file, such as "RGB;16B"; the mode says what they become."""
    arguments = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else None
    return arguments[0] if isinstance(arguments, tuple) and arguments else str(arguments)


def _bits_a_sample(image: Image.Image) -> int:
    """As a TIFF's header says; 0 for other formats. Of colours stored plane by plane the mode says nothing."""
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (0,))
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _to_volume(pages: NDArray[Any]) -> NDArray[Any]:
    """(pages, rows, columns[, C]) as (C, X, Y, Z) in native byte order."""
    if pages.dtype == bool:
        pages = pages.astype(np.uint8)
    native = pages.astype(pages.dtype.newbyteorder("="), copy=False)
    return native.reshape(*native.shape[:3], -1).transpose(3, 2, 1, 0)
