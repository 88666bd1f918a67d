"""Which metrics are about objects, and which of those rank them by score."""

from __future__ import annotations

import pytest

from pipeline.detection_cases import DSB_NAMES, PANOPTIC_NAMES, VOLUME_COLUMNS
from pipeline.scores import is_detection, is_ranked


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test/mask_map_50_95", True), ("box_map_10_50_small", True), ("test/a/cpm", True),
        ("dice", False), ("test/a/surface_dice", False), ("mask_map_50_tiny", False),
    ],
)  # fmt: skip
def test_which_metrics_are_about_objects(name: str, expected: bool) -> None:
    assert is_detection(name) is expected


def test_the_scoreless_metrics_are_those_that_take_the_label_map() -> None:
    assert all(is_detection(name) for name in VOLUME_COLUMNS)
    assert {name for name in VOLUME_COLUMNS if not is_ranked(name)} == {*DSB_NAMES, *PANOPTIC_NAMES}
