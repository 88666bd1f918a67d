"""Every file that breaks loaders: taken right, mended and said, or refused with its reason; never a wrong voxel.

The rows, and the facts that are compared, are those of `loader_oddities/manifest.csv`; voxels are compared with the
clean reference file, or with what a reader of another library makes of the same bytes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tifffile
from numpy.typing import NDArray
from skimage import io as skimage_io

from pipeline.cases import CaseRecord
from pipeline.config import load_params
from pipeline.errors import ImageFileError
from pipeline.inspection import InspectedCase, inspect_case
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import StoredImage, image_stem, read_image_file, round_labels
from pipeline.volume import spacing_mm, to_canonical

PARAMS = load_params().inspect
LABELS = {"background": 0, "anterior": 1, "posterior": 2, "third": 3, "fourth": 4}
REFERENCE = "derived_files/reference_image.nii.gz"
REFERENCE_LABEL = "derived_files/reference_label.nii.gz"
SHAPE = re.compile(r"shape \((\d+(?:, \d+)*)\)|^\((\d+(?:, \d+)*)\)$")
RANGE = re.compile(r"min (\S+) max (\S+) mean ([^\s;]+)")
CLASSES = re.compile(r"(\d+):(\d+)")
READS = re.compile(r"x origin (\S+), zooms \(([^)]*)\)")

Reader = Callable[[Path], NDArray[Any]]


# Independent readers: voxels (X, Y, Z[, C]) as stored, or as noted.


def by_nibabel(path: Path) -> NDArray[Any]:
    return np.asarray(nibabel.load(path).dataobj)


def by_itk(path: Path) -> NDArray[Any]:
    return sitk.GetArrayFromImage(sitk.ReadImage(path)).T


def by_skimage(path: Path) -> NDArray[Any]:
    pixels = skimage_io.imread(path)
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels[..., :3]  # no alpha
    return pixels.transpose(1, 0, 2)[:, :, np.newaxis, :]


def by_tifffile(path: Path) -> NDArray[Any]:
    return tifffile.imread(path).T


def by_pydicom(folder: Path) -> NDArray[Any]:
    """In HU, slices by their place along the head."""
    slices = sorted((pydicom.dcmread(p) for p in folder.iterdir()), key=lambda s: s.ImagePositionPatient[2])
    planes = [
        s.pixel_array * float(s.get("RescaleSlope", 1)) + float(s.get("RescaleIntercept", 0)) for s in slices
    ]
    return np.stack(planes).T


def reference(path: Path) -> NDArray[Any]:
    """The clean image that most derived files were made from."""
    return by_nibabel(path.parents[1] / REFERENCE)


@dataclass(frozen=True)
class Wish:
    """What becomes of one row.

    Attributes:
        verdict: Of the case that the file makes.
        code: Of that verdict.
        by: Makes the voxels that must come out; None where the file is refused.
        within: How far voxels may be from them.
        image: The image of a row that is a label; "" = the row is an image; "self" = it is its own image.
        label: The label of a row that is an image; "" = none.
        channels: Of the data set.
    """

    verdict: str = "ok"
    code: str = ""
    by: Reader | None = by_nibabel
    within: float = 0.0
    image: str = ""
    label: str = ""
    channels: int = 1


def refused(code: str, image: str = "", by: Reader | None = None) -> Wish:
    return Wish("quarantined", code, by, image=image)


def label(image: str = REFERENCE, verdict: str = "ok", code: str = "") -> Wish:
    return Wish(verdict, code, image=image, within=1e-3)


WISHES: dict[str, Wish] = {
    "real_files/bigendian_int16_uncompressed.nii": Wish(),
    "real_files/bigendian_int16_uncompressed_label.nii.gz": label("real_files/bigendian_int16_uncompressed.nii"),
    "real_files/bigendian_float32.nii": Wish(),
    "real_files/4d_time_series_int16_slope.nii": Wish(channels=20, within=1e-3),
    "real_files/4d_two_volumes.nii.gz": Wish(channels=2),
    "real_files/nifti2_header.nii.gz": Wish(channels=2),
    "real_files/freesurfer.mgz": Wish("warn", "spacing_conflict", channels=2),
    "real_files/oblique_head_ct_uint8.nii.gz": Wish(),
    "real_files/oblique_uint8_slope.nii.gz": Wish(within=1e-3),
    "real_files/4d_oblique_float32.nii.gz": Wish(channels=10),
    "real_files/mask_int32_slope_not_exactly_one.nii.gz": label("self"),
    "real_files/label_stored_as_float32.nii.gz": label("self"),
    "real_files/dicom_gantry_tilt_variable_spacing": refused("slice_spacing"),
    "real_files/dicom_small_ct_series": Wish("warn", "identifying_text", by_pydicom),
    "real_files/dicom_single/MR_truncated.dcm": refused("truncated;identifying_text"),
    "real_files/dicom_single/MR_small_bigendian.dcm": Wish("warn", "identifying_text", by_pydicom),
    "real_files/dicom_single/MR_small_implicit.dcm": Wish("warn", "identifying_text", by_pydicom),
    "real_files/dicom_single/CT_small.dcm": Wish("warn", "identifying_text", by_pydicom),
    "real_files/dicom_single/MR_small_RLE.dcm": Wish("warn", "identifying_text", by_pydicom),
    REFERENCE: Wish(),
    REFERENCE_LABEL: label(),
    "derived_files/reoriented_PSR.nii.gz": Wish("fixed", "reoriented", label=REFERENCE_LABEL),
    "derived_files/reoriented_LPI.nii.gz": Wish("fixed", "reoriented", label=REFERENCE_LABEL),
    "derived_files/reoriented_ASL.nii.gz": Wish("fixed", "reoriented", label=REFERENCE_LABEL),
    "derived_files/reoriented_LPI_label.nii.gz": label("derived_files/reoriented_LPI.nii.gz"),
    "derived_files/int16_slope_inter.nii": Wish(by=reference, within=0.25),
    "derived_files/bigendian_f4.nii.gz": Wish(by=reference),
    "derived_files/analyze.hdr": refused("geometry_invalid"),
    "derived_files/analyze.img": refused("geometry_invalid"),
    "derived_files/nifti_pair.hdr": Wish(),
    "derived_files/nifti_pair.img": Wish(by=lambda path: by_nibabel(path.with_suffix(".hdr"))),
    "derived_files/label_origin_shifted_5mm.nii.gz": refused("geometry_mismatch", REFERENCE, by_nibabel),
    "derived_files/label_one_slice_short.nii.gz": refused("geometry_mismatch", REFERENCE, by_nibabel),
    "derived_files/label_unexpected_value_3.nii.gz": refused("label_value_unknown", REFERENCE, by_nibabel),
    "derived_files/label_values_0_127_254.nii.gz": refused("label_value_unknown", REFERENCE, by_nibabel),
    "derived_files/label_empty.nii.gz": label(verdict="warn", code="empty_label"),
    "derived_files/label_float_noise.nii.gz": label(verdict="fixed", code="label_rounded"),
    "derived_files/label_float64.nii.gz": label(),
    "derived_files/image_nan_inf.nii.gz": refused("not_finite", by=by_nibabel),
    "derived_files/image_constant.nii.gz": refused("constant_image", by=by_nibabel),
    "derived_files/image_4d_singleton.nii.gz": Wish("fixed", "axis_dropped", reference),
    "derived_files/image_4d_two_channels.nii.gz": Wish(channels=2),
    "derived_files/image_2d.nii.gz": Wish(),
    "derived_files/sform_qform_conflict.nii.gz": Wish("warn", "form_conflict", reference),
    "derived_files/no_form_codes.nii.gz": Wish("warn", "orientation_unknown", reference),
    "derived_files/pixdim_zero.nii.gz": refused("geometry_invalid"),
    "derived_files/oblique_20deg.nii.gz": Wish(by=reference),
    "derived_files/truncated.nii.gz": refused("truncated"),
    "derived_files/corrupt_middle.nii.gz": refused("corrupt"),
    "derived_files/plain_nii_named_gz.nii.gz": Wish(by=reference),
    "derived_files/gz_named_nii.nii": Wish(by=reference),
    "derived_files/html_instead_of_image.nii.gz": refused("unreadable"),
    "derived_files/lfs_pointer.nii.gz": refused("unreadable"),
    "derived_files/empty_file.nii.gz": refused("unreadable"),
    "derived_files/patient.1.2.840.v2.nii.gz": Wish(by=reference),
    "derived_files/compressed.mhd": Wish(by=by_itk),
    "derived_files/compressed.zraw": refused("unreadable"),
    "derived_files/single_file.mha": Wish(by=by_itk),
    "derived_files/gzip.nrrd": Wish(by=by_itk),
    "derived_files/msb.mhd": Wish(by=by_itk),
    "derived_files/msb.raw": refused("unreadable"),
    "derived_files/missing_raw.mhd": refused("missing"),
    "derived_files/dicom_missing_slices": refused("slice_spacing;identifying_text"),
    "derived_files/dicom_duplicate_slice": refused("duplicate_slice;identifying_text"),
    "derived_files/dicom_two_series_mixed": refused("several_series;identifying_text"),
    "derived_files/gray16.png": Wish(by=by_skimage),
    "derived_files/rgba.png": Wish(by=by_skimage, channels=3),
    "derived_files/palette.png": Wish(by=by_skimage, channels=3),
    "derived_files/mask_1bit.png": Wish(by=by_skimage, image="self"),
    "derived_files/mask_like_jpeg.jpg": refused("label_channels", "derived_files/gray16.png", by_skimage),
    "derived_files/multipage_stack.tif": Wish(by=by_tifffile),
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> dict[str, dict[str, str]]:
    with (shared_data / "loader_oddities" / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        return {row["path"]: row for row in csv.DictReader(stream)}


@pytest.fixture
def odd_path(shared_data: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Path of a row; a DICOM file, which lies among others, gets a folder of its own, as a series has."""

    def place(name: str) -> Path:
        path = shared_data / "loader_oddities" / name
        if path.suffix != ".dcm":
            return path
        folder = tmp_path / path.stem
        folder.mkdir()
        (folder / path.name).write_bytes(path.read_bytes())
        return folder

    return place


