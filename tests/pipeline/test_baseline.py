"""The threshold baseline: a hand-made chest, the phantom, and real CT of LUNA16."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from pipeline.baseline import find_lungs, otsu_lung
from pipeline.config import PhantomParams
from pipeline.errors import SegtrailError
from pipeline.phantom import make_case
from pipeline.phantom_scan import to_orientation
from pipeline.volume import Volume

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
PHANTOM = PhantomParams(
    datasets=["phantom"],
    cases=10,
    seed=2026,
    shape=(64, 64, 48),
    spacing_mm=(2.0, 2.0, 3.0),
    noise_hu=35.0,
)


def chest() -> NDArray[np.int16]:
    """A box of tissue in air with two lungs that reach the top and the bottom of the volume."""
    hu = np.full((60, 40, 20), -1000, dtype=np.int16)
    hu[5:55, 5:35] = 30
    hu[9:27, 9:31] = -850
    hu[33:51, 9:31] = -850
    return hu


def foreground(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    return otsu_lung(Volume(hu[None], AFFINE)).array == 1


class TestByHand:
    def test_marks_a_ball_inside_a_lung_and_nothing_else(self) -> None:
        hu = chest()
        x, y, z = np.ogrid[:60, :40, :20]
        ball = (x - 18) ** 2 + (y - 20) ** 2 + (1.5 * (z - 10)) ** 2 < 5**2
        hu[ball] = 40
        marked = otsu_lung(Volume(hu[None], AFFINE))
        assert marked.array.dtype == np.uint8
        assert (marked.affine == AFFINE).all()
        assert ((marked.array == 1) == ball).all()

    def test_a_nodule_at_the_pleura_counts_as_lung_except_its_base(self) -> None:
        hu = chest()
        hu[9:13, 18:22, 8:11] = 40  # 8 x 8 x 9 mm, grows from the chest wall: not enclosed by air
        marked = foreground(hu)
        # A ball of 8 mm sinks 8 - sqrt(8^2 - 5^2) = 1.8 mm into the 10 mm between the lung voxels around it.
        assert marked[11:13, 18:22, 8:11].all()
        assert not (marked & (hu != 40)).any()

    def test_a_lung_of_one_value_has_no_foreground(self) -> None:
        assert not foreground(chest()).any()

    def test_air_outside_and_small_gas_inside_are_no_lung(self) -> None:
        hu = chest()
        hu[29:31, 19:21] = -980  # the windpipe
        hu[2:4] = -300  # a table beside the patient
        lungs = find_lungs(hu, (2.0, 2.0, 3.0))
        assert lungs[18, 20, 10] and lungs[42, 20, 10]
        assert not lungs[30, 20].any()
        assert not lungs[:9].any()
        assert lungs.sum() == pytest.approx((hu == -850).sum(), rel=0.03)

    @pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL"])
    def test_the_orientation_of_the_file_does_not_matter(self, codes: str) -> None:
        hu = chest()
        hu[15:20, 15:20, 5:9] = 40
        stored, affine = to_orientation(hu, AFFINE, codes)
        marked = otsu_lung(Volume(stored[None], affine))
        expected, _ = to_orientation(foreground(hu).astype(np.uint8), AFFINE, codes)
        assert marked.array.shape == stored.shape
        assert (marked.array == expected).all()
        assert marked.array.sum() == 5 * 5 * 4


class TestErrors:
    @pytest.mark.parametrize(
        "hu",
        [
            np.zeros((20, 20, 10), dtype=np.int16),
            np.full((20, 20, 10), -1000, dtype=np.int16),
            np.random.default_rng(1).integers(0, 900, (20, 20, 10)).astype(np.int16),  # MRI
        ],
        ids=["tissue", "air", "mri"],
    )
    def test_images_without_lungs_are_refused(self, hu: NDArray[np.int16]) -> None:
        with pytest.raises(SegtrailError, match="no air inside a body") as error:
            otsu_lung(Volume(hu[None], AFFINE))
        assert "evaluate.baseline" in error.value.where
        assert "none" in error.value.fix

    def test_a_body_with_a_bubble_alone_is_refused(self) -> None:
        hu = np.full((40, 40, 20), -1000, dtype=np.int16)
        hu[4:36, 4:36] = 40
        hu[20:23, 20:23, 9:12] = -900
        with pytest.raises(SegtrailError, match="values run from -1000 to 40"):
            otsu_lung(Volume(hu[None], AFFINE))


class TestOnImages:
    def test_finds_the_phantom_s_lungs_but_fails_at_its_nodules(self) -> None:
        scores = []
        for index in (0, 1, 2, 4, 6):
            case = make_case(PHANTOM, index)
            marked, reference = otsu_lung(case.volume).array == 1, case.label_map.array == 1
            if reference.any():
                scores.append(2 * (marked & reference).sum() / (marked.sum() + reference.sum()))
            solid = case.volume.array[0][reference] > -300
            assert (marked[reference][solid]).mean() > 0.4 if solid.any() else True
        assert len(scores) >= 4
        assert max(scores) < 0.5
        assert np.mean(scores) < 0.35

    def test_real_ct_has_its_annotated_nodule_in_the_foreground(self, shared_data: Path) -> None:
        folder = shared_data / "luna16"
        path = next((folder / "subset0").glob("*480003264.mhd"))
        image = SimpleITK.ReadImage(str(path))
        hu = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
        affine = np.diag([*image.GetSpacing(), 1.0])
        affine[:3, 3] = image.GetOrigin()
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's world is LPS
        marked = otsu_lung(Volume(hu[None], affine)).array
        assert 0.001 < marked.mean() < 0.05  # vessels and nodule, not the whole lung
        hits = []
        with (folder / "annotations.csv").open(newline="", encoding="utf-8") as stream:
            for mark in csv.DictReader(stream):
                place = [float(mark[name]) for name in ("coordX", "coordY", "coordZ")]
                index = image.TransformPhysicalPointToIndex(place)
                if mark["seriesuid"] == path.stem and index[2] < hu.shape[2]:
                    hits.append(int(marked[index]))
        assert hits == [1]  # luna16/slab_extents.csv: one of its three nodules lies inside the slab
