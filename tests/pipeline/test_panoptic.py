"""Kaggle score and panoptic quality: by hand, by brute force, and on real label maps against panoptica."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from pipeline.instance_overlaps import mask_overlaps
from pipeline.panoptic import DSB_THRESHOLDS, dsb_ap, pair_objects, panoptic_quality


def test_panoptic_quality_worked_out_by_hand() -> None:
    # Two pairs (0.8 and 0.6), two predictions and one reference object left over.
    table = csr_array([[0.8, 0.0, 0.1], [0.0, 0.6, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    quality = panoptic_quality(table, 4, 3)
    assert (quality.tp, quality.fp, quality.fn) == (2, 2, 1)
    assert quality.pq == pytest.approx(1.4 / 3.5)
    assert quality.sq == pytest.approx(0.7)
    assert quality.rq == pytest.approx(2 / 3.5)


def test_dsb_ap_worked_out_by_hand() -> None:
    # Overlaps 0.8 and 0.6 of 4 predictions and 3 objects: 2 pairs below 0.6, one below 0.8, then none.
    table = csr_array([[0.8, 0.0, 0.1], [0.0, 0.6, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    assert DSB_THRESHOLDS.tolist() == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert dsb_ap(table, 4, 3) == pytest.approx([2 / 5] * 2 + [1 / 6] * 4 + [0] * 4)


def test_an_overlap_equal_to_a_threshold_is_no_hit() -> None:
    for twentieths in range(10, 20):  # such as 18 of 20 pixels
        hit = dsb_ap(csr_array([[twentieths / 20]]), 1, 1)
        assert hit.tolist() == [1.0] * (twentieths - 10) + [0.0] * (20 - twentieths)
    assert panoptic_quality(csr_array([[0.5]]), 1, 1).tp == 0


@pytest.mark.parametrize(("n", "m"), [(2, 0), (0, 2), (2, 2)])
def test_nothing_in_common_is_zero(n: int, m: int) -> None:
    table = csr_array((n, m))
    quality = panoptic_quality(table, n, m)
    assert (quality.pq, quality.sq, quality.rq, quality.fp, quality.fn) == (0, 0, 0, n, m)
    assert dsb_ap(table, n, m).tolist() == [0] * 10


def test_no_object_on_either_side_is_undefined() -> None:
    quality = panoptic_quality(csr_array((0, 0)), 0, 0)
    assert np.isnan([quality.pq, quality.sq, quality.rq]).all()
    assert (quality.tp, quality.fp, quality.fn) == (0, 0, 0)
    assert np.isnan(dsb_ap(csr_array((0, 0)), 0, 0)).all()


def test_below_one_half_as_many_pairs_as_possible_are_made() -> None:
    # The first prediction overlaps both objects; taking its better one would leave the second without.
    table = csr_array([[0.4, 0.3], [0.35, 0.0]])
    rows, columns = pair_objects(table, 0.2)
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
    assert dsb_ap(table, 2, 2, np.array([0.2, 0.36])).tolist() == [1.0, 1 / 3]


@given(
    st.integers(1, 6).flatmap(
        lambda n: hnp.arrays(np.float64, (n, 5), elements=st.integers(0, 8).map(lambda v: v / 8))
    )
)
def test_pairs_equal_the_best_assignment(table: NDArray[np.float64]) -> None:
    for threshold in (0.25, 0.5, 0.7):
        possible = table > threshold
        best = possible[linear_sum_assignment(possible, maximize=True)].sum()
        rows, columns = pair_objects(csr_array(table), threshold)
        assert len(rows) == len(set(rows.tolist())) == len(set(columns.tolist())) == best
        assert possible[rows, columns].all()


def _load(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    import nibabel

    return tuple(np.asarray(nibabel.load(folder / f"{name}.nii.gz").dataobj) for name in ("pred", "ref"))  # type: ignore[return-value]


def _ids(*maps: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    return tuple(np.unique(m)[1:] for m in maps)


@pytest.fixture
def spine(shared_data: Path) -> Path:
    return shared_data / "spine_instances"


@pytest.mark.parametrize("kind", ["unmatched_instance", "matched_instance"])
def test_spine_equals_panoptica(spine: Path, kind: str) -> None:
    # Literals: panoptica 2.1.7, Panoptica_Evaluator(UNMATCHED_INSTANCE, MaxBipartiteMatching(IOU, 0.5)) on
    # unmatched_instance, in an environment of its own.
    prediction, reference = _load(spine / kind)
    ids, reference_ids = _ids(prediction, reference)
    overlaps, *_ = mask_overlaps(prediction, reference, ids, reference_ids)
    quality = panoptic_quality(overlaps, len(ids), len(reference_ids))
    assert (quality.tp, quality.fp, quality.fn) == (19, 3, 3)
    assert quality.pq == pytest.approx(0.719252280051296, abs=1e-12)
    assert quality.sq == pytest.approx(0.8328184295330796, abs=1e-12)
    assert quality.rq == pytest.approx(0.8636363636363636, abs=1e-12)


def test_spine_pairs_are_those_of_the_matched_maps(spine: Path) -> None:
    """In `matched_instance` a pair bears one id; it was matched at a lower overlap, so it has three more."""
    prediction, reference = _load(spine / "unmatched_instance")
    matched, matched_reference = _load(spine / "matched_instance")
    ids, reference_ids = _ids(prediction, reference)
    overlaps, *_ = mask_overlaps(prediction, reference, ids, reference_ids)
    for threshold, count in ((0.5, 19), (0.1, 22)):
        rows, columns = pair_objects(overlaps, threshold)
        assert len(rows) == count
        for id_, reference_id in zip(ids[rows], reference_ids[columns], strict=True):
            (new,) = np.unique(matched[prediction == id_])
            assert set(np.unique(matched_reference[reference == reference_id])) == {new}


def test_crop_of_the_spine_in_exact_fractions(spine: Path) -> None:
    prediction, reference = (m[150:300, 120:260, 6:9] for m in _load(spine / "unmatched_instance"))
    ids, reference_ids = _ids(prediction, reference)
    total, pairs = Fraction(0), 0
    for i in ids:
        for j in reference_ids:
            a, b = prediction == i, reference == j
            overlap = Fraction(int((a & b).sum()), int((a | b).sum()))
            if overlap > Fraction(1, 2):
                total, pairs = total + overlap, pairs + 1
    assert 3 <= pairs < len(ids)
    overlaps, *_ = mask_overlaps(prediction, reference, ids, reference_ids)
    quality = panoptic_quality(overlaps, len(ids), len(reference_ids))
    assert quality.tp == pairs
    assert quality.pq == pytest.approx(float(2 * total / (len(ids) + len(reference_ids))), abs=1e-14)
    assert dsb_ap(overlaps, len(ids), len(reference_ids))[0] == pytest.approx(
        pairs / (len(ids) + len(reference_ids) - pairs)
    )
