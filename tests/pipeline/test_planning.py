"""The plan: nnU-Net's published one for hippocampus, anisotropy by hand, overrides and their errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plan_cases import MRI, make_fingerprints, make_params

from pipeline.errors import SegtrailError
from pipeline.fingerprint import ClassStatistics, Fingerprint
from pipeline.io.dataset import DatasetFacts
from pipeline.plan import Plan, load_plan
from pipeline.planning import build_plan


def test_hippocampus_gets_the_published_plan() -> None:
    plan = build_plan(
        make_fingerprints((35, 50, 36), (1, 1, 1), 180), MRI, make_params(max_patch_voxels=131072)
    )
    assert plan.spacing_mm == (1, 1, 1)
    assert plan.patch_size == (40, 56, 40)
    assert len(plan.strides) == 4
    assert plan.normalization[0].scheme == "zscore"
    assert plan.label_names == ("background", "edema", "core")
    assert plan.label_values == (0, 2, 4)


def test_spacing_is_the_median_and_the_patch_lies_within_its_budget() -> None:
    cases = make_fingerprints((300, 300, 120), (0.8, 0.8, 1.5), 2) + make_fingerprints(
        (300, 300, 120), (1, 1, 2), 3
    )
    plan = build_plan(cases, MRI, make_params(max_patch_voxels=100_000))
    assert plan.spacing_mm == (1, 1, 2)
    assert np.prod(plan.patch_size) <= 100_000
    assert np.prod(plan.patch_size) > 50_000
    assert plan.patch_size[2] < plan.patch_size[0]


def test_a_very_coarse_axis_takes_its_tenth_percentile() -> None:
    cases = make_fingerprints((320, 320, 20), (1, 1, 4.5), 2) + make_fingerprints(
        (320, 320, 20), (1, 1, 6), 8
    )
    plan = build_plan(cases, MRI, make_params())
    assert plan.spacing_mm[2] == pytest.approx(np.percentile([4.5] * 2 + [6] * 8, 10))
    assert "anisotropic" in plan.reasons["spacing_mm"]
    assert plan.resampling == "cubic" and "spline" in plan.reasons["resampling"]


def test_single_slices_get_a_2d_network() -> None:
    plan = build_plan(make_fingerprints((256, 200, 1), (1, 1, 1), 50), MRI, make_params())
    assert plan.dimensions == 2
    assert plan.patch_size[2] == 1
    assert all(stride[2] == 1 for stride in plan.strides)


def test_ct_is_clipped_to_the_foreground_and_padded_with_its_lowest() -> None:
    facts = DatasetFacts("chest", ("CT",), {"background": 0, "nodule": 1})
    (how,) = build_plan(make_fingerprints((64, 64, 64), (1, 1, 1)), facts, make_params()).normalization
    assert (how.scheme, how.low, how.high) == ("ct", pytest.approx(-99), pytest.approx(99))
    assert how.padding == pytest.approx((how.low - how.mean) / how.std)


def test_a_window_is_the_same_for_every_channel_and_air_is_zero() -> None:
    facts = DatasetFacts("chest", ("CT", "PET"), {"background": 0, "nodule": 1})
    cases = make_fingerprints((64, 64, 64), (1, 1, 1), channels=2)
    plan = build_plan(cases, facts, make_params(normalization="window", hu_window=(-1200, 600)))
    for how in plan.normalization:
        assert (how.scheme, how.low, how.high, how.padding) == ("window", -1200, 600, 0)
    assert "-1200 to 600" in plan.reasons["normalization PET"]


def test_every_value_can_be_overridden() -> None:
    params = make_params(
        spacing_mm=(2, 2, 2), patch_size=(32, 32, 32), batch_size=5, dimensions=3, normalization="ct"
    )
    plan = build_plan(make_fingerprints((64, 64, 64), (1, 1, 1)), MRI, params)
    assert plan.spacing_mm == (2, 2, 2)
    assert plan.patch_size == (32, 32, 32)
    assert plan.batch_size == 5
    assert plan.normalization[0].scheme == "ct"
    assert "set by plan.batch_size" in plan.reasons["batch_size"]


def test_a_patch_that_cannot_be_halved_says_which_could() -> None:
    with pytest.raises(SegtrailError, match=r"\[40, 56, 40\]"):
        build_plan(make_fingerprints((64, 64, 64), (1, 1, 1)), MRI, make_params(patch_size=(37, 50, 39)))


def test_a_2d_patch_with_slices_is_refused() -> None:
    with pytest.raises(SegtrailError, match="a 2D patch has one slice"):
        build_plan(
            make_fingerprints((64, 64, 64), (1, 1, 1)), MRI,
            make_params(dimensions=2, patch_size=(32, 32, 16)),
        )  # fmt: skip


def test_no_case_no_plan() -> None:
    with pytest.raises(SegtrailError, match="no case"):
        build_plan([], MRI, make_params())


def test_shipped_params_give_hippocampus_the_published_patch() -> None:
    plan = build_plan(make_fingerprints((35, 50, 36), (1, 1, 1), 180), MRI, make_params())
    assert (plan.patch_size, len(plan.strides), plan.spacing_mm) == ((40, 56, 40), 4, (1, 1, 1))


def test_a_skull_stripped_brain_is_normalised_by_its_non_zero_voxels() -> None:
    """Median 0.37 of the volume lies in the non-zero box: below 3/4. Exactly 3/4 is not."""
    cases = make_fingerprints((64, 64, 64), (1, 1, 1), 3)

    def plan_of(*fractions: float) -> bool:
        changed = [
            c.model_copy(update={"nonzero_fraction": f}) for c, f in zip(cases, fractions, strict=True)
        ]
        (how,) = build_plan(changed, MRI, make_params()).normalization
        return how.nonzero_mask

    assert plan_of(0.3, 0.37, 1.0)
    assert not plan_of(0.3, 0.75, 1.0)
    ct = DatasetFacts("chest", ("CT",), {"background": 0, "nodule": 1})
    stripped = [c.model_copy(update={"nonzero_fraction": 0.3}) for c in cases]
    assert not build_plan(stripped, ct, make_params()).normalization[0].nonzero_mask


def test_a_large_volume_gets_a_low_resolution_beside_its_own(tmp_path: Path) -> None:
    plan = build_plan(make_fingerprints((512, 512, 300), (0.8, 0.8, 1.25)), MRI, make_params())
    low = plan.alternatives["lowres"]
    assert np.prod(low.patch_size) >= 0.25 * np.prod(low.shape)
    assert "configuration: lowres" in plan.reasons["lowres"]
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan
    small = build_plan(make_fingerprints((35, 50, 36), (1, 1, 1)), MRI, make_params())
    assert "lowres" not in small.alternatives and "not needed" in small.reasons["lowres"]


def test_a_plan_from_before_configurations_still_loads(tmp_path: Path) -> None:
    made = build_plan(make_fingerprints((35, 50, 36), (1, 1, 1)), MRI, make_params())
    plan = made.model_copy(update={"alternatives": {}})
    old = {**plan.model_dump(mode="json", exclude={"alternatives", "blocks"}), "lowres": None}
    for entry in old["normalization"]:
        del entry["nonzero_mask"]
    (tmp_path / "plan.json").write_text(json.dumps(old))
    assert load_plan(tmp_path / "plan.json") == plan


def with_objects(cases: list[Fingerprint]) -> list[Fingerprint]:
    """Each case with three objects of 20 x 20 x 20 mm in one slice."""
    core = ClassStatistics(
        voxels=24_000, volume_mm3=24_000, components=3, centroid_fraction=(0.5, 0.5, 0.5),
        objects=3, object_extents_mm=((20, 20, 20),) * 3,
    )  # fmt: skip
    return [f.model_copy(update={"classes": {"core": core}, "objects_per_slice": 3}) for f in cases]


def test_detection_is_planned_on_the_grid_of_the_plan() -> None:
    """20 mm are 20 voxels of 1 mm, or 5 of 4 mm, which a zoom of 2.5 makes 12.5 pixels."""
    cases = with_objects(make_fingerprints((64, 64, 64), (1, 1, 1)))
    fine, coarse = (build_plan(cases, MRI, make_params(spacing_mm=(s, s, s))) for s in (1.0, 4.0))
    assert fine.detection is not None and fine.detection.zoom == 1
    assert coarse.detection is not None and coarse.detection.zoom == 2.5
    assert "5.0 voxels" in coarse.reasons["detection_zoom"]


def test_without_objects_detection_has_no_plan() -> None:
    plan = build_plan(make_fingerprints((64, 64, 64), (1, 1, 1)), MRI, make_params())
    assert plan.detection is None
    assert "no plan for Mask R-CNN" in plan.reasons["detection"]


def test_pictures_of_very_different_size_get_the_patch_of_the_median() -> None:
    """As in the nuclei of the 2018 Data Science Bowl: 256 x 256 to 1388 x 1040, in pixels that stand for 1 mm."""
    rgb = DatasetFacts("nuclei", ("R", "G", "B"), {"background": 0, "nucleus": 1})
    sizes = [(256, 256)] * 5 + [(320, 256)] * 4 + [(360, 360), (696, 520), (1388, 1040)]
    cases = [p for x, y in sizes for p in make_fingerprints((x, y, 1), (1, 1, 1), 1, channels=3)]
    plan = build_plan(with_objects(cases), rgb, make_params())
    assert (plan.dimensions, plan.spacing_mm) == (2, (1, 1, 1))
    assert plan.patch_size[2] == 1
    assert plan.patch_size[0] * plan.patch_size[1] <= 65536  # median 320 x 256 is more
    assert plan.patch_size[0] >= plan.patch_size[1] >= 192
    assert [how.scheme for how in plan.normalization] == ["zscore"] * 3
    assert plan.detection is not None and plan.detection.slices == 1


def test_a_plan_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    plan = build_plan(with_objects(make_fingerprints((35, 50, 36), (1, 1, 1))), MRI, make_params())
    assert plan.detection is not None
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan
    with pytest.raises(SegtrailError, match="dvc repro plan"):
        load_plan(tmp_path / "none.json")


@pytest.mark.parametrize("shape", [(512, 512, 1), (1024, 1024, 1), (512, 512, 12), (320, 320, 16)])
def test_large_flat_images_keep_their_short_axis(shape: tuple[int, int, int]) -> None:
    plan = build_plan(make_fingerprints(shape, (1, 1, 1)), MRI, make_params(max_patch_voxels=65536))
    assert 0 < np.prod(plan.patch_size) <= 65536
    assert plan.patch_size[2] >= min(shape[2], 8)


def test_an_image_too_small_for_a_network_is_refused() -> None:
    with pytest.raises(SegtrailError, match="too small to be halved"):
        build_plan(make_fingerprints((7, 7, 7), (1, 1, 1)), MRI, make_params(dimensions=3))


def test_regions_by_network_index_and_in_painting_order() -> None:
    facts = DatasetFacts(
        "brain", ("MRI",), {"background": 0, "edema": 2, "core": 4, "vessel": 9},
        regions={"whole": (2, 4), "core_alone": (4,)}, regions_class_order=(2, 4),
    )  # fmt: skip
    plan = build_plan(make_fingerprints((64, 64, 64), (1, 1, 1)), facts, make_params())
    assert [(r.name, r.labels, r.paint) for r in plan.regions] == [
        ("whole", (1, 2), 1),
        ("core_alone", (2,), 2),
    ]
    assert plan.outputs == 2
    assert plan.reasons["region whole"] == "of edema, core, found as one (dataset.json); painted as edema"
    assert plan.reasons["regions"] == "no region paints vessel: predicted label maps do not hold it"
    without = build_plan(make_fingerprints((64, 64, 64), (1, 1, 1)), MRI, make_params())
    assert (without.regions, without.outputs) == ((), 3)


def test_a_plan_of_the_time_before_regions_still_loads() -> None:
    plan = build_plan(make_fingerprints((64, 64, 64), (1, 1, 1)), MRI, make_params())
    old = plan.model_dump(mode="json", exclude={"regions"})
    assert Plan.model_validate(old).regions == ()
