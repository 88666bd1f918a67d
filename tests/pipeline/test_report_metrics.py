"""Names, digits and meanings of the metrics."""

from __future__ import annotations

from pipeline.report_metrics import DETECTION, metric_format
from tests.report_objects import detection_names


def test_shares_and_percent_and_unknown_metrics() -> None:
    assert metric_format("test/x/dice").text(0.81249) == "0.812"
    assert metric_format("relative_volume_error").text(-0.0326) == "−3.3"
    assert metric_format("map_50").text(0.5) == "0.500" and metric_format("map_50").title == "map_50"


def test_every_detection_metric_has_a_title_and_a_meaning() -> None:
    assert set(DETECTION) == set(detection_names(volumes=True))
    assert all(shown.title and shown.meaning for shown in DETECTION.values())
    assert metric_format("test/nodule/mask_map_10_50").title == "Mask mAP .10:.50"
    assert "1/8 to 8 false positives" in metric_format("test/cpm").meaning
