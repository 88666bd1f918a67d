"""Labels in the wrong place, and copies, in sets made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.fingerprint import ClassStatistics, Fingerprint
from pipeline.outliers import find_copies, find_position_outliers


def fingerprint(case_id: str, centre: NDArray[np.float64] | None, image: str = "") -> Fingerprint:
    place = None if centre is None else (float(centre[0]), float(centre[1]), float(centre[2]))
    organ = ClassStatistics(voxels=1, volume_mm3=1, components=1, centroid_fraction=place)
    return Fingerprint(
        case_id=case_id,
        shape=(10, 10, 10),
        spacing_mm=(1, 1, 1),
        intensity=(),
        classes={"organ": organ},
        image_sha256=image or case_id,
    )


def outliers(centres: NDArray[np.float64], limit: float = 8.0) -> set[int]:
    found = find_position_outliers([fingerprint(str(i), c) for i, c in enumerate(centres)], limit)
    return {int(case_id) for case_id in found}


def test_distance_is_counted_in_spreads() -> None:
    """Spread is the floor of 0.02 on every axis: 0.17 away is 8.5 spreads, 0.15 is 7.5."""
    centres = np.full((10, 3), 0.5)
    centres[3, 1] += 0.17
    centres[7, 2] -= 0.15
    assert outliers(centres) == {3}
    assert outliers(centres, limit=7.0) == {3, 7}
    assert outliers(centres, limit=9.0) == set()


def test_the_reason_says_where_and_how_far() -> None:
    centres = np.full((10, 3), 0.5)
    centres[3, 1] = 0.8
    reason = find_position_outliers([fingerprint(str(i), c) for i, c in enumerate(centres)], 8.0)["3"].reason
    assert reason == (
        "organ lies at (0.50, 0.80, 0.50) of the volume, 15.0 robust deviations from the set's median "
        "(0.50, 0.50, 0.50), limit inspect.position_outlier = 8"
    )


def test_a_wide_set_widens_the_limit() -> None:
    """Median 0.525, deviations 0.025 (2), 0.075 (2), 0.125 (2), 0.175 (2), 0.225, 0.475.

    Their median 0.125 is 0.1853 in sigmas (the quartile 0.175 only 0.1521): the last case is 2.563 away.
    """
    centres = np.full((10, 3), 0.5)
    centres[:9, 0] = 0.5 + np.linspace(-0.2, 0.2, 9)
    centres[9, 0] = 1.0
    assert outliers(centres, limit=2.56) == {9}
    assert outliers(centres, limit=2.57) == set()


def test_a_median_that_is_narrow_by_chance_is_not_trusted() -> None:
    """Half of the cases agree by chance, the rest do not: the quartile of the deviations sets the spread."""
    centres = np.full((12, 3), 0.5)
    centres[7:, 0] = [0.2, 0.3, 0.7, 0.8, 0.9]
    assert outliers(centres) == set()


def test_too_few_cases_say_nothing() -> None:
    centres = np.full((9, 3), 0.5)
    centres[0] = 0.9
    assert outliers(centres) == set()


def test_cases_without_the_class_are_left_out() -> None:
    centres = [np.full(3, 0.5)] * 9
    prints = [*(fingerprint(str(i), c) for i, c in enumerate(centres)), fingerprint("empty", None)]
    assert find_position_outliers([*prints, fingerprint("off", np.full(3, 0.9))], 8.0).keys() == {"off"}


def test_a_place_that_a_tenth_of_the_set_shares_is_legitimate() -> None:
    """Right organs among left ones; but two shifted labels are no crowd."""
    rng = np.random.default_rng(0)
    centres = np.array([0.3, 0.5, 0.5]) + rng.normal(0, 0.02, (30, 3))
    centres[:5, 0] += 0.4
    assert outliers(centres) == set()
    assert outliers(centres[3:]) == {0, 1}


@pytest.mark.parametrize("count", [10, 20, 40, 80])
def test_objects_that_lie_anywhere_are_never_outliers(count: int) -> None:
    for seed in range(50):
        assert outliers(np.random.default_rng(seed).uniform(0.1, 0.9, (count, 3))) == set(), seed


@pytest.mark.parametrize("shift", [-0.3, 0.3])
def test_one_shifted_case_among_twenty_is_found(shift: float) -> None:
    found = 0
    for seed in range(50):
        centres = 0.5 + np.random.default_rng(seed).normal(0, 0.02, (20, 3))
        centres[11, 0] += shift
        assert outliers(centres) <= {11}
        found += outliers(centres) == {11}
    assert found == 50


def test_copies_point_to_the_first_case() -> None:
    places = np.full((4, 3), 0.5)
    prints = [
        fingerprint(case_id, place, image)
        for case_id, place, image in zip("dbca", places, ("x", "x", "y", "x"), strict=True)
    ]
    assert find_copies(prints) == {"b": "a", "d": "a"}


def test_classes_of_many_objects_have_no_place() -> None:
    """One of ten far away is an outlier with two objects a case in the median, and none with three."""
    centres = np.full((10, 3), 0.5)
    centres[3, 1] = 0.9
    for objects, expected in ((2, {"3"}), (3, set())):
        made = [fingerprint(str(i), c) for i, c in enumerate(centres)]
        counted = [
            f.model_copy(update={"classes": {"organ": f.classes["organ"].model_copy(update={"objects": n})}})
            for f, n in zip(made, [0, 0, 0, 0, objects, objects, 50, 50, 50, 50], strict=True)
        ]
        assert find_position_outliers(counted, 8.0).keys() == expected
