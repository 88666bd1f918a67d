"""The plan of detection: each value worked out by hand, then any set at all, then real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import PlanParams
from pipeline.detection_planning import plan_detection
from pipeline.fingerprint import ChannelStatistics, ClassStatistics, Fingerprint
from pipeline.plan import DetectionPlan

SHIPPED = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
CHANNEL = ChannelStatistics(mean=0, std=1, median=0, min=0, max=0, p00_5=0, p99_5=0, samples=(0.0,))
UNIT = (1.0, 1.0, 1.0)


def make_params(**changes: Any) -> PlanParams:
    automatic = {"detection_zoom": "auto", "detection_window": "auto"}
    return PlanParams(**{**SHIPPED["plan"], **automatic, **changes})


def make_print(
    extents: Sequence[tuple[float, float, float]],
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] = UNIT,
    per_slice: int = 1,
) -> Fingerprint:
    """A case whose objects have these extents in mm."""
    found = ClassStatistics(
        voxels=1, volume_mm3=1, components=1, centroid_fraction=None,
        objects=len(extents), object_extents_mm=tuple(extents),
    )  # fmt: skip
    return Fingerprint(
        case_id="c", shape=shape, spacing_mm=spacing, intensity=(CHANNEL,),
        classes={"empty": ClassStatistics(voxels=0, volume_mm3=0, components=0, centroid_fraction=None),
                 "object": found},
        objects_per_slice=per_slice,
    )  # fmt: skip


def plan_of(
    prints: Sequence[Fingerprint], spacing: tuple[float, float, float] = UNIT, **changes: Any
) -> DetectionPlan:
    plan = plan_detection(prints, spacing, make_params(**changes), {})
    assert plan is not None
    return plan


def squares(*edges: float) -> list[tuple[float, float, float]]:
    return [(edge, edge, 1.0) for edge in edges]


def test_a_volume_by_hand() -> None:
    """Cubes of 12 mm on a grid of 2 x 2 x 3 mm are 6 voxels wide: zoom 2 makes them 12 pixels.

    Three times 12 pixels is less than 128, the smallest window. The first anchor: 0.6 x 12
    is 7.2, half of 12 is 6, the smaller of both is less than two cells of 4 pixels: 8. The others by factors of
    the root of 2, two a level.
    """
    reasons: dict[str, str] = {}
    prints = [make_print([(12, 12, 12)] * 10, (100, 80, 30), (2, 2, 3), per_slice=30)] * 4
    plan = plan_detection(prints, (2, 2, 3), make_params(), reasons)
    assert plan == DetectionPlan(
        slices=3,
        zoom=2.0,
        window=(128, 128),
        anchor_sizes=((8.0, 11.3), (16.0, 22.6), (32.0, 45.3), (64.0, 90.5)),
        anchor_ratios=(1.0,),
        detections=50,
    )
    assert (
        "10th percentile of the size of 40 objects in the plane is 6.0 voxels, 12.0 network"
        in (reasons["detection_zoom"])
    )
    assert "longer edge of objects, 12 network pixels" in reasons["detection_window"]
    assert "12.0, 12.0 and 12.0" in reasons["anchor_sizes"] and "x 0.6" in reasons["anchor_sizes"]
    assert set(reasons) == {
        "detection_zoom", "detection_window", "anchor_sizes", "anchor_ratios", "detections"
    }  # fmt: skip


def test_pictures_show_whole_objects() -> None:
    """One slice, and no share for slices off the middle: 20 pixels are cut from 20, not from 12; half of 48 is 24."""
    plan = plan_of([make_print(squares(20, 20, 20, 20, 48, 48, 48), (200, 120, 1))])
    assert (plan.slices, plan.zoom, plan.window) == (1, 1.0, (160, 128))  # 3 x 48 = 144
    assert plan.anchor_sizes[0] == (20.0, 28.3)


def test_in_volumes_anchors_begin_smaller() -> None:
    """21 objects, 5th percentile 20, 95th 60: in a volume from 0.6 x 20, in a picture from 20."""
    objects = squares(20, 20, *[40] * 17, 60, 60)
    volume, picture = (plan_of([make_print(objects, (100, 100, depth))]) for depth in (9, 1))
    assert volume.anchor_sizes[0] == (12.0, 17.0)
    assert picture.anchor_sizes[0] == (20.0, 28.3)


@pytest.mark.parametrize(
    ("edge", "zoom"),
    # 12 / edge, to the nearest half: 12, 4.8 -> 4; 3; 2.4; 1.71; 1.2; 0.6 -> 1
    [(1, 4), (2.5, 4), (4, 3), (5, 2.5), (7, 1.5), (10, 1), (20, 1)],
)
def test_small_objects_are_enlarged(edge: float, zoom: float) -> None:
    assert plan_of([make_print(squares(*[edge] * 5), (50, 50, 1))]).zoom == zoom


def test_the_smallest_tenth_decides() -> None:
    """Eleven objects of 4 to 104 voxels: the second is the 10th percentile."""
    assert plan_of([make_print(squares(4, 6, *range(24, 114, 10)), (50, 50, 1))]).zoom == 2


def test_objects_of_one_pixel() -> None:
    """At zoom 4 all are 4 pixels: so is the first anchor."""
    plan = plan_of([make_print(squares(*[1] * 20), (64, 40, 1), per_slice=20)])
    assert (plan.zoom, plan.window, plan.anchor_ratios) == (4, (128, 128), (1.0,))
    assert plan.anchor_sizes[0] == (4.0, 5.7)


def test_one_giant_object() -> None:
    """900 pixels are halved as long as 64 are left, down to 0.25: 225; the slice has 250. Half of 225 is 112.5."""
    plan = plan_of([make_print([(900, 900, 1)], (1000, 1000, 1))])
    assert (plan.zoom, plan.window) == (0.25, (256, 256))
    assert plan.anchor_sizes[0] == (112.5, 159.1)
    assert plan.anchor_ratios == (1.0,)


def test_large_slices_with_objects_of_some_size_keep_their_grid() -> None:
    """60 pixels would be 30 at half the size, less than 32."""
    assert plan_of([make_print(squares(*[60] * 5), (1000, 1000, 1))]).zoom == 1
    assert plan_of([make_print(squares(*[64] * 5), (1000, 1000, 1))]).zoom == 0.5


def test_the_window_is_three_large_objects_wide_but_not_more_than_a_slice() -> None:
    """Objects of 60 x 20: 180 is 192 in steps of 32; slices of 150 and 20 pixels are 160 and, at least, 64."""
    assert plan_of([make_print([(60, 20, 1)] * 5, (500, 280, 1))], detection_zoom=1.0).window == (192, 192)
    assert plan_of([make_print([(60, 20, 1)] * 5, (150, 20, 1))], detection_zoom=1.0).window == (160, 64)
    assert plan_of([make_print([(60, 20, 1)] * 5, (500, 280, 1))], detection_zoom=4.0).window == (320, 320)
    sizes = [(100, 90, 1), (130, 90, 1), (3000, 2000, 1)]
    assert plan_of([make_print(squares(*[12] * 5), size) for size in sizes]).window == (128, 128)


def test_anchors_reach_the_large_objects() -> None:
    """21 objects: the second and the last but one are the 5th and 95th percentile, 12 and 300 pixels.

    Doubling from 12 ends at 12 x 2^3.5 = 136. Eight sizes from 12 to 300 lie a factor of 25^(1/7) = 1.584 apart.
    """
    plan = plan_of([make_print(squares(12, 12, 12, *[40] * 16, 300, 300), (300, 300, 1))])
    assert [size for level in plan.anchor_sizes for size in level] == pytest.approx(
        [12 * 1.58382**i for i in range(8)], abs=0.1
    )


def test_a_wide_range_of_sizes_gets_three_anchors_a_level() -> None:
    """400 / 12 in seven steps is 1.65 each, more than 1.6: so in eleven, 1.3754 each."""
    plan = plan_of([make_print(squares(12, 12, 12, *[40] * 16, 400, 400), (400, 400, 1))])
    assert [len(level) for level in plan.anchor_sizes] == [3, 3, 3, 3]
    assert [size for level in plan.anchor_sizes for size in level] == pytest.approx(
        [12 * 1.37544**i for i in range(12)], abs=0.2
    )


@pytest.mark.parametrize(
    ("tenth", "median", "ninetieth", "expected"),
    [
        (0.6, 1.1, 1.5, (0.6, 1.0, 1.5)),
        (2.0, 3.0, 3.8, (1.0, 3.0, 3.8)),  # all upright: the nearest to 1 makes way
        (0.9, 1.0, 1.15, (1.0,)),  # alike
        (0.04, 1.0, 21, (0.25, 1.0, 4.0)),  # lines are cut short
        (0.5, 0.55, 1.0, (0.5, 1.0)),
    ],
)
def test_anchor_ratios(tenth: float, median: float, ninetieth: float, expected: tuple[float, ...]) -> None:
    """Of 11 objects the second, sixth and tenth are the percentiles; extent along Y over that along X."""
    ratios = [tenth, *[tenth] * 2, *[median] * 5, *[ninetieth] * 3]
    prints = [make_print([(20, 20 * ratio, 1) for ratio in ratios], (100, 100, 1))]
    assert plan_of(prints).anchor_ratios == pytest.approx(expected)


def test_crowded_pictures_by_hand() -> None:
    """900 objects in 512 x 512: at zoom 1.5 a window of 256 is a ninth of 768 x 768: 100, twice 200."""
    prints = [make_print(squares(*[8] * 200), (512, 512, 1), per_slice=900)] * 3
    assert plan_of(prints, detection_window=(256, 256)).detections == 200
    assert plan_of(prints, detection_window=(768, 768)).detections == 1000
    assert plan_of(prints, detection_window=(64, 64)).detections == 50


def test_neighbouring_cases_without_objects_change_nothing_else() -> None:
    full = make_print(squares(*[20] * 5), (100, 100, 1))
    empty = make_print([], (100, 100, 1), per_slice=0)
    assert plan_of([full, empty]) == plan_of([full])


def test_no_object_no_plan() -> None:
    reasons: dict[str, str] = {}
    assert plan_detection([make_print([], (50, 50, 1))] * 3, UNIT, make_params(), reasons) is None
    assert "none of 3 cases has an object" in reasons["detection"]


@pytest.mark.parametrize(
    ("given", "levels"),
    [
        ((8, 16, 32, 64), ((8,), (16,), (32,), (64,))),
        ((64, 8, 11, 16, 22, 32, 45, 90), ((8, 11), (16, 22), (32, 45), (64, 90))),
        ((10,), ((10,), (10,), (10,), (10,))),
        ((10, 20), ((10,), (10,), (20,), (20,))),
        ((8, 12, 16, 32, 64), ((8, 12), (12, 16), (16, 32), (32, 64))),
    ],
)
def test_given_anchor_sizes_are_dealt_to_the_levels(
    given: tuple[float, ...], levels: tuple[tuple[float, ...], ...]
) -> None:
    assert plan_of([make_print(squares(20), (64, 64, 1))], anchor_sizes=given).anchor_sizes == levels


def test_every_value_can_be_set() -> None:
    reasons: dict[str, str] = {}
    params = make_params(
        detection_zoom=0.75, detection_window=(96, 128), anchor_sizes=(9,), anchor_ratios=(0.5, 1, 2)
    )
    plan = plan_detection([make_print(squares(20), (64, 64, 1))], UNIT, params, reasons)
    assert plan is not None
    assert (plan.zoom, plan.window, plan.anchor_ratios) == (0.75, (96, 128), (0.5, 1, 2))
    for key in ("detection_zoom", "detection_window", "anchor_sizes", "anchor_ratios"):
        assert f"set by plan.{key}" in reasons[key]


EXTENT = st.floats(0.2, 3000)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(EXTENT, EXTENT, EXTENT), min_size=1, max_size=30),
    st.lists(st.tuples(*[st.integers(1, 3000)] * 2, st.integers(1, 50)), min_size=1, max_size=5),
    st.sampled_from([(0.5, 0.5, 0.5), (1.0, 1.0, 5.0), (2.0, 0.3, 1.0)]),
    st.integers(1, 5000),
)
def test_any_set_gets_a_plan_that_a_network_can_be_built_from(
    extents: list[tuple[float, float, float]],
    shapes: list[tuple[int, int, int]],
    spacing: tuple[float, float, float],
    per_slice: int,
) -> None:
    plan = plan_of([make_print(extents, shape, spacing, per_slice) for shape in shapes], spacing)
    assert 0.25 <= plan.zoom <= 4
    assert all(64 <= edge <= 1024 and edge % 32 == 0 for edge in plan.window)
    sizes = [size for level in plan.anchor_sizes for size in level]
    assert len(plan.anchor_sizes) == 4 and len({len(level) for level in plan.anchor_sizes}) == 1
    assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes) and sizes[0] > 0
    assert 1.0 in plan.anchor_ratios and 1 <= len(plan.anchor_ratios) <= 3
    assert 50 <= plan.detections <= 1000
