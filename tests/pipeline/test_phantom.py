"""A case of the phantom: labels against anatomy, and that it depends on seed and number alone."""

from __future__ import annotations

from functools import cache

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.config import PhantomParams
from pipeline.errors import SegtrailError
from pipeline.phantom import PhantomCase, case_names, make_case
from pipeline.phantom_scan import SITES, to_orientation
from pipeline.volume import spacing_mm, to_canonical

SMALL = PhantomParams(
    datasets=["phantom"],
    cases=10,
    seed=2026,
    shape=(64, 64, 48),
    spacing_mm=(2.0, 2.0, 3.0),
    noise_hu=35.0,
)
WHOLE = SMALL.model_copy(update={"shape": (112, 96, 48)})
INDICES = (0, 2, 4, 5, 9)


@cache
def small_case(index: int) -> PhantomCase:
    return make_case(SMALL, index)


class TestCase:
    def test_is_a_function_of_seed_and_number_alone(self) -> None:
        again = make_case(SMALL.model_copy(update={"cases": 900}), 2)
        assert again.volume.array.tobytes() == small_case(2).volume.array.tobytes()
        assert again.instances.array.tobytes() == small_case(2).instances.array.tobytes()
        assert again.volume.affine.tobytes() == small_case(2).volume.affine.tobytes()
        other = make_case(SMALL.model_copy(update={"seed": 2027}), 2)
        assert (
            other.volume.array.shape != again.volume.array.shape
            or (other.volume.array != again.volume.array).any()
        )

    def test_negative_and_huge_seeds_are_legal(self) -> None:
        images = [
            make_case(SMALL.model_copy(update={"seed": seed}), 0).volume.array for seed in (-1, 10**30, 1)
        ]
        assert len({image.tobytes() for image in images}) == 3

    def test_noise_has_the_strength_that_params_ask_for(self) -> None:
        quiet = make_case(SMALL.model_copy(update={"noise_hu": 0.0}), 2)
        loud = small_case(2)
        assert (quiet.label_map.array == loud.label_map.array).all()
        body = quiet.volume.array > -900  # air is cut off at -1024, which halves its noise
        difference = (loud.volume.array.astype(float) - quiet.volume.array)[body]
        assert difference.std() == pytest.approx(35.0 * SITES[loud.site].noise, rel=0.03)
        assert difference.mean() == pytest.approx(0.0, abs=1.0)

    @pytest.mark.parametrize("index", INDICES)
    def test_types_and_hounsfield_units(self, index: int) -> None:
        case = small_case(index)
        image = case.volume.array
        assert image.dtype == np.int16
        assert case.label_map.array.dtype == case.instances.array.dtype == np.uint8
        assert image.shape == (1, *case.label_map.array.shape) == (1, *case.lung.shape)
        assert -1024 <= image.min() < -950
        assert 250 < image.max() < 1500  # ribs and spine, no metal
        lung = ndimage.binary_erosion(case.lung & (case.label_map.array == 0))
        assert -920 < np.median(image[0][lung]) < -780
        corner = image[0][:4, :4, :4]
        assert corner.mean() == pytest.approx(-1000, abs=25)

    @pytest.mark.parametrize("index", INDICES)
    def test_nodules_lie_in_the_lungs_and_are_denser(self, index: int) -> None:
        case = small_case(index)
        nodules = case.label_map.array > 0
        assert not (nodules & ~case.lung).any()
        if nodules.any():
            image = case.volume.array[0]
            assert image[nodules].mean() > np.median(image[case.lung & ~nodules]) + 200

    @pytest.mark.parametrize("index", INDICES)
    def test_instances_agree_with_labels(self, index: int) -> None:
        case = small_case(index)
        ids, items = case.instances.array, case.instances.items
        assert ((ids > 0) == (case.label_map.array == 1)).all()
        assert sorted(np.unique(ids[ids > 0])) == [item.id for item in items] == [*range(1, len(items) + 1)]
        assert [item.voxels for item in items] == sorted((item.voxels for item in items), reverse=True)
        for item in items:
            assert ndimage.label(ids == item.id)[1] == 1
            first, last = np.argwhere(ids == item.id).min(axis=0), np.argwhere(ids == item.id).max(axis=0)
            assert item.box_voxels == (tuple(first), tuple(last + 1))
            assert item.voxels == (ids == item.id).sum()
        assert ndimage.label(ids > 0, np.ones((3, 3, 3)))[1] == len(items)  # no two touch

    @pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL"])
    def test_reorientation_keeps_the_centroid_in_the_world(self, codes: str) -> None:
        case = small_case(2)
        canonical, affine = to_canonical(case.label_map.array, case.label_map.affine)
        stored, stored_affine = to_orientation(canonical, affine, codes)

        def centroid(array: NDArray[np.uint8], placed: NDArray[np.float64]) -> NDArray[np.float64]:
            return nibabel.affines.apply_affine(placed, np.argwhere(array).mean(axis=0))

        assert centroid(stored, stored_affine) == pytest.approx(
            centroid(case.label_map.array, case.label_map.affine), abs=1e-3
        )

    def test_anatomy_is_right_in_the_world_however_it_is_stored(self) -> None:
        seen = set()
        for index in (1, 2, 14, 17):  # RAS, LPS, axes swapped, oblique: see data/README.md
            case = make_case(WHOLE, index)
            seen.add("".join(nibabel.aff2axcodes(case.volume.affine)))
            x, y, z = nibabel.affines.apply_affine(case.volume.affine, np.argwhere(case.lung)).T
            assert (x < 0).sum() < (x > 0).sum()  # the heart takes room from the left lung
            bone = np.argwhere(case.volume.array[0] > 230)
            assert nibabel.affines.apply_affine(case.volume.affine, bone)[:, 1].mean() < -15  # the spine
            assert np.ptp(x[z > z.max() - 12]) < 0.85 * np.ptp(x)  # lungs are narrow at the top
            large = max(case.nodules, key=lambda n: n.diameter_mm)
            found = np.array([item.centroid_mm for item in case.instances.items])
            offsets = np.linalg.norm(found - large.centre_mm, axis=1)
            assert offsets.min() < 0.25 * large.diameter_mm
        assert len(seen) >= 3

    def test_a_field_too_small_for_a_thorax_is_refused(self) -> None:
        tiny = SMALL.model_copy(update={"shape": (48, 48, 48), "spacing_mm": (1.0, 1.0, 3.0)})
        with pytest.raises(SegtrailError, match="48 x 48 x 144 mm.*at least 90 mm"):
            make_case(tiny, 0)

    @pytest.mark.parametrize("index", [4, 14])
    def test_measured_volume_fits_the_drawn_diameter(self, index: int) -> None:
        case = make_case(WHOLE, index)
        voxel = float(np.prod(spacing_mm(case.label_map.affine)))
        for nodule in case.nodules:
            if nodule.place == "pleura" or nodule.diameter_mm < 8:
                continue  # the pleura cuts the one, voxels are too coarse for the other
            near = [
                item
                for item in case.instances.items
                if np.linalg.norm(np.array(item.centroid_mm) - nodule.centre_mm) < nodule.radius_mm
            ]
            assert len(near) == 1
            assert near[0].voxels * voxel == pytest.approx(np.pi / 6 * nodule.diameter_mm**3, rel=0.15)


class TestPatients:
    def test_some_patients_have_two_cases_of_one_site(self) -> None:
        assert case_names(12) == ("phantom_012", "p012", "north")
        assert case_names(13) == ("phantom_013", "p012", "north")
        assert case_names(14)[1] == "p014"
        names = [case_names(index) for index in range(40)]
        assert len({patient for _, patient, _ in names}) == 35
        assert len({(patient, site) for _, patient, site in names}) == 35
        assert {site for _, _, site in names} == set(SITES)

    def test_the_second_scan_shows_the_same_nodules_grown_or_shrunk(self) -> None:
        first, second = small_case(4), small_case(5)
        assert first.patient_id == second.patient_id
        assert len(first.nodules) == len(second.nodules) > 0
        for before, after in zip(first.nodules, second.nodules, strict=True):
            assert (before.centre_mm == after.centre_mm).all()
            assert before.diameter_mm != after.diameter_mm
        assert first.volume.array.tobytes() != second.volume.array.tobytes()
