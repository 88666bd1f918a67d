"""What was found about drift, for a person: one sentence, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.drift import FeatureDrift
from pipeline.nightly_params import DriftParams

HEAD = ("feature", "champion [5 %, 95 %]", "new", "PSI", "by chance", "KS", "p corrected", "drifted")
SMALLEST_P = 0.001  # that is written out


def say_too_few(count: int, limits: DriftParams) -> str:
    """Says how many new cases are missing."""
    return (
        f"{_count(count)} since the champion, too few to compare: {limits.min_cases - count} more needed "
        f"(nightly.drift.min_cases: {limits.min_cases})."
    )


def say_result(found: Sequence[FeatureDrift], compared: int, new: int, reference: int) -> str:
    """Says which features drifted and how far, or that none did.

    Args:
        found: One a feature.
        compared: Number of new cases it is about.
        new: Number of all new cases.
        reference: Number of cases of the champion.
    """
    subject = _count(new) if compared == new else f"The newest {compared} of {_count(new)}"
    drifted = [_difference(one) for one in found if one.drifted]
    tested = sum(one.p_corrected is not None for one in found)
    if drifted:
        return (
            f"{subject} differ from the {reference} of the champion in {len(drifted)} of {tested} features: "
            f"{'; '.join(drifted)}."
        )
    if not tested:
        return f"{subject} and {reference} of the champion are too few to tell any difference from chance."
    return f"{subject} do not differ from the {reference} of the champion in any of {tested} features."


def _difference(one: FeatureDrift) -> str:
    if one.new is None or one.reference is None:
        return one.feature
    return f"{one.feature} (median {one.new.p50:.4g}, the champion's {one.reference.p50:.4g})"


def _count(new: int) -> str:
    return f"{new} new case{'s' if new > 1 else ''}"


def format_table(features: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table, one a feature.

    Args:
        features: As `drift.json` holds them.
    """
    rows: list[Sequence[str]] = [HEAD, *(_row(one) for one in features)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(one: Mapping[str, Any]) -> Sequence[str]:
    known, new, p = one["reference"], one["new"], one["p_corrected"]
    return (
        one["feature"],
        "-" if known is None else f"{known['p50']:.4g} [{known['p05']:.4g}, {known['p95']:.4g}]",
        "-" if new is None else f"{new['p50']:.4g}",
        *("-" if one[key] is None else f"{one[key]:.2f}" for key in ("psi", "psi_chance", "ks")),
        "too few cases" if p is None else format_p(p),
        "yes" if one["drifted"] else "no",
    )


def format_p(p: float) -> str:
    """Such as "0.043", or "<0.001"."""
    return f"<{SMALLEST_P:g}" if p < SMALLEST_P else f"{p:.2g}"