def inspect(wish: Wish, path: Path, odd_path: Callable[[str], Path]) -> InspectedCase:
    image = path if wish.image in ("", "self") else odd_path(wish.image)
    drawn = path if wish.image else odd_path(wish.label) if wish.label else ""
    case = CaseRecord("case", "p", "", (str(image),), str(drawn), "")
    known = {name: value for name, value in LABELS.items() if value < 3 or wish.image == "self"}
    facts = DatasetFacts("odd", tuple(f"c{i}" for i in range(wish.channels)), known)
    return inspect_case(case, facts, PARAMS)


def test_the_table_has_every_row_of_the_manifest_and_no_other(rows: dict[str, dict[str, str]]) -> None:
    assert set(WISHES) == set(rows)
    assert len(rows) == 71


@pytest.mark.parametrize("name", WISHES)
def test_the_verdict(name: str, odd_path: Callable[[str], Path]) -> None:
    wish = WISHES[name]
    found = inspect(wish, odd_path(name), odd_path)
    case = found.record
    assert (case.verdict, case.code) == (wish.verdict, wish.code), case.reason
    assert (found.fingerprint is None) == (wish.verdict == "quarantined")
    assert bool(case.reason) == bool(case.code)  # whatever is not plainly right is said


@pytest.mark.parametrize("name", [name for name, wish in WISHES.items() if wish.by is None])
def test_what_is_refused_is_refused_at_the_door(name: str, odd_path: Callable[[str], Path]) -> None:
    with pytest.raises(ImageFileError) as caught:
        read_image_file(odd_path(name))
    assert caught.value.code == WISHES[name].code.split(";")[0]
    assert caught.value.what and caught.value.fix


