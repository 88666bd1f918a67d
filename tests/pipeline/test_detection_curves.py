"""Curves as tables."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from pipeline.detection_curves import froc_points, precision_recall_points, save_froc, save_precision_recall
from tests.detection_scenes import ELSEWHERE, FIRST, PARAMS, SECOND, compare

PICTURE, VOLUME = (40, 40, 1), (40, 40, 9)


def test_precision_recall_of_one_hit_and_one_false_alarm() -> None:
    objects = compare(PICTURE, {FIRST: 1, SECOND: 1}, [(1, 0.8, FIRST), (1, 0.9, ELSEWHERE)])
    points = precision_recall_points(objects, PARAMS)
    assert [p.iou for p in points[::101]] == [0.5, 0.75]
    first = points[:101]
    assert [p.recall for p in first] == pytest.approx([i / 100 for i in range(101)])
    assert [p.precision for p in first] == [0.5] * 51 + [0.0] * 50
    assert all(p.score == 0.8 for p in first[:51]) and all(math.isnan(p.score) for p in first[51:])


def test_classes_without_a_reference_have_no_curve() -> None:
    objects = compare(PICTURE, {FIRST: 2}, [(1, 0.9, FIRST)], labels={"a": 1, "b": 2})
    assert {p.label for p in precision_recall_points(objects, PARAMS)} == {"b"}
    assert froc_points(objects, PARAMS) == []  # a picture


def test_volumes_have_lower_overlaps_and_a_froc_curve(tmp_path: Path) -> None:
    low, other = (10, 10, 4), (10, 30, 4)
    objects = compare(VOLUME, {low: 1}, [(1, 0.9, other), (1, 0.8, low)])
    assert {p.iou for p in precision_recall_points(objects, PARAMS)} == {0.1, 0.5}
    points = froc_points(objects, PARAMS)
    corners = [(p.false_positives_per_scan, p.sensitivity, p.score) for p in points]
    assert corners == [(0.0, 0.0, math.inf), (1.0, 0.0, 0.9), (1.0, 1.0, 0.8)]
    save_froc(points, tmp_path / "froc.csv")
    rows = list(csv.reader((tmp_path / "froc.csv").open()))
    assert rows[:3] == [
        ["class", "false_positives_per_scan", "sensitivity", "score"],
        ["nodule", "0.0", "0.0", ""],
        ["nodule", "1.0", "0.0", "0.9"],
    ]


def test_nothing_to_draw_gives_an_empty_table_with_its_heading(tmp_path: Path) -> None:
    objects = compare(VOLUME, {}, [])
    assert froc_points(objects, PARAMS) == [] and precision_recall_points(objects, PARAMS) == []
    save_precision_recall([], tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == "iou,class,recall,precision,score\n"
