"""The greedy rule of COCO: by hand, and on thousands of small tables against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.matching import ALL_SIZES, IOU_10_50, IOU_50_95, SIZE_RANGES, Detections, Matches, match

HALF = np.array([0.5])


def detections(
    scores: list[float],
    overlaps: Any,
    sizes: list[float] | None = None,
    reference_sizes: list[float] | None = None,
) -> Detections:
    """One case; all sizes are 100 unless told otherwise."""
    table = np.array(overlaps, dtype=np.float64)
    return Detections(
        case_id="a",
        patient_id="p",
        scores=np.array(scores, dtype=np.float64),
        overlaps=csr_array(table),
        prediction_sizes=np.array(sizes or [100.0] * len(scores), dtype=np.float64),
        reference_sizes=np.array(reference_sizes or [100.0] * table.shape[1], dtype=np.float64),
    )


def partners(matches: Matches) -> list[int]:
    """Partner of each prediction at the only threshold, by falling score."""
    (row,) = matches.partners.tolist()
    return list(row)


def test_thresholds_and_size_ranges_are_those_of_coco() -> None:
    from pycocotools.cocoeval import Params

    params = Params(iouType="segm")
    assert (params.iouThrs == IOU_50_95).all()
    np.testing.assert_allclose(IOU_10_50, [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
    limits = {
        name: tuple(float(v) for v in ends)
        for name, ends in zip(params.areaRngLbl, params.areaRng, strict=True)
    }
    assert SIZE_RANGES["small"] == limits["small"] == (0, 1024)
    assert SIZE_RANGES["medium"] == limits["medium"] == (1024, 9216)
    assert SIZE_RANGES["large"][0] == limits["large"][0] == 9216


def test_one_detection_takes_the_object_that_it_overlaps_most() -> None:
    result = match(detections([0.9], [[0.6, 0.8]]), HALF, 100)
    assert partners(result) == [1]
    assert (result.references, result.hits.tolist(), result.ignored.tolist()) == (2, [[True]], [[False]])
    assert (result.case_id, result.patient_id) == ("a", "p")


def test_the_best_score_chooses_first_and_the_next_takes_what_is_left() -> None:
    result = match(detections([0.3, 0.9], [[0.7, 0.6], [0.8, 0.2]]), HALF, 100)
    assert result.predictions.tolist() == [1, 0]
    assert result.scores.tolist() == [0.9, 0.3]
    assert partners(result) == [0, 1]


def test_a_second_detection_of_an_object_is_a_false_alarm() -> None:
    result = match(detections([0.9, 0.8], [[0.6], [0.9]]), HALF, 100)
    assert partners(result) == [0, -1]
    assert result.hits.tolist() == [[True, False]]


def test_equal_scores_go_as_given_and_equal_overlaps_to_the_later_object() -> None:
    result = match(detections([0.5, 0.5], [[0.7, 0.7], [0.7, 0.7]]), HALF, 100)
    assert result.predictions.tolist() == [0, 1]
    assert partners(result) == [1, 0]


def test_an_overlap_equal_to_the_threshold_is_a_match() -> None:
    table = detections([0.9, 0.8], [[0.5, 0.0], [0.0, 0.4999]])
    assert partners(match(table, HALF, 100)) == [0, -1]
    assert partners(match(detections([0.9], [[1 - 1e-11]]), np.array([1.0]), 100)) == [
        0
    ]  # 1, but for rounding


def test_each_threshold_is_matched_on_its_own() -> None:
    result = match(detections([0.9, 0.8], [[0.6, 0.3], [0.7, 0.0]]), np.array([0.2, 0.5, 0.65]), 100)
    assert result.partners.tolist() == [[0, -1], [0, -1], [-1, 0]]


def test_only_the_best_detections_count() -> None:
    result = match(detections([0.1, 0.9, 0.5], np.eye(3)), HALF, 2)
    assert result.predictions.tolist() == [1, 2]
    assert partners(result) == [1, 2]
    assert result.references == 3


def test_without_references_all_is_false_alarm_and_without_detections_nothing() -> None:
    alarms = match(detections([0.9, 0.8], np.empty((2, 0))), HALF, 100)
    assert (partners(alarms), alarms.references, alarms.ignored.any()) == ([-1, -1], 0, False)
    nothing = match(detections([], np.empty((0, 3)), reference_sizes=[1, 2, 3]), HALF, 100)
    assert (nothing.partners.shape, nothing.references) == ((1, 0), 3)


def test_everything_outside_the_size_range_is_ignored() -> None:
    table = detections([0.9, 0.8], [[0.8], [0.0]], sizes=[2000, 3000], reference_sizes=[2000])
    result = match(table, HALF, 100, SIZE_RANGES["small"])
    assert (result.references, result.hits.any(), result.ignored.all()) == (0, False, True)


def test_ends_belong_to_a_size_range() -> None:
    table = detections([0.9], [[0.8]], sizes=[1024], reference_sizes=[1024])
    for name in ("small", "medium"):
        assert match(table, HALF, 100, SIZE_RANGES[name]).hits.tolist() == [[True]]
    assert match(table, HALF, 100, SIZE_RANGES["large"]).references == 0


def test_an_object_in_the_range_is_preferred_to_an_ignored_one() -> None:
    table = detections([0.9], [[0.9, 0.6]], reference_sizes=[5000, 100])
    result = match(table, HALF, 100, SIZE_RANGES["small"])
    assert (partners(result), result.hits.tolist(), result.references) == ([1], [[True]], 1)


def test_a_small_detection_on_an_ignored_object_is_ignored_but_not_a_second_one() -> None:
    table = detections([0.9, 0.8], [[0.9], [0.9]], reference_sizes=[5000])
    result = match(table, HALF, 100, SIZE_RANGES["small"])
    assert (partners(result), result.ignored.tolist()) == ([0, -1], [[True, False]])


def test_a_large_detection_on_an_object_in_the_range_counts() -> None:
    result = match(detections([0.9], [[0.9]], sizes=[5000]), HALF, 100, SIZE_RANGES["small"])
    assert (result.hits.tolist(), result.ignored.tolist()) == ([[True]], [[False]])


@st.composite
def tables(draw: st.DrawFn) -> Detections:
    """Up to 7 x 7 objects; few levels of overlaps, scores and sizes make ties and limits frequent."""
    n, m = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    levels = st.sampled_from([0.0, 0.0, 0.1, 0.3, 0.5, 0.5, 0.75, 0.9, 1.0])
    table = draw(st.lists(st.lists(levels, min_size=m, max_size=m), min_size=n, max_size=n))
    scores = draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=n, max_size=n))
    sizes = st.sampled_from([1.0, 10.0, 20.0, 30.0])
    return detections(
        scores,
        table,
        draw(st.lists(sizes, min_size=n, max_size=n)),
        draw(st.lists(sizes, min_size=m, max_size=m)),
    )


def _coco_match(
    case: Detections, thresholds: NDArray[np.float64], max_detections: int, size_range: tuple[float, float]
) -> dict[str, Any]:
    """pycocotools on a table of overlaps."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(iouType="bbox")
    evaluation.params.iouThrs, evaluation.params.maxDets = thresholds, [max_detections]
    evaluation._gts[1, 1] = [
        {"id": i, "ignore": 0, "iscrowd": 0, "area": size} for i, size in enumerate(case.reference_sizes, 1)
    ]
    evaluation._dts[1, 1] = [
        {"id": i, "score": score, "area": size}
        for i, (score, size) in enumerate(zip(case.scores, case.prediction_sizes, strict=True), 1)
    ]
    order = np.argsort(-case.scores, kind="mergesort")
    evaluation.ious = {(1, 1): case.overlaps.toarray()[order]}
    result: dict[str, Any] = evaluation.evaluateImg(1, 1, size_range, max_detections)
    return result


