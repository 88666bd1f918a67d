"""Balance of a split: how many cases, patients, sites and classes stand on each side.

The rule of `pipeline.splits` cannot force balance (`docs/explanation/splits.md`), so it is counted and shown.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.cases import CaseRecord
from pipeline.splits import SIDES, VALIDATION, SplitRow

LOGGER = logging.getLogger("segtrail")
FEWEST_VALIDATION = 4  # labelled patients; with fewer a single one weighs more than most gains of a training


@dataclass(frozen=True)
class SideCounts:
    """What stands on one side.

    Attributes:
        split: Name of the side.
        cases: Number of cases.
        patients: Number of patients.
        sites: Cases of each site of the set, 0 included; empty when no site is known.
        classes: Cases that hold each class of the set, 0 included; empty when unknown.
    """

    split: str
    cases: int
    patients: int
    sites: dict[str, int]
    classes: dict[str, int]


def count_sides(
    rows: Sequence[SplitRow], cases: Sequence[CaseRecord], classes: Mapping[str, Collection[str]]
) -> list[SideCounts]:
    """Counts cases, patients, sites and classes on each side.

    Args:
        rows: The split.
        cases: The table of cases, for the sites.
        classes: Names of the classes that each case holds, by case_id; cases may be missing.
    """
    site_of = {case.case_id: case.site for case in cases}
    sites = sorted({site_of.get(row.case_id, "") for row in rows} - {""})
    names = list(dict.fromkeys(name for row in rows for name in classes.get(row.case_id, ())))
    counts = []
    for side in SIDES:
        part = [row for row in rows if row.split == side]
        by_site = {site: sum(site_of.get(row.case_id) == site for row in part) for site in sites}
        by_class = {name: sum(name in classes.get(row.case_id, ()) for row in part) for name in names}
        counts.append(SideCounts(side, len(part), len({row.patient_id for row in part}), by_site, by_class))
    return counts


def warn_absent_classes(counts: Sequence[SideCounts]) -> None:
    """Warns of each class that the set has but a side lacks: its metrics would be undefined there."""
    for side in counts:
        for name, cases in side.classes.items():
            if cases == 0:
                LOGGER.warning(
                    "warning: no %s case holds class %s, though others do; add cases or change split.salt",
                    side.split,
                    name,
                )


def describe_small_validation(sides: Mapping[str, str], cases: Iterable[CaseRecord]) -> str:
    """Says that few patients validate, what depends on them, and the ways out; "" where they are enough.

    Args:
        sides: Side of each case, by case_id.
        cases: The table of cases; those without a label map validate nothing.
    """
    number = len({case.patient_id for case in cases if case.label and sides.get(case.case_id) == VALIDATION})
    if number >= FEWEST_VALIDATION:
        return ""
    return (
        f"only {number} labelled patient{'' if number == 1 else 's'} in validation, fewer than "
        f"{FEWEST_VALIDATION}: chance has a large part in which epoch is kept and in the closing validation; "
        "raise split.validation_fraction, or cross-validate with train.<model>.folds, or, before the first "
        "training, change split.salt (which makes another test set)"
    )


def format_sides(counts: Sequence[SideCounts]) -> list[str]:
    """The counts as the lines of a small table."""
    heads = ["side", "cases", "patients", *(f"site {name}" for name in counts[0].sites), *counts[0].classes]
    table = [heads]
    for side in counts:
        numbers = [side.cases, side.patients, *side.sites.values(), *side.classes.values()]
        table.append([side.split, *map(str, numbers)])
    widths = [max(len(line[column]) for line in table) for column in range(len(heads))]
    return [
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]
