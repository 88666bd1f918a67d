"""Drift: PSI and corrections by hand, the test against scipy, no alarm without a cause, real scanners told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import affine_transform

from pipeline.drift import (
    FeatureDrift,
    compare_features,
    count_bins,
    holm,
    population_stability,
    quantile_bins,
    smallest_p,
)
from pipeline.drift_features import Features, fingerprint_features, to_columns
from pipeline.fingerprint import build_fingerprint
from pipeline.nightly_params import DriftParams
from pipeline.volume import LabelMap, Volume

LIMITS = DriftParams(psi=0.25, ks_p=0.01, min_cases=5)
LABELS = {"background": 0, "anterior": 1, "posterior": 2}
Columns = Mapping[str, Sequence[float | None]]


def compare_one(
    reference: Sequence[float | None], new: Sequence[float | None], limits: DriftParams = LIMITS
) -> FeatureDrift:
    (found,) = compare_features({"x": reference}, {"x": new}, limits)
    return found


def drifted(reference: Columns, new: Columns) -> set[str]:
    return {one.feature for one in compare_features(reference, new, LIMITS) if one.drifted}


def test_index_of_two_bins_by_hand() -> None:
    # With 1/2 in each bin: 40.5 and 60.5 of 101, 8.5 and 2.5 of 11.
    p, q = (40.5 / 101, 60.5 / 101), (8.5 / 11, 2.5 / 11)
    expected = (q[0] - p[0]) * math.log(q[0] / p[0]) + (q[1] - p[1]) * math.log(q[1] / p[1])
    assert population_stability(np.array([40, 60]), np.array([8, 2])) == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(0.6046, abs=5e-4)  # by a pocket calculator
    assert population_stability(np.array([10, 30]), np.array([10, 30])) == 0


def test_index_of_a_published_example() -> None:
    # https://pypi.org/project/psi-inference: seven credit grades, 0.0677 without anything added to the bins.
    base, current = [253, 302, 204, 134, 72, 26, 8], [177, 262, 285, 158, 88, 25, 6]
    assert population_stability(np.array(base), np.array(current)) == pytest.approx(0.0677, abs=6e-4)


def test_bins_hold_equally_many_and_are_closed_to_the_right() -> None:
    values = np.arange(1.0, 41.0)
    edges = quantile_bins(values, 20)  # 4 bins, so that 20 new cases leave 5 in each
    assert edges.tolist() == [10, 20, 30]
    assert count_bins(values, edges).tolist() == [10, 10, 10, 10]
    assert count_bins(np.array([-5.0, 10.0, 10.5, 99.0]), edges).tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize(("n_new", "bins"), [(2, 3), (5, 3), (17, 3), (20, 4), (49, 9), (400, 10)])
def test_few_cases_get_few_bins(n_new: int, bins: int) -> None:
    edges = quantile_bins(np.arange(1000.0), n_new)
    assert edges.size + 1 == bins


def test_what_lies_below_a_constant_is_not_equal_to_it() -> None:
    edges = quantile_bins(np.full(50, 0.8), 5)
    assert count_bins(np.array([0.7, 0.8, 0.8, 0.9]), edges).tolist() == [1, 2, 1]


def test_the_statistic_is_that_of_scipy() -> None:
    generator = np.random.default_rng(5)
    reference, new = generator.normal(size=60), generator.normal(0.8, 1, size=15)
    found = compare_one(reference.tolist(), new.tolist())
    expected = stats.ks_2samp(reference, new, method="exact")
    assert (found.ks, found.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert found.p_corrected == found.p  # one feature


def test_holm_by_hand() -> None:
    # Sorted: 0.01, 0.02, 0.03 times 3, 2, 1; none may be below the one before.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_lowest_p_there_is() -> None:
    # Of the 56 ways to choose 3 of 8 ranks, 2 leave the samples wholly apart.
    assert smallest_p(5, 3) == pytest.approx(2 / 56)
    apart = stats.ks_2samp([1, 2, 3, 4, 5], [6, 7, 8], method="exact")
    assert apart.pvalue == pytest.approx(2 / 56)


def test_the_same_constant_is_no_drift_and_another_one_is() -> None:
    same = compare_one([1.0] * 40, [1.0] * 5)
    assert (same.drifted, same.ks, same.p_corrected, same.psi_chance) == (False, 0.0, 1.0, 0.0)
    assert same.psi == 0
    for other in (0.8, 1.3):
        found = compare_one([1.0] * 40, [other] * 5)
        assert found.drifted and found.ks == 1.0


def test_a_large_and_a_sure_difference_are_both_needed() -> None:
    # 5000 cases each, a tenth of a standard deviation apart: surely so, and nobody would see it.
    grid = stats.norm.ppf((np.arange(5000) + 0.5) / 5000)
    small = compare_one(grid.tolist(), (grid + 0.1).tolist())
    assert small.p_corrected is not None and small.p_corrected < 0.001
    assert small.psi is not None and small.psi < 0.05 and not small.drifted
    # 5 cases, all above the median: a large index, and 1 in 16 lots is on one side of the median by chance.
    few = compare_one(list(range(40)), [22, 26, 29, 33, 36])
    assert few.psi is not None and few.psi > 0.25 and not few.drifted


def test_unknown_values_are_left_out_and_too_few_are_not_compared() -> None:
    reference = [*map(float, range(30)), None, math.nan, math.inf]
    found = compare_one(reference, [1.0, 2.0, 3.0, 4.0, None, math.nan])
    assert (found.n_reference, found.n_new) == (30, 4)
    assert (found.psi, found.ks, found.p, found.p_corrected, found.drifted) == (None, None, None, None, False)
    assert found.reference is not None and found.reference.p50 == 14.5
    nothing = compare_one([None, math.nan], [])
    assert (nothing.reference, nothing.new, nothing.drifted) == (None, None, False)


def test_features_that_are_too_few_to_tell_do_not_burden_the_others() -> None:
    # 6 and 5 cases wholly apart have p 2/462 = 0.0043: enough for one feature, not for three.
    low, high = list(range(6)), list(range(10, 15))
    assert compare_one(low, high).drifted
    small = dict.fromkeys("abc", low)
    assert all(one.p_corrected is None for one in compare_features(small, dict.fromkeys("abc", high), LIMITS))
    reference, new = {**small, "large": list(range(60))}, {**dict.fromkeys("abc", high), "large": [99] * 8}
    first, *others = compare_features(reference, new, LIMITS)
    assert first.feature == "large" and first.drifted and first.p_corrected == first.p
    assert not any(one.drifted for one in others)


@pytest.mark.parametrize(
    ("n_reference", "n_new"), [(20, 5), (40, 10), pytest.param(100, 30, marks=pytest.mark.slow)]
)
def test_no_alarm_without_a_cause(n_reference: int, n_new: int) -> None:
    """Ten features of one distribution: an alarm in no more than ks_p of the lots; the index alone gives one in most.

    150 lots with a chance of 0.01 each have more than 5 alarms once in 230 times; the seed is fixed.
    """
    generator = np.random.default_rng(11)
    alarms = by_index = 0
    for _ in range(150):
        reference, new = (
            {f"f{i}": np.round(generator.lognormal(size=n), 2).tolist() for i in range(10)}
            for n in (n_reference, n_new)
        )
        found = compare_features(reference, new, LIMITS)
        alarms += any(one.drifted for one in found)
        by_index += any(one.psi is not None and one.psi >= LIMITS.psi for one in found)
    assert alarms <= 5
    assert by_index > 75


def measure(folder: Path, name: str, other_scanner: bool) -> Features:
    """A real case; of the other scanner with voxels of 1.3 mm and intensities times 1.5 plus 100."""
    image, label = (nibabel.load(folder / part / name) for part in ("imagesTr", "labelsTr"))
    voxels, classes = np.asarray(image.dataobj, np.float32), np.asarray(label.dataobj).astype(np.uint8)
    affine = np.asarray(image.affine)
    if other_scanner:
        shape = tuple(int(n / 1.3) for n in voxels.shape)
        voxels = affine_transform(voxels, [1.3] * 3, output_shape=shape, order=1) * 1.5 + 100
        classes = affine_transform(classes, [1.3] * 3, output_shape=shape, order=0)
        affine = np.diag([1.3, 1.3, 1.3, 1.0])
    found = build_fingerprint(name, Volume(voxels[None], affine), LabelMap(classes, affine), LABELS, "0" * 64)
    return fingerprint_features(found, ["MRI"])


@pytest.mark.slow
def test_a_real_lot_of_another_scanner_and_a_real_half_of_the_same(shared_data: Path) -> None:
    folder = shared_data / "Task04_Hippocampus"
    names = sorted(path.name for path in (folder / "imagesTr").glob("hippocampus_*.nii.gz"))
    names = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    half = len(names) // 2
    reference = to_columns({name: measure(folder, name, False) for name in names[:half]})
    same = to_columns({name: measure(folder, name, False) for name in names[half:]})
    other = to_columns({name: measure(folder, name, True) for name in names[half:]})
    assert drifted(reference, same) == set()
    spacing = {"spacing_x_mm", "spacing_y_mm", "spacing_z_mm"}
    assert drifted(reference, other) == spacing | {"intensity_mean", "intensity_deviation"}
