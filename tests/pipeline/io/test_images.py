"""One door for every format: what is read, written and found does not depend on who asks."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from pipeline.errors import ImageFileError, SegtrailError
from pipeline.io.images import (
    IMAGE_SUFFIXES,
    find_images,
    image_stem,
    image_suffix,
    is_colour_picture,
    load_label_map,
    load_volume,
    prediction_suffix,
    read_image_file,
    save_instance_map,
    save_label_map,
)
from pipeline.volume import LabelMap

ROWS = np.arange(12, dtype=np.uint8).reshape(3, 4)  # 3 rows, 4 columns


def write_picture(path: Path, pixels: np.ndarray = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("b.c.nii.gz", ".nii.gz", "b.c"),
        ("b.nii", ".nii", "b"),
        ("B.PNG", ".png", "B"),
        ("b.jpeg", ".jpeg", "b"),
        ("b.tiff", ".tiff", "b"),
        ("b.mhd", ".mhd", "b"),
        ("b.nrrd", ".nrrd", "b"),
        ("b.nhdr", ".nhdr", "b"),
        ("b.mgz", ".mgz", "b"),
        ("b.img.gz", ".img.gz", "b"),
        ("b.hdr", ".hdr", "b"),
        ("b.c.h5", ".h5", "b.c"),
        ("b.h5#image", ".h5", "b_image"),
        ("b.hdf5#scan/t1[12]", ".hdf5", "b_scan_t1_12"),
        ("b.gz", "", "b.gz"),
        ("b.dcm", "", "b.dcm"),
        ("png", "", "png"),
    ],
)
def test_suffix_and_stem(name: str, suffix: str, stem: str) -> None:
    assert image_suffix(Path("a") / name) == suffix
    assert image_stem(Path("a") / name) == stem


def test_a_folder_is_named_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study.png").mkdir()
    assert image_stem(tmp_path / "study.png") == "study.png"
    monkeypatch.chdir(tmp_path / "study.png")
    assert image_stem(Path()) == "study.png"


def test_pictures_are_answered_with_pictures() -> None:
    answers = {suffix: prediction_suffix([Path(f"a{suffix}")]) for suffix in IMAGE_SUFFIXES}
    pictures = {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".gif"}
    assert {suffix for suffix, answer in answers.items() if answer == ".png"} == pictures
    assert {answers[suffix] for suffix in set(IMAGE_SUFFIXES) - pictures} == {".nii.gz"}
    assert prediction_suffix([Path("folder")]) == ".nii.gz"


def test_a_stack_of_pages_is_answered_with_a_volume(tmp_path: Path) -> None:
    pages = [Image.fromarray(ROWS), Image.fromarray(ROWS + 1)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    assert prediction_suffix([tmp_path / "stack.tif"]) == ".nii.gz"
    assert prediction_suffix([write_picture(tmp_path / "one.tif")]) == ".png"
    assert load_volume([tmp_path / "stack.tif"]).array.shape == (1, 4, 3, 2)


def test_one_file_a_channel_in_any_format(tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / "a.png"), write_picture(tmp_path / "b.tif", ROWS + 100)]
    volume = load_volume(paths)
    assert volume.array.shape == (2, 4, 3, 1)
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array[1, :, :, 0], ROWS.T + 100)
    deep = write_picture(tmp_path / "c.png", ROWS.astype(np.uint16) * 300)
    assert load_volume([paths[0], deep]).array.dtype == np.float32  # types differ
    assert load_volume([paths[0], deep]).array[1, 3, 2, 0] == 3300


def test_channels_of_different_size_are_refused(tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / "a.png"), write_picture(tmp_path / "b.png", ROWS.T)]
    with pytest.raises(
        ImageFileError, match=r"shape is \(3, 4, 1\), the first channel has \(4, 3, 1\)"
    ) as caught:
        load_volume(paths)
    assert caught.value.code == "geometry_mismatch"
    with pytest.raises(SegtrailError, match="at least one file"):
        load_volume([])


def test_infinite_pixels_are_refused(tmp_path: Path) -> None:
    pixels = ROWS.astype(np.float32)
    pixels[1, 2] = np.inf
    with pytest.raises(ImageFileError, match="1 of 12 voxels are NaN or Inf"):
        load_volume([write_picture(tmp_path / "a.tif", pixels)])


def test_a_foreign_suffix_is_told_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.svs").touch()
    with pytest.raises(ImageFileError, match=r"\.svs is no image suffix, expected one of \.nii\.gz, .*\.mhd"):
        load_volume([tmp_path / "a.svs"])
    with pytest.raises(ImageFileError, match="no such file") as caught:
        load_volume([tmp_path / "a.png"])
    assert caught.value.code == "missing"


def test_labels_of_a_png(tmp_path: Path, shared_data: Path) -> None:
    labels = load_label_map(write_picture(tmp_path / "a.png"))
    np.testing.assert_array_equal(labels.array[:, :, 0], ROWS.T)
    np.testing.assert_array_equal(labels.affine, np.eye(4))
    odd = shared_data / "loader_oddities" / "derived_files"
    assert load_label_map(odd / "mask_1bit.png").array.sum() == 7627  # from manifest.csv
    with pytest.raises(ImageFileError, match="a label map has 1 channel, this file has 3") as caught:
        load_label_map(odd / "rgba.png")
    assert caught.value.code == "label_channels"


def test_the_hash_is_that_of_every_byte(tmp_path: Path, shared_data: Path) -> None:
    odd = shared_data / "loader_oddities"
    series = odd / "real_files" / "dicom_small_ct_series"
    derived = odd / "derived_files"
    parts = {
        derived / "reference_image.nii.gz": [derived / "reference_image.nii.gz"],
        derived / "rgba.png": [derived / "rgba.png"],
        derived / "compressed.mhd": [derived / "compressed.mhd", derived / "compressed.zraw"],
        derived / "single_file.mha": [derived / "single_file.mha"],
        series: sorted(series.iterdir()),
    }
    for path, files in parts.items():
        expected = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        image, digest = read_image_file(path)
        assert digest == expected, path
        volume = load_volume([path])
        np.testing.assert_array_equal(volume.array, image.array)
        np.testing.assert_array_equal(volume.affine, image.affine)


def test_label_maps_have_8_bits_and_instances_16_in_a_png(tmp_path: Path) -> None:
    labels = LabelMap(ROWS.T[..., np.newaxis], np.eye(4))
    save_label_map(labels, tmp_path / "a.png", like=write_picture(tmp_path / "image.png"))
    save_instance_map(labels, tmp_path / "b.png")
    assert [Image.open(tmp_path / name).mode for name in ("a.png", "b.png")] == ["L", "I;16"]
    for name in ("a.png", "b.png"):
        np.testing.assert_array_equal(load_label_map(tmp_path / name).array, labels.array)
    many = LabelMap(labels.array.astype(np.int32) * 100, np.eye(4))
    save_instance_map(many, tmp_path / "c.png")
    np.testing.assert_array_equal(load_label_map(tmp_path / "c.png").array, many.array)
    with pytest.raises(SegtrailError, match="numbers from 0 to 1100, a PNG of 8 bits holds 0 to 255"):
        save_label_map(many, tmp_path / "d.png")
    with pytest.raises(SegtrailError, match="numbers from 0 to 110000, a PNG of 16 bits holds 0 to 65535"):
        save_instance_map(LabelMap(many.array * 100, np.eye(4)), tmp_path / "d.png")
    assert not (tmp_path / "d.png").exists()


@pytest.mark.parametrize("name", ["derived_files/compressed.mhd", "real_files/dicom_small_ct_series"])
def test_labels_lie_on_the_grid_of_other_formats(shared_data: Path, tmp_path: Path, name: str) -> None:
    """The label map is NIfTI, seen by SimpleITK at the place of the MetaImage or series."""
    source = shared_data / "loader_oddities" / name
    volume = load_volume([source])
    labels = LabelMap(np.ones(volume.array.shape[1:], np.uint8), volume.affine)
    save_label_map(labels, tmp_path / "a.nii.gz", like=source)
    if source.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source)))
        expected = reader.Execute()
    else:
        expected = sitk.ReadImage(str(source))
    written = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert written.GetSize() == expected.GetSize()
    for index in ((0, 0, 0), (5, 6, 7)):
        np.testing.assert_allclose(
            written.TransformIndexToPhysicalPoint(index),
            expected.TransformIndexToPhysicalPoint(index),
            atol=1e-4,
        )


def test_everything_below_a_folder_is_found(tmp_path: Path, shared_data: Path) -> None:
    series = shared_data / "loader_oddities" / "real_files" / "dicom_small_ct_series"
    shutil.copytree(series, tmp_path / "deep" / "series", copy_function=shutil.copyfile)
    (tmp_path / "deep" / "series").chmod(0o755)  # the sample data are read-only
    (tmp_path / "deep" / "series" / "reading.xml").touch()
    for name in ("b.nii.gz", "A.JPG", "deep/c.mhd", "deep/c.raw", "notes.txt", ".hidden/d.png", ".e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["A.JPG", "b.nii.gz", "deep/c.mhd", "deep/series"]
    assert list(find_images(tmp_path / "deep" / "series")) == [tmp_path / "deep" / "series"]


def test_only_pictures_in_colours_hold_several_channels(tmp_path: Path) -> None:
    colours = write_picture(tmp_path / "a.png", np.zeros((3, 4, 3), np.uint8))
    nifti = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.uint8), np.eye(4)), nifti)
    assert is_colour_picture(colours)
    assert not is_colour_picture(write_picture(tmp_path / "b.png"))
    assert not is_colour_picture(nifti)


def test_nifti_needs_no_library_of_another_format(tmp_path: Path) -> None:
    """A GPU machine may lack Pillow, SimpleITK and pydicom."""
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['PIL', 'SimpleITK', 'pydicom']));"
        "from pathlib import Path; from pipeline.io.images import load_volume;"
        "print(load_volume([Path(sys.argv[1])]).array.shape)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.nii.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 3, 4, 5)"
