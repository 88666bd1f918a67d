"""Pictures on the way in, against bytes written by hand and skimage."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from skimage import io as skimage_io

from pipeline.errors import ImageFileError
from pipeline.io.raster import is_colour, read_picture


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(
    columns: int, rows: int, depth: int, colour: int, lines: list[bytes], extra: bytes = b""
) -> bytes:
    """A PNG as its specification says, without any library; colour 0 grey, 2 RGB, 3 palette, 4 LA, 6 RGBA."""
    header = struct.pack(">IIBBBBB", columns, rows, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    parts = (chunk(b"IHDR", header), extra, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def read_bytes(contents: bytes, path: Path) -> NDArray[Any]:
    path.write_bytes(contents)
    return read_picture(path).array


def test_x_is_the_column_and_y_the_row_from_the_upper_left(tmp_path: Path) -> None:
    contents = png_bytes(3, 2, 8, 0, [b"\x01\x02\x03", b"\x04\x05\x06"])
    (tmp_path / "a.png").write_bytes(contents)
    image = read_picture(tmp_path / "a.png")
    assert image.array.shape == (1, 3, 2, 1)
    assert image.array[0, :, 0, 0].tolist() == [1, 2, 3]
    assert image.array[0, :, 1, 0].tolist() == [4, 5, 6]
    assert image.array.flags.writeable
    assert image.form_conflict_mm == 0
    np.testing.assert_array_equal(image.affine, np.eye(4))


def test_16_bits_keep_every_bit(tmp_path: Path) -> None:
    array = read_bytes(png_bytes(2, 1, 16, 0, [b"\x01\x02\xff\xfe"]), tmp_path / "a.png")
    assert array.dtype == np.uint16
    assert array.dtype.isnative
    assert array.ravel().tolist() == [0x0102, 0xFFFE]


def test_colours_are_channels_and_alpha_is_dropped_not_mixed_in(tmp_path: Path) -> None:
    opaque_and_clear = bytes([10, 20, 30, 255, 40, 50, 60, 0])
    array = read_bytes(png_bytes(2, 1, 8, 6, [opaque_and_clear]), tmp_path / "rgba.png")
    assert array[:, :, 0, 0].tolist() == [[10, 40], [20, 50], [30, 60]]
    array = read_bytes(png_bytes(2, 1, 8, 2, [bytes([10, 20, 30, 40, 50, 60])]), tmp_path / "rgb.png")
    assert array[:, :, 0, 0].tolist() == [[10, 40], [20, 50], [30, 60]]
    array = read_bytes(png_bytes(2, 1, 8, 4, [bytes([7, 0, 9, 255])]), tmp_path / "la.png")
    assert array[:, :, 0, 0].tolist() == [[7, 9]]


def test_a_palette_gives_its_colours_not_its_indices(tmp_path: Path) -> None:
    palette = chunk(b"PLTE", bytes([200, 100, 50, 1, 2, 3]))
    array = read_bytes(png_bytes(2, 1, 8, 3, [b"\x01\x00"], palette), tmp_path / "a.png")
    assert array[:, :, 0, 0].tolist() == [[1, 200], [2, 100], [3, 50]]


def test_one_bit_is_0_and_1(tmp_path: Path) -> None:
    array = read_bytes(png_bytes(8, 1, 1, 0, [b"\xa1"]), tmp_path / "a.png")
    assert array.dtype == np.uint8
    assert array.ravel().tolist() == [1, 0, 1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float32"])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_grey_tiff(tmp_path: Path, dtype: str, compression: str | None) -> None:
    pixels = (np.arange(12).reshape(3, 4) * 20.0).astype(dtype)
    order = ">" if dtype == ">u2" else "<"
    tifffile.imwrite(tmp_path / "a.tif", pixels, byteorder=order, compression=compression)
    image = read_picture(tmp_path / "a.tif")
    assert image.array.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(image.array[0, :, :, 0], pixels.T)


def test_a_jpeg_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (5, 3), (200, 30, 40)).save(tmp_path / "a.jpg", quality=100)
    array = read_picture(tmp_path / "a.jpg").array
    assert array.shape == (3, 5, 3, 1)
    assert np.abs(array[:, 2, 1, 0].astype(int) - [200, 30, 40]).max() <= 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:.*Truncated File Read")
@pytest.mark.parametrize("compression", [None, "deflate", "lzw"])
def test_a_cut_stack_never_loses_a_page_unseen(tmp_path: Path, compression: str | None) -> None:
    stack = np.random.default_rng(0).integers(0, 9, (4, 6, 5), dtype=np.uint8)
    pages = [Image.fromarray(page) for page in stack]
    kind = {None: None, "deflate": "tiff_adobe_deflate", "lzw": "tiff_lzw"}[compression]
    pages[0].save(tmp_path / "whole.tif", save_all=True, append_images=pages[1:], compression=kind)
    whole = (tmp_path / "whole.tif").read_bytes()
    np.testing.assert_array_equal(read_bytes(whole, tmp_path / "a.tif")[0], stack.T)
    for length in range(0, len(whole) - 8, 3):  # the last bytes may be filling
        with pytest.raises(ImageFileError):
            read_bytes(whole[:length], tmp_path / "a.tif")


def test_the_masks_of_drive_are_grey(shared_data: Path) -> None:
    masks = sorted((shared_data / "drive").rglob("*.gif"))
    assert len(masks) == 14
    for path in masks:
        array = read_picture(path).array
        assert array.shape == (1, 565, 584, 1)  # 584 rows, 565 columns
        assert np.unique(array).tolist() == [0, 255]
        np.testing.assert_array_equal(array[0, :, :, 0], np.asarray(Image.open(path).convert("L")).T)


def test_a_palette_of_greys_is_grey(tmp_path: Path) -> None:
    palette = chunk(b"PLTE", bytes([0, 0, 0, 255, 255, 255, 7, 7, 7]))
    array = read_bytes(png_bytes(3, 1, 8, 3, [b"\x01\x00\x02"], palette), tmp_path / "a.png")
    assert array[:, :, 0, 0].tolist() == [[255, 0, 7]]
    assert not is_colour(tmp_path / "a.png")


@pytest.mark.parametrize(("colour", "bytes_a_pixel"), [(2, 6), (4, 4), (6, 8)])
def test_deep_colours_are_refused_not_halved(tmp_path: Path, colour: int, bytes_a_pixel: int) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(2, 1, 16, colour, [bytes(range(2 * bytes_a_pixel))]))
    with pytest.raises(ImageFileError, match="16 bits a colour"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_deep_colours_of_a_tiff_are_refused(tmp_path: Path, compression: str | None, planes: Any) -> None:
    pixels = np.arange(4 * 5 * 3).reshape(4, 5, 3)
    stored = pixels if planes == "contig" else pixels.transpose(2, 0, 1)
    options: dict[str, Any] = {"photometric": "rgb", "compression": compression, "planarconfig": planes}
    tifffile.imwrite(tmp_path / "a.tif", stored.astype(np.uint16) * 300, **options)
    with pytest.raises(ImageFileError, match="16 bits a colour"):
        read_picture(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", stored.astype(np.uint8), **options)
    np.testing.assert_array_equal(read_picture(tmp_path / "b.tif").array[..., 0], pixels.transpose(2, 1, 0))


def test_print_colours_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(ImageFileError, match="mode CMYK, expected grey"):
        read_picture(tmp_path / "a.jpg")


def test_every_cut_and_every_flipped_bit_of_a_png_is_seen(tmp_path: Path) -> None:
    """But for what the mark at the end says of itself, after which nothing comes."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for length in range(len(whole) - 4):
        with pytest.raises(ImageFileError) as caught:
            read_bytes(whole[:length], tmp_path / "a.png")
        assert caught.value.code in ("unreadable", "truncated")
    for place in range(len(whole) - 12):
        for bit in range(8):
            flipped = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
            with pytest.raises(ImageFileError):
                read_bytes(flipped, tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_every_cut_of_a_jpeg_or_tiff_is_refused(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    for length in range(0, len(whole), 7):
        with pytest.raises(ImageFileError):
            read_bytes(whole[:length], tmp_path / f"a.{suffix}")


def test_no_cut_of_a_gif_changes_a_pixel_unseen(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 15), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.gif")
    whole = (tmp_path / "whole.gif").read_bytes()
    for length in range(0, len(whole) - 2, 5):  # its last two bytes say that nothing follows
        with pytest.raises(ImageFileError):
            read_bytes(whole[:length], tmp_path / "a.gif")
    np.testing.assert_array_equal(read_bytes(whole, tmp_path / "a.gif")[0, :, :, 0], pixels.T)


def test_what_is_no_picture_is_told(tmp_path: Path, shared_data: Path) -> None:
    odd = shared_data / "loader_oddities" / "derived_files"
    for name, said in (
        ("empty_file.nii.gz", "empty"),
        ("lfs_pointer.nii.gz", "Git LFS"),
        ("html_instead_of_image.nii.gz", "web page"),
        ("reference_image.nii.gz", "no whole PNG, TIFF, JPEG or GIF"),
    ):
        with pytest.raises(ImageFileError, match=said) as caught:
            read_picture(odd / name)
        assert caught.value.code == "unreadable"
    with pytest.raises(ImageFileError, match="no such file") as caught:
        read_picture(tmp_path / "none.png")
    assert caught.value.code == "missing"


@pytest.mark.parametrize(
    ("name", "shape", "highest"),
    [
        ("gray16.png", (1, 256, 256, 1), 27756),
        ("mask_1bit.png", (1, 256, 256, 1), 1),
        ("rgba.png", (3, 256, 256, 1), 108),
        ("palette.png", (3, 256, 256, 1), 102),
        ("mask_like_jpeg.jpg", (3, 256, 256, 1), 108),
    ],
)
def test_odd_pictures(shared_data: Path, name: str, shape: tuple[int, ...], highest: int) -> None:
    array = read_picture(shared_data / "loader_oddities" / "derived_files" / name).array
    assert array.shape == shape
    assert array.max() == highest
    if name == "mask_1bit.png":
        assert array.sum() == 7627  # from manifest.csv


def test_pictures_of_the_sample_data_equal_what_skimage_reads(shared_data: Path) -> None:
    nuclei = sorted(shared_data.glob("dsb2018/stage1_train/*/images/*.png"))[:12]
    assert len(nuclei) == 12
    for path in nuclei:
        expected = skimage_io.imread(path)[..., :3]
        array = read_picture(path).array
        np.testing.assert_array_equal(array[..., 0].transpose(2, 1, 0), expected)
        assert is_colour(path)


def test_grey_and_broken_files_are_not_colour(shared_data: Path) -> None:
    odd = shared_data / "loader_oddities" / "derived_files"
    assert is_colour(odd / "palette.png")
    for name in ("gray16.png", "mask_1bit.png", "empty_file.nii.gz", "no_such_file.png"):
        assert not is_colour(odd / name)
