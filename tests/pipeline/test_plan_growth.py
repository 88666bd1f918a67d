"""The basis of a plan: numbers by hand, and how far a set may move away from them."""

from __future__ import annotations

import numpy as np
import pytest
from plan_cases import make_fingerprints

from pipeline.errors import SegtrailError
from pipeline.fingerprint import ClassStatistics, Fingerprint
from pipeline.plan_basis import PlanBasis
from pipeline.plan_growth import compare, hold, measure_basis


def basis_of(cases: list[Fingerprint], scheme: str = "ct") -> PlanBasis:
    return measure_basis(cases, (scheme,))  # type: ignore[arg-type]


def shifted(cases: list[Fingerprint], hu: float) -> list[Fingerprint]:
    """The same cases, brighter."""
    found = []
    for case in cases:
        samples = tuple(value + hu for value in case.intensity[0].samples)
        channel = case.intensity[0].model_copy(update={"samples": samples})
        found.append(case.model_copy(update={"intensity": (channel,)}))
    return found


def test_the_numbers_by_hand() -> None:
    cases = make_fingerprints((10, 20, 30), (1, 1, 2), 3) + make_fingerprints((20, 20, 30), (1, 1, 4), 2)
    one = ClassStatistics(
        voxels=1,
        volume_mm3=1,
        components=1,
        centroid_fraction=None,
        objects=1,
        object_extents_mm=((4, 9, 5),),
    )
    cases[0] = cases[0].model_copy(update={"classes": {"organ": one}, "objects_per_slice": 7})
    basis = basis_of(cases)
    assert (basis.cases, basis.spacing_mm, basis.voxels) == (5, (1, 1, 2), (10, 20, 30))
    assert basis.extent_mm == (10, 20, 60)
    assert basis.fine_spacing_mm == (1, 1, 2)
    assert basis.volume_mm3 == 3 * 10 * 20 * 60 + 2 * 20 * 20 * 120
    assert basis.intensity[0] is not None
    assert (basis.intensity[0].mean, basis.intensity[0].high) == (pytest.approx(0), pytest.approx(99))
    assert basis.intensity[0].std == pytest.approx(200 / np.sqrt(12), rel=0.01)  # uniform over 200
    assert basis.objects is not None
    assert (basis.objects.size_mm, basis.objects.ratio) == ((6, 6, 6, 6), 2.25)
    assert basis.objects.slice_mm == (20, 20)
    assert basis_of(cases, "zscore").intensity == (None,)
    with pytest.raises(SegtrailError, match="no case"):
        measure_basis([], ("ct",))


def test_moves_are_relative_and_those_of_intensities_in_deviations() -> None:
    cases = make_fingerprints((64, 64, 64), (1, 1, 1))
    before = basis_of(cases)
    assert compare(before, before) == []
    after = basis_of(shifted(cases, 5.0))  # of a deviation of 57.7: 8.7 %, though the mean was 0
    (move,) = compare(before, after)
    assert move.field == "intensity 0"
    assert move.share == pytest.approx(5 / 57.8, rel=0.01)
    coarser = basis_of(make_fingerprints((64, 64, 64), (1, 1, 1.1)))
    shares = {move.field: move.share for move in compare(before, coarser)}
    assert shares["spacing_mm"] == shares["extent_mm"] == pytest.approx(0.1)
    assert "voxels" not in shares


def test_what_moved_less_than_the_tolerance_is_kept_and_only_that() -> None:
    cases = make_fingerprints((64, 64, 64), (1, 1, 1))
    before = basis_of(cases)
    after = basis_of(shifted([c.model_copy(update={"spacing_mm": (1, 1, 1.04)}) for c in cases], 5.0))
    held = hold(before, after, 0.05)
    assert held.spacing_mm == before.spacing_mm
    assert held.intensity == after.intensity
    assert hold(before, after, 0.1).intensity == before.intensity
    assert hold(before, after, 0.0).model_dump() == after.model_dump()
    assert held.cases == after.cases


def test_one_case_in_a_hundred_moves_nothing_far() -> None:
    generator = np.random.default_rng(0)
    cases = [
        shifted(make_fingerprints((64, 64, 64), (0.8, 0.8, float(z)), 1), float(hu))[0]
        for z, hu in zip(generator.uniform(1, 3, 101), generator.normal(40, 20, 101), strict=True)
    ]
    before, after = basis_of(cases[:100]), basis_of(cases)
    assert 0 < compare(before, after)[0].share < 0.05
    held = hold(before, after, 0.05)
    assert held.model_dump(exclude={"cases"}) == before.model_dump(exclude={"cases"})


def test_objects_that_come_or_go_are_always_a_move() -> None:
    cases = make_fingerprints((64, 64, 64), (1, 1, 1))
    one = ClassStatistics(
        voxels=1,
        volume_mm3=1,
        components=1,
        centroid_fraction=None,
        objects=1,
        object_extents_mm=((4, 4, 4),),
    )
    with_object = [cases[0].model_copy(update={"classes": {"organ": one}}), *cases[1:]]
    without, having = basis_of(cases), basis_of(with_object)
    assert hold(without, having, 1.0).objects == having.objects
    assert hold(having, without, 1.0).objects is None