@pytest.mark.parametrize("name", [name for name, wish in WISHES.items() if wish.by is not None])
def test_voxels_and_place(
    name: str, odd_path: Callable[[str], Path], rows: dict[str, dict[str, str]]
) -> None:
    wish, path = WISHES[name], odd_path(name)
    stored, _ = read_image_file(path)
    assert wish.by is not None
    expected = wish.by(path)
    expected = expected.reshape((*expected.shape, 1, 1)[:3] + (-1,)) if expected.ndim < 4 else expected
    found = np.moveaxis(stored.array, 0, -1)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=wish.within)
    if wish.within == 0 and expected.dtype.kind in "iu":
        np.testing.assert_array_equal(found, expected)
    assert_facts(stored, rows[name], path, wish)


@pytest.mark.parametrize("axes", ["PSR", "LPI", "ASL"])
def test_turned_axes_hold_the_same_image(odd_path: Callable[[str], Path], axes: str) -> None:
    path = odd_path(f"derived_files/reoriented_{axes}.nii.gz")
    stored, _ = read_image_file(path)
    array, affine = to_canonical(stored.array, stored.affine)
    np.testing.assert_array_equal(array[0], reference(path))
    np.testing.assert_array_equal(affine, nibabel.load(odd_path(REFERENCE)).affine)