@given(tables(), st.sampled_from([(0.0, 1e10), (0.0, 10.0), (10.0, 20.0), (40.0, 50.0)]), st.integers(1, 7))
def test_matches_equal_pycocotools(
    case: Detections, size_range: tuple[float, float], max_detections: int
) -> None:
    thresholds = np.array([0.1, 0.3, 0.5, 0.75, 1.0])
    ours = match(case, thresholds, max_detections, size_range)
    theirs = _coco_match(case, thresholds, max_detections, size_range)
    assert (ours.predictions + 1).tolist() == theirs["dtIds"]
    assert (ours.partners + 1).tolist() == theirs["dtMatches"].tolist()
    assert ours.ignored.tolist() == theirs["dtIgnore"].tolist()
    assert ours.references == np.count_nonzero(theirs["gtIgnore"] == 0)


@given(tables(), st.sampled_from([ALL_SIZES, (5.0, 15.0)]))
def test_pairs_are_one_to_one_and_overlap_enough(case: Detections, size_range: tuple[float, float]) -> None:
    result = match(case, IOU_50_95, 100, size_range)
    table = case.overlaps.toarray()
    for threshold, row in zip(IOU_50_95, result.partners, strict=True):
        found = row[row >= 0]
        assert len(set(found.tolist())) == len(found)
        assert (table[result.predictions[row >= 0], found] >= threshold - 1e-9).all()
