"""Maps against the grid of their image: what is mended, what is refused, and every switch."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.cases import CaseRecord
from pipeline.config import load_params
from pipeline.errors import ImageFileError
from pipeline.io.case_maps import load_instance_ids, load_reference
from pipeline.io.images import StoredImage, read_image_file
from pipeline.label_fixes import PlacedMap, place_map

PARAMS = load_params().inspect
OBLIQUE = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.2, -0.1, 0.05) @ np.diag([0.8, 1.1, 3.0]), [5, -7, 11]
)
LABEL = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)


def place(
    label: NDArray, affine: NDArray, image_affine: NDArray, *fixes: str, limit: float = 0.01
) -> PlacedMap:
    image = StoredImage(np.zeros((1, 4, 5, 6), np.float32), image_affine)
    params = PARAMS.model_copy(update={"fix": fixes or PARAMS.fix, "affine_tolerance_mm": limit})
    return place_map(
        StoredImage(label[None], affine), Path("label.nii.gz"), "label", ("image", image), params
    )


def reoriented(codes: str) -> tuple[NDArray, NDArray]:
    """The label in another axis order, by nibabel."""
    image = nibabel.Nifti1Image(LABEL, OBLIQUE)
    wanted = nibabel.orientations.axcodes2ornt(codes)
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(OBLIQUE), wanted))
    return np.asarray(turned.dataobj), turned.affine


@pytest.mark.parametrize("codes", ["RAS", "PSR", "LPI", "ASL", "SRA", "IPL", "ARS"])
def test_any_axis_order_comes_back_exactly(codes: str) -> None:
    placed = place(*reoriented(codes), OBLIQUE)
    np.testing.assert_array_equal(placed.map.array, LABEL)
    np.testing.assert_array_equal(placed.map.affine, OBLIQUE)
    assert [f.code for f in placed.findings] == ([] if codes == "RAS" else ["reoriented"])
    assert all(f.fixed and not f.fatal for f in placed.findings)
    assert [(f.fix, f.before, f.after) for f in placed.fixes] == [("orientation", codes, "RAS")] * len(
        placed.fixes
    )


def test_an_axis_order_that_hides_a_shift_is_refused_with_the_shift() -> None:
    array, affine = reoriented("PSR")
    affine[0, 3] += 2.5
    (finding,) = place(array, affine, OBLIQUE).findings
    assert finding.fatal and finding.code == "geometry_mismatch"
    assert finding.reason == (
        "label against image: orientation is PSR, expected RAS; turned to it, origin is moved by (2.5, 0, 0) mm; "
        "corners lie up to 2.5 mm apart, limit inspect.affine_tolerance_mm = 0.01"
    )
    assert (finding.measured, finding.limit) == ("2.5 mm", "inspect.affine_tolerance_mm = 0.01")


def test_within_the_tolerance_the_affine_of_the_image_counts() -> None:
    moved = OBLIQUE.copy()
    moved[1, 3] += 0.4
    placed = place(LABEL, moved, OBLIQUE, limit=0.5)
    np.testing.assert_array_equal(placed.map.affine, OBLIQUE)
    (finding,), (fix,) = placed.findings, placed.fixes
    assert (finding.code, finding.measured, finding.verdict) == ("header_snapped", "0.4 mm", "fixed")
    assert np.allclose(np.array(fix.before.split(), float).reshape(3, 4), moved[:3])
    moved[1, 3] += 0.2
    assert place(LABEL, moved, OBLIQUE, limit=0.5).findings[0].code == "geometry_mismatch"


def test_float_noise_of_a_header_is_not_worth_a_word() -> None:
    placed = place(LABEL, OBLIQUE.astype(np.float32).astype(np.float64), OBLIQUE)
    assert (placed.findings, placed.fixes) == ((), ())
    np.testing.assert_array_equal(placed.map.affine, OBLIQUE)


def test_float_noise_of_values_is_rounded_and_told() -> None:
    placed = place(LABEL.astype(np.float32) + np.float32(1e-4), OBLIQUE, OBLIQUE)
    np.testing.assert_array_equal(placed.map.array, LABEL)
    assert [(f.code, f.measured) for f in placed.findings] == [("label_rounded", "0.0001")]
    with pytest.raises(ImageFileError, match="not whole numbers"):
        place(LABEL * np.float32(0.5), OBLIQUE, OBLIQUE)


@pytest.mark.parametrize(
    ("off", "code"),
    [
        ("rounding", "label_not_integer"),
        ("header", "geometry_mismatch"),
        ("orientation", "geometry_mismatch"),
    ],
)
def test_what_is_switched_off_is_refused(off: str, code: str) -> None:
    label, affine = reoriented("PSR") if off == "orientation" else (LABEL, OBLIQUE.copy())
    if off == "header":
        affine[0, 3] += 0.005
    if off == "rounding":
        label = label.astype(np.float32) + np.float32(1e-4)
    left = [fix for fix in PARAMS.fix if fix != off]
    (finding,) = place(label, affine, OBLIQUE, *left).findings
    assert (finding.code, finding.fatal) == (code, True)
    assert f"inspect.fix does not name {off}" in finding.reason
    assert not any(f.fatal for f in place(label, affine, OBLIQUE).findings)


def test_later_stages_see_what_was_mended(shared_data: Path) -> None:
    """The label is stored as RAS, its image as PSR: nibabel turns both to RAS, there they are equal."""
    folder = shared_data / "loader_oddities" / "derived_files"
    image, label = folder / "reoriented_PSR.nii.gz", folder / "reference_label.nii.gz"
    affine = read_image_file(image)[0].affine
    case = CaseRecord("a", "a", "", (str(image),), str(label), str(label), fixes=("label:orientation",))
    found = load_reference(case, affine)
    assert found.array.shape == nibabel.load(image).shape
    there = nibabel.as_closest_canonical(nibabel.Nifti1Image(found.array, found.affine))
    np.testing.assert_array_equal(np.asarray(there.dataobj), np.asarray(nibabel.load(label).dataobj))
    np.testing.assert_allclose(there.affine, nibabel.load(label).affine, atol=1e-5)
    ids = load_instance_ids(case, affine)
    assert ids is not None and ids.shape == nibabel.load(label).shape  # nothing is said of its role


def test_at_45_degrees_the_last_digit_of_a_header_is_no_other_axis_order() -> None:
    image, label = (
        nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(np.pi / 4 + noise, 0, 0))
        for noise in (1e-7, -1e-7)
    )
    assert nibabel.aff2axcodes(image) != nibabel.aff2axcodes(label)
    placed = place(LABEL, label, image)
    assert placed.findings == ()
    np.testing.assert_array_equal(placed.map.array, LABEL)