def test_dots_in_a_name_stay(odd_path: Callable[[str], Path]) -> None:
    assert image_stem(odd_path("derived_files/patient.1.2.840.v2.nii.gz")) == "patient.1.2.840.v2"


def assert_facts(stored: StoredImage, row: dict[str, str], path: Path, wish: Wish) -> None:
    """Whatever the manifest says of a row in numbers."""
    facts, array = row["known_facts"], stored.array
    if match := SHAPE.search(facts):
        shape = tuple(map(int, (match[1] or match[2]).split(", ")))
        if path.suffix == ".tif":
            shape = shape[::-1]  # pages, rows, columns
        elif path.suffix == ".png":
            shape = (shape[1], shape[0], 1, 3)
        assert np.moveaxis(array, 0, -1).shape == (*shape, 1, 1)[: max(4, len(shape))]
    if match := RANGE.search(facts):
        low, high, mean = map(float, match.groups())
        assert (array.min(), array.max()) == pytest.approx((low, high), rel=1e-5)
        assert array.mean(dtype=np.float64) == pytest.approx(mean, rel=1e-5)
    if match := re.search(r"axes ([A-Z]{3})", facts):
        assert "".join(nibabel.aff2axcodes(stored.affine)) == match[1]
    if facts.startswith("voxels per class"):
        values, counts = np.unique(round_labels(stored, path)[0].array, return_counts=True)
        found = dict(zip(values.tolist(), counts.tolist(), strict=True))
        assert found == {int(value): int(count) for value, count in CLASSES.findall(facts)}
    if (
        path.suffix == ".mgz"
    ):  # its directions are not of length 1, so the stated 1 mm is not that of the affine
        np.testing.assert_allclose(stored.affine, nibabel.load(path).affine, rtol=1e-6)
    elif match := READS.search(row["observed_nibabel_5.4"]):
        zooms = [float(zoom) for zoom in match[2].split(", ")]
        np.testing.assert_allclose(spacing_mm(stored.affine)[: len(zooms)], zooms, atol=0.01)
        assert stored.affine[0, 3] == pytest.approx(float(match[1]), abs=0.051)
