"""Pooled detection metrics: by hand, against explicit resampling, and what the protocol says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.detection_cases import COLUMNS, VOLUME_COLUMNS, ClassObjects
from pipeline.detection_evaluation import (
    count_objects,
    describe_detection,
    measure_cases,
    summarise_detection,
)
from pipeline.intervals import draw_patients
from tests.detection_scenes import ELSEWHERE, FIRST, PARAMS, SECOND, compare

PICTURE, VOLUME = (40, 40, 1), (40, 40, 9)
LOW, MIDDLE = (10, 10, 4), (30, 10, 4)


def two_cases() -> list[ClassObjects]:
    """One object found in a, with a score of .9; in b one missed, and a false alarm of .8."""
    return [
        *compare(PICTURE, {FIRST: 1}, [(1, 0.9, FIRST)], "a"),
        *compare(PICTURE, {SECOND: 1}, [(1, 0.8, ELSEWHERE)], "b"),
    ]


def test_cases_are_pooled_by_score() -> None:
    numbers = summarise_detection(two_cases(), PARAMS)
    # Over both cases: a hit, then a false alarm; one of two objects found.
    assert numbers["test/mask_map_50"] == numbers["test/nodule/mask_map_50"] == pytest.approx(51 / 101)
    assert numbers["test/box_mar_100"] == 0.5
    assert numbers["test/mask_map_50_n"] == 2
    assert numbers["test/ap_dsb"] == 0.5  # the mean of 1 and 0
    assert numbers["test/panoptic_quality"] == 0.5  # 1 / (1 + 1/2 + 1/2)
    assert numbers["test/segmentation_quality"] == 1.0
    cases = measure_cases(two_cases(), PARAMS)
    assert [cases[c, "nodule"]["mask_map_50"] for c in "ab"] == [1.0, 0.0]  # each case alone


def test_names_of_pictures_and_volumes() -> None:
    flat = summarise_detection(two_cases(), PARAMS)
    volumes = summarise_detection(compare(VOLUME, {LOW: 1}, [(1, 0.9, LOW)]), PARAMS)
    for numbers, columns in ((flat, COLUMNS), (volumes, VOLUME_COLUMNS)):
        headline = {name.removeprefix("test/") for name in numbers if f"{name}_ci_low" in numbers}
        assert headline == {*columns, *(f"nodule/{name}" for name in columns)}
        assert {f"test/mask_map_50_95_{size}" for size in ("small", "medium", "large")} <= set(numbers)
    assert not any("froc" in name or "cpm" in name for name in flat)


def test_mean_over_the_classes_that_have_one() -> None:
    labels = {"a": 1, "b": 2, "absent": 3}
    objects = [
        *compare(PICTURE, {FIRST: 1, SECOND: 2}, [(1, 0.9, FIRST)], "a", labels=labels),
        *compare(PICTURE, {FIRST: 1}, [(1, 0.9, FIRST)], "b", labels=labels),
    ]
    numbers = summarise_detection(objects, PARAMS)
    assert [numbers[f"test/{c}/mask_map_50"] for c in labels] == [1.0, 0.0, None]
    assert numbers["test/mask_map_50"] == 0.5
    assert [numbers[f"test/{c}/mask_map_50_n"] for c in labels] == [2, 1, 0]
    assert numbers["test/absent/panoptic_quality"] is None
    # Class b has one patient only: no interval of its own.
    assert numbers["test/b/mask_map_50_ci_low"] is None
    assert numbers["test/a/mask_map_50_ci_low"] == 1.0


def test_nothing_at_all_and_false_alarms_alone() -> None:
    nothing = summarise_detection(compare(PICTURE, {}, []), PARAMS)
    assert set(nothing.values()) == {None, 0}
    alarms = summarise_detection(compare(PICTURE, {}, [(1, 0.9, FIRST)]), PARAMS)
    assert alarms["test/mask_map_50"] is None  # no object to be found in any case
    assert (alarms["test/ap_dsb"], alarms["test/panoptic_quality"], alarms["test/ap_dsb_n"]) == (0.0, 0.0, 1)


def test_case_without_objects_adds_its_false_alarms() -> None:
    objects = [
        *compare(VOLUME, {LOW: 1}, [(1, 0.5, LOW)], "a"),
        *compare(VOLUME, {}, [(1, 0.9, MIDDLE)], "b"),
        *compare(VOLUME, {}, [], "c"),
    ]
    numbers = summarise_detection(objects, PARAMS)
    assert numbers["test/mask_map_50"] == 0.5
    # Three scans, one false alarm before the hit: (0, 0), (1/3, 0), (1/3, 1).
    assert [numbers[f"test/froc_{r}"] for r in ("0125", "025", "05")] == [0.0, 0.0, 1.0]
    assert numbers["test/cpm"] == pytest.approx(5 / 7)
    # One case has an object to be found, two have one on either side: the false alarm counts, the mean of one
    # patient has no interval.
    names = ("mask_map_50", "box_mar_100", "cpm", "froc_1", "ap_dsb", "panoptic_quality")
    assert [numbers[f"test/{name}_n"] for name in names] == [1, 1, 1, 1, 2, 2]
    intervals = [numbers[f"test/{name}_ci_low"] is not None for name in names]
    assert intervals == [False, False, False, False, True, True]


def test_n_counts_the_cases_in_which_this_metric_is_defined() -> None:
    # Two objects found, of which that of b stands in the instance map alone; in c an unsure false alarm.
    found = [*compare(VOLUME, {LOW: 1}, [(1, 0.9, LOW)], "a", label_score=0.5)]
    found += compare(VOLUME, {LOW: 1}, [(1, 0.4, LOW)], "b", label_score=0.5)
    found += compare(VOLUME, {}, [(1, 0.4, LOW)], "c", label_score=0.5)
    numbers = summarise_detection(found, PARAMS)
    names = ("mask_map_50", "cpm", "ap_dsb", "panoptic_quality")
    assert [numbers[f"test/nodule/{name}_n"] for name in names] == [2] * 4
    assert numbers["test/nodule/ap_dsb"] == 0.5


def test_a_set_that_mixes_slices_and_volumes() -> None:
    objects = [
        *compare(PICTURE, {FIRST: 1}, [(1, 0.9, FIRST)], "a", flat=False),
        *compare(VOLUME, {LOW: 1}, [(1, 0.8, MIDDLE)], "b"),
    ]
    numbers = summarise_detection(objects, PARAMS)
    # Of two scans one nodule is found before the only false alarm.
    assert (numbers["test/cpm"], numbers["test/cpm_n"], numbers["test/mask_map_50_n"]) == (0.5, 2, 2)
    assert (numbers["test/cpm_ci_low"], numbers["test/cpm_ci_high"]) == (0.0, 1.0)
    # The disc is a sphere of 49 mm3 = 4.5 mm, the ball has 7.9 mm.
    assert count_objects(objects)["nodule"] == {
        "predicted": 2, "reference": 2, "small": 1, "medium": 1, "large": 0,
    }  # fmt: skip


def test_by_size() -> None:
    # A ball of radius 4 has 257 voxels of 1 mm3: 7.9 mm, medium. A disc of 49 pixels is small.
    volume = summarise_detection(compare(VOLUME, {LOW: 1}, [(1, 0.9, LOW)]), PARAMS)
    flat = summarise_detection(two_cases(), PARAMS)
    for numbers, there, value in ((volume, "medium", 1.0), (flat, "small", 51 / 101)):
        for size in ("small", "medium", "large"):
            for kind in ("mask", "box"):
                expected = pytest.approx(value) if size == there else None
                assert numbers[f"test/{kind}_map_50_95_{size}"] == expected
    assert count_objects(two_cases()) == {
        "nodule": {"predicted": 2, "reference": 2, "small": 2, "medium": 0, "large": 0}
    }


def many_cases() -> list[ClassObjects]:
    """Twelve volumes of eight patients, each with two nodules, some missed, some false alarms."""
    random, objects = np.random.default_rng(4), []
    for i in range(12):
        found = [(1, random.random(), place) for place in (LOW, MIDDLE) if random.random() < 0.7]
        found += [(1, random.random(), (10, 30, 4))] * (random.random() < 0.5)
        objects += compare(VOLUME, {LOW: 1, MIDDLE: 1}, found, f"c{i}", f"p{i % 8}")
    return objects


@pytest.mark.parametrize("name", ["mask_map_50", "panoptic_quality", "cpm", "ap_dsb_50", "box_mar_100"])
def test_intervals_draw_whole_patients(name: str) -> None:
    objects = many_cases()
    numbers = summarise_detection(objects, PARAMS)
    patients = sorted({one.patient_id for one in objects})
    values = []
    for draw in draw_patients(len(patients), PARAMS.bootstrap_samples, PARAMS.seed):
        copies = dict(zip(patients, draw.astype(int), strict=True))
        sample = [one for one in objects for _ in range(copies[one.patient_id])]
        values.append(pooled_by_hand(sample, name))
    assert numbers[f"test/{name}"] == pytest.approx(pooled_by_hand(objects, name))
    ends = [numbers[f"test/{name}_ci_{end}"] for end in ("low", "high")]
    assert ends == pytest.approx(np.percentile(values, (2.5, 97.5)).tolist(), abs=1e-5)  # float32 inside


def pooled_by_hand(sample: list[ClassObjects], name: str) -> float:
    """The same number from its definition, one object after the other."""
    events = []
    for one in sample:
        scores, overlaps = one.detections["mask"].scores, one.detections["mask"].overlaps.toarray()
        events += [(score, bool((row > 0.5).any())) for score, row in zip(scores, overlaps, strict=True)]
    events.sort(key=lambda event: -event[0])
    hits = np.array([hit for _, hit in events])
    nodules, tp, fp = 2 * len(sample), int(hits.sum()), int((~hits).sum())
    recall, precision = np.cumsum(hits) / nodules, np.cumsum(hits) / np.arange(1, len(hits) + 1)
    if name == "box_mar_100":
        return tp / nodules
    if name == "panoptic_quality":  # all overlaps are 1
        return tp / (tp + fp / 2 + (nodules - tp) / 2)
    if name == "ap_dsb_50":
        shares = []
        for one in sample:
            found = int((one.detections["mask"].overlaps.toarray() > 0.5).sum())
            shares.append(found / (len(one.detections["mask"].scores) + 2 - found))
        return float(np.mean(shares))
    if name == "mask_map_50":
        steps = [precision[recall >= r - 1e-12].max(initial=0.0) for r in np.linspace(0, 1, 101)]
        return float(np.mean(steps))
    alarms = np.append(0, np.cumsum(~hits) / len(sample))
    return float(np.interp([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], alarms, np.append(0, recall)).mean())


def test_the_protocol_says_what_was_done() -> None:
    volumes = describe_detection(many_cases(), PARAMS, {"min_score": 0.05, "label_score": 0.5})
    flat = describe_detection(two_cases(), PARAMS, {})
    text = " ".join(volumes.values())
    for part in ("101 recalls", ".10:.05:.50", "at most 100 objects", "at least 0.05", "below 6 mm", "1/8"):
        assert part in text
    assert "32^2" in flat["object_size"] and "froc" not in flat
    assert "at least unknown" in flat["objects"]
    assert "without a reference object" in flat["case_columns"] and "left out" in flat["case_columns"]


def test_undefined_is_none_and_no_nan_leaves(recwarn: pytest.WarningsRecorder) -> None:
    for objects in (two_cases(), many_cases(), compare(PICTURE, {}, [])):
        numbers = summarise_detection(objects, PARAMS)
        assert not any(isinstance(v, float) and math.isnan(v) for v in numbers.values())
    assert not recwarn.list
