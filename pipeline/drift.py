"""Do new cases differ from those a model has learned from? Two tests a feature, on numbers alone.

A feature has drifted when both say so:

- the two-sample Kolmogorov-Smirnov test, its p corrected by Holm's method for the number of features, is below a
  limit: the difference is no chance;
- the population stability index (PSI) reaches a limit: the difference is large.

The error is held by the test alone. The PSI of few cases is large by chance (with k bins on average about
(k - 1)(1/n + 1/m), a scaled chi-square: Yurdakul 2018, Statistical Properties of Population Stability Index,
Western Michigan University, dissertation 3208), so without the test nearly every small lot would be called drifted;
the p of many cases is small for differences that nobody would see, so without the PSI nearly every large one would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.nightly_params import DriftParams

FEWEST_BINS, MOST_BINS = 3, 10
CASES_PER_BIN = 5  # expected of the smaller sample, as for a chi-square test (Cochran 1954)
PSEUDO_COUNT = (
    0.5  # added to each bin (Jeffreys): one that is empty on one side would make the index infinite
)
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Mean and percentiles of one feature."""

    mean: float
    p05: float
    p50: float
    p95: float


@dataclass(frozen=True)
class FeatureDrift:
    """One feature of the reference and of the new cases.

    Attributes:
        feature: Name, with its unit.
        n_reference: Cases of the reference that have the feature.
        n_new: New cases that have it.
        psi: None where it was not compared.
        psi_chance: What the index is on average when nothing differs.
        ks: Largest distance between the two cumulative distributions, 0 to 1.
        p: Of the test.
        p_corrected: The same, for all features that were tested; None where they are so few that even cases that lie
            wholly apart would not be called drifted.
        drifted: Whether both limits are reached.
        reference: None without a value.
        new: Likewise.
    """

    feature: str
    n_reference: int
    n_new: int
    psi: float | None
    psi_chance: float | None
    ks: float | None
    p: float | None
    p_corrected: float | None
    drifted: bool
    reference: Summary | None
    new: Summary | None


def compare_features(
    reference: Mapping[str, Sequence[float | None]],
    new: Mapping[str, Sequence[float | None]],
    params: DriftParams,
    comparisons: int = 1,
) -> list[FeatureDrift]:
    """Compares each feature that the reference has; drifted ones come first, then by falling distance.

    Args:
        reference: Values of each feature; None, NaN and infinity are left out.
        new: Likewise. A feature with fewer than `min_cases` values on either side is not compared.
        params: Limits.
        comparisons: How many lots of new cases are compared; p is corrected for their number, too.
    """
    found = [_compare(name, _finite(values), _finite(new.get(name, ())), params.min_cases)
             for name, values in reference.items()]  # fmt: skip
    family = _testable(found, params.ks_p / comparisons)
    by_holm = holm([found[i].p or 0.0 for i in family])
    corrected = {i: min(1.0, comparisons * p) for i, p in zip(family, by_holm, strict=True)}
    judged = [
        replace(
            one,
            p_corrected=corrected[i],
            drifted=corrected[i] < params.ks_p and one.psi is not None and one.psi >= params.psi,
        )
        if i in corrected
        else one
        for i, one in enumerate(found)
    ]
    return sorted(judged, key=lambda one: (not one.drifted, one.ks is None, -(one.ks or 0.0)))


def _compare(name: str, reference: Values, new: Values, fewest: int) -> FeatureDrift:
    found = FeatureDrift(
        feature=name, n_reference=reference.size, n_new=new.size, psi=None, psi_chance=None, ks=None, p=None,
        p_corrected=None, drifted=False, reference=_summarise(reference), new=_summarise(new),
    )  # fmt: skip
    if min(reference.size, new.size) < fewest:
        return found
    edges = quantile_bins(reference, new.size)
    counts, new_counts = count_bins(reference, edges), count_bins(new, edges)
    filled = int((counts > 0).sum())
    ks, p = stats.ks_2samp(reference, new)  # exact up to 10,000 cases
    return replace(
        found,
        psi=population_stability(counts, new_counts),
        psi_chance=(filled - 1) * (1 / reference.size + 1 / new.size),
        ks=float(ks),
        p=float(p),
    )


def quantile_bins(reference: Values, n_new: int) -> Values:
    """Edges of bins of about equally many cases of the reference: closed to the right, the outer ones open.

    There are 3 to 10, as many as give the smaller sample 5 cases in each. Values that occur often make edges fall
    together, which leaves fewer bins; a value that is the smallest and an edge gets a bin of its own, so that
    what lies below it does not count as equal to it.

    Args:
        reference: At least one value.
        n_new: Number of new cases.
    """
    count = min(reference.size, n_new) // CASES_PER_BIN
    count = max(FEWEST_BINS, min(MOST_BINS, count))
    shares = np.arange(1, count) / count
    edges: Values = np.unique(np.quantile(reference, shares, method="inverted_cdf"))
    lowest = float(reference.min())
    if edges[0] == lowest:
        edges = np.concatenate([[np.nextafter(lowest, -np.inf)], edges])
    return edges


def count_bins(values: Values, edges: Values) -> NDArray[np.int64]:
    """Number of values in each of the bins between `edges` and beyond."""
    places = np.searchsorted(edges, values, side="left")
    return np.bincount(places, minlength=edges.size + 1).astype(np.int64)


def population_stability(reference: NDArray[np.int64], new: NDArray[np.int64]) -> float:
    """Sum over bins of (q - p) ln(q / p) with the shares p of the reference and q of the new cases.

    Args:
        reference: Cases in each bin; 1/2 is added to each. Bins that are empty on both sides say nothing and are
            left out.
        new: Likewise.

    Returns:
        0 when the shares are equal; there is no upper limit.
    """
    filled = (reference + new) > 0
    smoothed = [counts[filled] + PSEUDO_COUNT for counts in (reference, new)]
    p, q = (counts / counts.sum() for counts in smoothed)
    return float(((q - p) * np.log(q / p)).sum())


def holm(p: Sequence[float]) -> list[float]:
    """Corrects p values for their number, however they depend on one another.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6.
    """
    corrected, highest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = highest
    return corrected


def smallest_p(n_reference: int, n_new: int) -> float:
    """p of the exact two-sided test when the two samples do not even touch: no lower one is possible."""
    return min(1.0, 2 / math.comb(n_reference + n_new, n_new))


def _testable(found: Sequence[FeatureDrift], alpha: float) -> list[int]:
    """The features that can be called drifted at all, as far as the numbers of cases go.

    The others would only make the correction harder. Source: Tarone 1990, A modified Bonferroni method for discrete
    data, Biometrics 46; as the choice looks at no value, Holm's correction of the rest holds.
    """
    lowest = {i: smallest_p(one.n_reference, one.n_new) for i, one in enumerate(found) if one.p is not None}
    for size in range(1, len(lowest) + 1):
        family = [i for i, p in lowest.items() if size * p < alpha]
        if len(family) <= size:
            return family
    return []


def _finite(values: Sequence[float | None]) -> Values:
    array = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    kept: Values = array[np.isfinite(array)]
    return kept


def _summarise(values: Values) -> Summary | None:
    if not values.size:
        return None
    low, middle, high = (float(v) for v in np.percentile(values, (5, 50, 95)))
    return Summary(float(values.mean()), low, middle, high)
