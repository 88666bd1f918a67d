"""Which objects were found, missed or invented."""

from __future__ import annotations

import pytest

from pipeline.object_states import judge_objects
from tests.detection_scenes import ELSEWHERE, FIRST, SECOND, prediction, reference

PICTURE = (40, 40, 1)


def test_found_missed_and_false_alarm() -> None:
    truth, ids = reference(PICTURE, {FIRST: 1, SECOND: 1})
    made = prediction(PICTURE, [(1, 0.9, ELSEWHERE), (1, 0.8, FIRST)])
    expected, found = judge_objects(truth, ids, made)
    assert (expected.found, expected.present, expected.scores) == ({1}, {1, 2}, {})
    assert (found.found, found.present, found.scores) == ({2}, {1, 2}, {1: 0.9, 2: 0.8})


def test_objects_outside_the_label_map_are_left_out() -> None:
    truth, ids = reference(PICTURE, {FIRST: 1})
    made = prediction(PICTURE, [(1, 0.9, ELSEWHERE), (1, 0.2, FIRST)], label_score=0.5)
    expected, found = judge_objects(truth, ids, made)
    assert (expected.found, found.found, found.present) == (set(), set(), {1})


def test_the_class_must_be_right_and_the_better_score_chooses() -> None:
    truth, ids = reference(PICTURE, {FIRST: 1, SECOND: 2})
    made = prediction(PICTURE, [(2, 0.9, FIRST), (2, 0.8, SECOND)])
    expected, found = judge_objects(truth, ids, made)
    assert (expected.found, found.found) == ({2}, {2})


@pytest.mark.parametrize(("depth", "hit"), [(1, False), (9, True)])
def test_a_volume_asks_for_less_overlap_than_a_picture(depth: int, hit: bool) -> None:
    # Half apart: the overlap is between 0.1 and 0.5.
    z = () if depth == 1 else (4,)
    truth, ids = reference((40, 40, depth), {(10, 10, *z): 1})
    expected, found = judge_objects(truth, ids, prediction((40, 40, depth), [(1, 0.9, (14, 10, *z))]))
    assert (bool(expected.found), bool(found.found)) == (hit, hit)


def test_nothing_on_either_side() -> None:
    truth, ids = reference(PICTURE, {})
    expected, found = judge_objects(truth, ids, prediction(PICTURE, []))
    assert expected.present == found.present == set()
