"""Objects of one case: worked out by hand, in pictures and volumes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.detection_cases import (
    COLUMNS,
    DSB_NAMES,
    FROC_NAMES,
    PANOPTIC_NAMES,
    VOLUME_COLUMNS,
    ReferenceObjects,
    collect_objects,
    measure_case,
)
from pipeline.objects import ObjectRow
from pipeline.scores import is_ranked
from pipeline.volume import Instances, LabelMap, Prediction
from tests.detection_scenes import ELSEWHERE, FIRST, SECOND, compare, prediction, reference

PICTURE, VOLUME = (40, 40, 1), (40, 40, 9)


def measure(*args: object, **more: object) -> dict[str, float]:
    (one,) = compare(*args, **more)  # type: ignore[arg-type]
    return measure_case(one, 100, 100)


def lift(*places: tuple[int, int]) -> list[tuple[int, int, int]]:
    return [(*place, 4) for place in places]


def test_two_discs_one_found_one_false_alarm() -> None:
    numbers = measure(PICTURE, {FIRST: 1, SECOND: 1}, [(1, 0.9, FIRST), (1, 0.8, ELSEWHERE)])
    assert tuple(numbers) == COLUMNS
    # Precision 1 up to a recall of 1/2, that is at 51 of the 101 recalls, nothing behind it.
    for name in ("map_50_95", "map_50", "map_75", "map_10_50"):
        assert numbers[f"mask_{name}"] == numbers[f"box_{name}"] == pytest.approx(51 / 101)
    assert numbers["mask_mar_100"] == numbers["box_mar_100"] == 0.5
    assert [numbers[n] for n in ("ap_dsb", "ap_dsb_50", "ap_dsb_75")] == pytest.approx([1 / 3] * 3)
    # One pair of overlap 1; 1 / (1 + 1/2 + 1/2).
    assert numbers["panoptic_quality"] == numbers["recognition_quality"] == 0.5
    assert numbers["segmentation_quality"] == 1.0


def test_the_false_alarm_comes_first() -> None:
    numbers = measure(PICTURE, {FIRST: 1, SECOND: 1}, [(1, 0.8, FIRST), (1, 0.9, ELSEWHERE)])
    assert numbers["mask_map_50"] == pytest.approx(51 / 101 / 2)


def test_the_same_in_a_volume_with_froc() -> None:
    first, second, elsewhere = lift(FIRST, SECOND, ELSEWHERE)
    numbers = measure(VOLUME, {first: 1, second: 1}, [(1, 0.9, first), (1, 0.8, elsewhere)])
    assert tuple(numbers) == VOLUME_COLUMNS
    assert numbers["mask_map_10_50"] == pytest.approx(51 / 101)
    assert numbers["panoptic_quality"] == 0.5
    # One of two nodules is found before the first false alarm, and none after it.
    assert [numbers[name] for name in ("cpm", *FROC_NAMES)] == [0.5] * 8


def test_froc_of_a_hit_behind_a_false_alarm() -> None:
    first, second, elsewhere = lift(FIRST, SECOND, ELSEWHERE)
    numbers = measure(VOLUME, {first: 1, second: 1}, [(1, 0.9, elsewhere), (1, 0.8, first)])
    # The curve runs from (0, 0) to (1, 0), rises there to 1/2, and stays.
    assert [numbers[name] for name in FROC_NAMES] == [0, 0, 0, 0.5, 0.5, 0.5, 0.5]
    assert numbers["cpm"] == pytest.approx(2 / 7)


@pytest.mark.parametrize("shape", [PICTURE, VOLUME])
def test_a_perfect_prediction_is_1_everywhere(shape: tuple[int, int, int]) -> None:
    places = [FIRST, SECOND] if shape == PICTURE else lift(FIRST, SECOND)
    numbers = measure(shape, dict.fromkeys(places, 1), [(1, 0.9, places[0]), (1, 0.8, places[1])])
    assert set(numbers.values()) == {1.0}


@pytest.mark.parametrize("shape", [PICTURE, VOLUME])
def test_empty_cases(shape: tuple[int, int, int]) -> None:
    place = FIRST if shape == PICTURE else lift(FIRST)[0]
    assert all(math.isnan(v) for v in measure(shape, {}, []).values())
    assert set(measure(shape, {place: 1}, []).values()) == {0.0}
    # A false alarm alone: nothing was to be found down the ranked list; the metrics without scores are 0.
    alarm = measure(shape, {}, [(1, 0.06, place)])
    assert {name for name, value in alarm.items() if value == 0.0} == {*DSB_NAMES, *PANOPTIC_NAMES}
    assert {name for name, value in alarm.items() if math.isnan(value)} == {n for n in alarm if is_ranked(n)}


def test_overlap_below_1_meets_the_lower_thresholds_alone() -> None:
    one = compare(PICTURE, {FIRST: 1}, [(1, 0.9, (11, 10))])[0]
    # Discs of 49 pixels (radius 4) one pixel apart share 40: 40 / 58 = 0.69.
    assert one.detections["mask"].overlaps.toarray()[0, 0] == pytest.approx(40 / 58)
    assert one.detections["box"].overlaps.toarray()[0, 0] == pytest.approx(72 / 90)  # 9 x 9 boxes
    numbers = measure_case(one, 100, 100)
    assert (numbers["mask_map_50"], numbers["mask_map_75"], numbers["box_map_75"]) == (1.0, 0.0, 1.0)
    assert numbers["mask_map_50_95"] == pytest.approx(0.4)  # .50 .55 .60 .65
    assert numbers["ap_dsb"] == pytest.approx(0.4)
    assert numbers["panoptic_quality"] == pytest.approx(40 / 58)


def test_classes_are_apart() -> None:
    labels = {"a": 1, "b": 2, "absent": 3}
    # The object of class a is taken for one of class b: missed in a, a false alarm in b.
    first, second, absent = compare(PICTURE, {FIRST: 1, SECOND: 2}, [(2, 0.9, FIRST)], labels=labels)
    assert [one.detections["mask"].overlaps.shape for one in (first, second, absent)] == [
        (0, 1),
        (1, 1),
        (0, 0),
    ]
    assert second.detections["mask"].overlaps.nnz == 0
    assert [measure_case(one, 100, 100)["mask_map_50"] for one in (first, second)] == [0.0, 0.0]
    assert math.isnan(measure_case(absent, 100, 100)["mask_map_50"])


def test_scoreless_metrics_take_the_objects_of_the_label_map() -> None:
    found = [(1, 0.9, FIRST), (1, 0.3, ELSEWHERE)]
    every, sure = (measure(PICTURE, {FIRST: 1}, found, label_score=s) for s in (0.0, 0.5))
    assert (every["ap_dsb"], sure["ap_dsb"]) == (0.5, 1.0)
    assert (every["panoptic_quality"], sure["panoptic_quality"]) == (pytest.approx(2 / 3), 1.0)
    assert (
        every["mask_map_50"] == sure["mask_map_50"] == 1.0
    )  # a false alarm behind the last hit costs nothing


def test_components_are_the_objects_of_a_label_map_without_instances() -> None:
    label_map, _ = reference(PICTURE, {FIRST: 1, SECOND: 1})
    truth = ReferenceObjects(label_map, None, [])
    (one,) = collect_objects(truth, prediction(PICTURE, [(1, 0.9, FIRST)]), {"nodule": 1}, "a", "a", True)
    assert one.detections["mask"].overlaps.toarray().tolist() == [[1.0, 0.0]]


def test_sizes_are_pixels_of_a_picture_and_diameters_in_a_volume() -> None:
    (one,) = compare(PICTURE, {FIRST: 1}, [(1, 0.9, FIRST)])
    for kind in ("mask", "box"):
        assert one.detections[kind].reference_sizes.tolist() == [49.0]
        assert one.detections[kind].prediction_sizes.tolist() == [49.0 if kind == "mask" else 81.0]
    ids = np.zeros((20, 20, 20), np.uint8)
    ids[5:10, 5:10, 5:10] = 1
    affine = np.diag([1.0, 0.5, 2.0, 1.0])
    truth = ReferenceObjects(LabelMap(ids, affine), ids, [])
    nothing = Prediction(LabelMap(ids * 0, affine), Instances(ids * 0, affine, ()))
    (one,) = collect_objects(truth, nothing, {"nodule": 1}, "a", "a", False)
    # 125 voxels of 1 mm3: the sphere of 125 mm3 has the radius (3 * 125 / (4 pi))^(1/3).
    assert one.detections["mask"].reference_sizes[0] == pytest.approx(2 * (375 / (4 * math.pi)) ** (1 / 3))


def test_a_single_slice_among_volumes_is_a_volume() -> None:
    (one,) = compare(PICTURE, {FIRST: 1}, [(1, 0.9, FIRST)], flat=False)
    assert tuple(measure_case(one, 100, 100)) == VOLUME_COLUMNS
    for kind in ("mask", "box"):  # the sphere of 49 mm3
        sizes = [*one.detections[kind].reference_sizes, *one.detections[kind].prediction_sizes]
        assert sizes == pytest.approx([2 * (3 * 49 / (4 * math.pi)) ** (1 / 3)] * 2)


def test_marks_are_centroids_and_ignored_findings_count_neither_way() -> None:
    first, second = lift(FIRST, SECOND)
    label_map, ids = reference(VOLUME, {first: 1})
    rows = [
        ObjectRow("a", 1, "nodule", 8.0, 10.0, 10.0, 4.0, 100),
        ObjectRow("a", 0, "nodule", -1.0, 30.0, 10.0, 4.0, 0, ignored=True),
        ObjectRow("a", 0, "other", 8.0, 10.0, 30.0, 4.0, 0),
    ]
    truth = ReferenceObjects(label_map, ids, rows)
    made = prediction(VOLUME, [(1, 0.9, second), (1, 0.8, first)])
    (one,) = collect_objects(truth, made, {"nodule": 1}, "a", "a", False)
    assert one.marks is not None
    assert one.marks.positions_mm.tolist() == [[30.0, 10.0, 4.0], [10.0, 10.0, 4.0]]
    assert (len(one.marks.nodules_mm), len(one.marks.ignored_mm)) == (1, 1)
    numbers = measure_case(one, 100, 100)
    assert numbers["cpm"] == 1.0
    assert (
        numbers["mask_map_50"] == 0.5
    )  # the ignored finding has no mask: to average precision a false alarm
    only_ignored = ReferenceObjects(LabelMap(label_map.array * 0, np.eye(4)), ids * 0, rows[1:2])
    made = prediction(VOLUME, [(1, 0.9, second)])
    (one,) = collect_objects(only_ignored, made, {"nodule": 1}, "a", "a", False)
    assert math.isnan(measure_case(one, 100, 100)["cpm"])


def test_only_so_many_detections_and_marks_count() -> None:
    first, elsewhere = lift(FIRST, ELSEWHERE)
    (one,) = compare(VOLUME, {first: 1}, [(1, 0.9, elsewhere), (1, 0.8, first)])
    numbers = measure_case(one, max_detections=1, max_marks=1)
    assert (numbers["mask_map_50"], numbers["cpm"], numbers["mask_mar_100"]) == (0.0, 0.0, 1.0)
