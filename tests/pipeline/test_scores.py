"""Which metrics are about objects, and which of those rank them by score."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.detection_cases import DSB_NAMES, PANOPTIC_NAMES, VOLUME_COLUMNS
from pipeline.scores import is_detection, is_ranked, load_scores, scored_labels


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


HEAD = "case_id,patient_id,label,dice,reference_voxels,prediction_voxels"
TABLE = f"""{HEAD},kind,mask_map_50
a,p,whole,0.9,9,9,region,
a,p,core,0.5,3,3,class,0.7
a,p,edema,0.4,6,6,class,0.6
"""


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("test/dice", {"whole": 0.9}),
        ("test/whole/dice", {"whole": 0.9}),
        ("test/edema/dice", {"whole": 0.9, "edema": 0.4}),
        ("test/mask_map_50", {"core": 0.7, "edema": 0.6}),
    ],
)
def test_overlaps_are_of_regions_and_objects_of_classes(
    tmp_path: Path, metric: str, expected: dict[str, float]
) -> None:
    (tmp_path / "cases.csv").write_text(TABLE)
    assert {s.label: s.value for s in load_scores(tmp_path / "cases.csv", metric)} == expected


def test_a_table_of_the_time_before_regions_is_of_classes(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text(f"{HEAD}\na,p,core,0.5,3,3\n")
    assert [s.label for s in load_scores(tmp_path / "cases.csv", "test/dice")] == ["core"]


def test_what_a_table_is_scored_by(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(TABLE)
    assert scored_labels(path, "test/dice") == ("regions", ("whole",))
    assert scored_labels(path, "test/mask_map_50") == ("classes", ("core", "edema"))
    path.write_text(f"{HEAD}\na,p,core,0.5,3,3\n")
    assert scored_labels(path, "test/dice") == ("classes", ("core",))
