"""Label maps and drawings on the way out, as others read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import io as skimage_io

from pipeline.errors import SegtrailError
from pipeline.io.raster import write_drawing, write_png


@pytest.mark.parametrize(("bits", "highest"), [(8, 255), (16, 65535)])
def test_a_written_png_is_read_by_others(tmp_path: Path, bits: int, highest: int) -> None:
    labels = np.zeros((5, 3, 1), np.int32)
    labels[4, 1, 0], labels[0, 2, 0] = 7, highest
    write_png(labels, tmp_path / "a.png", bits)
    read = skimage_io.imread(tmp_path / "a.png")
    assert read.dtype == f"uint{bits}"
    assert read.shape == (3, 5)
    assert (read[1, 4], read[2, 0]) == (7, highest)
    assert read.astype(int).sum() == 7 + highest


def test_equal_maps_are_equal_files(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 9, (40, 30, 1))
    write_png(labels, tmp_path / "a.png", 8)
    write_png(np.asfortranarray(labels.astype(np.uint8)), tmp_path / "b.png", 8)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(("bits", "value"), [(8, 256), (8, -1), (16, 65536)])
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path, bits: int, value: int) -> None:
    labels = np.zeros((5, 3, 1), np.int64)
    labels[1, 1, 0] = value
    with pytest.raises(SegtrailError, match=f"a PNG of {bits} bits holds 0 to {2**bits - 1}"):
        write_png(labels, tmp_path / "a.png", bits)
    with pytest.raises(SegtrailError, match="2 slices, a PNG holds one"):
        write_png(np.zeros((5, 3, 2), np.uint8), tmp_path / "a.png", bits)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SegtrailError, match="No space left"):
        write_png(np.zeros((5, 3, 1), np.uint8), tmp_path / "a.png", 8)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_drawings_keep_strong_colours_over_a_photograph(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(90, 200, (60, 80, 3)).astype(np.uint8)
    pixels[10:20, 30:50] = (255, 71, 71)
    write_drawing(pixels, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert (picture.mode, picture.size) == ("P", (80, 60))
        found = np.asarray(picture.convert("RGB")).astype(int)
    assert abs(found[10:20, 30:50] - (255, 71, 71)).max() < 8
    assert abs(found - pixels).mean() < 16
    assert (tmp_path / "x.png").stat().st_size < 80 * 60 * 1.5
