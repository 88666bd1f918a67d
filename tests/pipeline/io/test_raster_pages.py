"""Files of several pictures: the pages of a TIFF are slices, and what is no stack of slices is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.errors import ImageFileError
from pipeline.io.raster import is_stack, read_picture


def test_the_pages_of_a_tiff_are_the_slices_of_a_volume(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "loader_oddities" / "derived_files" / "multipage_stack.tif"
    array = read_picture(path).array
    assert array.shape == (1, 34, 47, 8)  # manifest.csv: 8 pages of 47 rows, 34 columns
    np.testing.assert_array_equal(array[0], tifffile.imread(path).T)
    assert is_stack(path)
    stack = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    for name, options in {
        "big.tif": {"bigtiff": True},
        "msb.tif": {"byteorder": ">"},
        "zip.tif": {"compression": "deflate"},
        "imagej.tif": {"imagej": True, "metadata": {"axes": "ZYX"}},
        "ome.tif": {"ome": True, "metadata": {"axes": "ZYX"}},
    }.items():
        tifffile.imwrite(tmp_path / name, stack, photometric="minisblack", **options)
        np.testing.assert_array_equal(read_picture(tmp_path / name).array[0], stack.T)
    colours = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb")
    np.testing.assert_array_equal(read_picture(tmp_path / "rgb.tif").array, colours.transpose(3, 2, 1, 0))
    tifffile.imwrite(tmp_path / "one.tif", stack[0])
    assert not is_stack(tmp_path / "one.tif")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"imagej": True, "metadata": {"axes": "CYX"}}, "the pages hold 3 channels"),
        ({"imagej": True, "metadata": {"axes": "TYX"}}, "the pages hold 3 time points"),
        ({"ome": True, "metadata": {"axes": "CYX"}}, "the pages hold 3 channels"),
    ],
)
def test_pages_that_are_no_slices_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    stack = np.zeros((3, 4, 5), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", **options)
    with pytest.raises(ImageFileError, match=said) as caught:
        read_picture(tmp_path / "a.tif")
    assert caught.value.code == "shape_invalid"


def test_pages_of_several_sizes_and_films_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        for size in (8, 4):
            writer.write(np.zeros((size, size), np.uint8), contiguous=False)
    with pytest.raises(ImageFileError, match="the 2 pages are of several kinds") as caught:
        read_picture(tmp_path / "pyramid.tif")
    assert caught.value.code == "shape_invalid"
    frames = [Image.new("L", (4, 3), grey) for grey in (10, 200)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageFileError, match="a film of 2 pictures") as caught:
        read_picture(tmp_path / "film.gif")
    assert caught.value.code == "shape_invalid"


def test_pages_that_imagej_wrote_without_a_directory_each_are_missed(tmp_path: Path) -> None:
    """ImageJ stores large stacks as one page and the number of the others in its description."""
    stack = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    described = "ImageJ=1.54\nimages=3\nslices=3\n"
    tifffile.imwrite(tmp_path / "a.tif", stack[0], description=described, metadata=None)
    with pytest.raises(ImageFileError, match="promises 3 pages, the file has 1") as caught:
        read_picture(tmp_path / "a.tif")
    assert caught.value.code == "truncated"
