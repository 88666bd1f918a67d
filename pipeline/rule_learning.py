"""Which post-processing rules help: learned from predictions and references of validation cases.

Source of the order and of the condition: nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z), which
knows the rules of the largest component.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.postprocessing_rules import FOREGROUND, DiceChange, Kind, Rule
from pipeline.rule_tables import Pairs, State, Table, Values, count_holes, dice_of, leave, tabulate
from pipeline.volume import voxel_size_mm

LOGGER = logging.getLogger("segtrail")
# A rule that deletes may delete a second lesion of a new patient: what the third decimal of a report does not
# show is not worth that.
LEAST_GAIN = 0.001
# A rule from one case is that case's accident. Five cases that all get better would do so by chance (better or
# worse, 1 to 1) once in 32 times.
LEAST_CASES = 5
ROUNDING = 1e-9  # of means over cases


@dataclass(frozen=True)
class _Trial:
    """A rule, what it leaves, and in how many cases it changes something."""

    kind: Kind
    index: int
    state: State
    cases_changed: int
    minimum_mm3: float = 0.0


def learn_rules(
    pairs: Pairs, label_names: Sequence[str], spacing_mm: tuple[float, float, float]
) -> list[Rule]:
    """Finds the rules that help, greedily.

    The largest component of the whole foreground is tried first, then class by class the largest component and
    the best minimum volume (the better of the two first), then class by class the holes of what is left. A rule
    is kept when the mean Dice over cases and classes rises by more than LEAST_GAIN, no class's mean Dice falls,
    and it changes at least LEAST_CASES cases. Both-empty and one-empty pairs count as in `pipeline.metrics`.

    Args:
        pairs: Gives a fresh iterator over (prediction, reference), each (X, Y, Z) of network indices on the
            plan's grid, in the same order each time; it is called twice, one pair is held at a time.
        label_names: By network index, background first.
        spacing_mm: Of the grid.

    Returns:
        In the order in which `apply_rules` is to apply them; empty when none helps.
    """
    affine = np.diag([*spacing_mm, 1.0])
    tables = [tabulate(p, r, len(label_names), voxel_size_mm(affine, p.shape)) for p, r in pairs()]
    if not tables:
        return []
    rules: list[Rule] = []
    state = leave(tables, [np.ones(len(t.classes), np.bool_) for t in tables])
    state = _take_best([_keep_largest(tables, state, FOREGROUND)], state, label_names, rules)
    for index in range(1, len(label_names)):
        for _ in range(2):  # the largest component and the minimum volume, the better one first
            trials = [_keep_largest(tables, state, index), *_best_minimum(tables, state, index)]
            state = _take_best(trials, state, label_names, rules)
    holes = count_holes(pairs, rules, len(label_names), affine)
    for index in range(1, len(label_names)):
        state = _take_best([_fill(holes, state, index)], state, label_names, rules)
    return rules


def _keep_largest(tables: Sequence[Table], state: State, index: int) -> _Trial:
    """Of a class, or of the whole foreground; of equally large ones the first, as `apply_rules` has it."""
    kept = []
    for table, left in zip(tables, state.kept, strict=True):
        mine = left & (table.classes == index) if index != FOREGROUND else left
        names = table.groups if index == FOREGROUND else np.arange(len(mine))
        sizes = np.bincount(names[mine], table.voxels[mine])
        kept.append(left & ~(mine & (names != sizes.argmax())) if mine.any() else left)
    changed = sum(not np.array_equal(a, b) for a, b in zip(kept, state.kept, strict=True))
    kind: Kind = "largest_foreground" if index == FOREGROUND else "largest_component"
    return _Trial(kind, index, leave(tables, kept), changed)


def _best_minimum(tables: Sequence[Table], state: State, index: int) -> list[_Trial]:
    """The smallest of the best minimum volumes of a class; none where it has no two different volumes.

    Tried is a value between each two neighbouring volumes that occur, their geometric mean.
    """
    mine = [left & (table.classes == index) for table, left in zip(tables, state.kept, strict=True)]
    sizes = np.unique(np.concatenate([t.sizes[m] for t, m in zip(tables, mine, strict=True)]))
    if len(sizes) < 2:
        return []
    minima = np.sqrt(sizes[:-1] * sizes[1:])
    total, defined, changed = (np.zeros(len(minima)) for _ in range(3))
    for table, members in zip(tables, mine, strict=True):
        order = np.argsort(table.sizes[members])
        gone = np.searchsorted(table.sizes[members][order], minima)
        right, found = (
            values[members].sum() - np.append(0, values[members][order].cumsum())[gone]
            for values in (table.right, table.voxels)
        )
        dice = dice_of(right, found + table.reference[index])
        total += np.nan_to_num(dice)
        defined += ~np.isnan(dice)
        changed += gone > 0
    usable = np.flatnonzero((changed >= LEAST_CASES) & (defined > 0))
    if not len(usable):
        return []
    means = total[usable] / defined[usable]
    best = usable[np.flatnonzero(means >= means.max() - ROUNDING)[0]]
    kept = [
        left & ~(members & (table.sizes < minima[best]))
        for table, left, members in zip(tables, state.kept, mine, strict=True)
    ]
    return [_Trial("minimum_volume", index, leave(tables, kept), int(changed[best]), float(minima[best]))]


def _fill(holes: Values, state: State, index: int) -> _Trial:
    """Holes of one class; no other class changes, as a hole borders on none."""
    own = np.zeros_like(holes)
    own[:, :, index - 1] = holes[:, :, index - 1]
    filled = replace(state, right=state.right + own[0], found=state.found + own[1])
    return _Trial("fill_holes", index, filled, int((own[1] > 0).any(axis=1).sum()))


def _take_best(
    trials: Sequence[_Trial], state: State, label_names: Sequence[str], rules: list[Rule]
) -> State:
    """Adds the best of the trials that help to the rules; the first of equally good ones."""
    before = state.classes()
    helpful = [
        trial
        for trial in trials
        if trial.cases_changed > 0
        and trial.state.score() - state.score() > LEAST_GAIN
        and not (trial.state.classes() < before - ROUNDING).any()
    ]
    for trial in sorted(helpful, key=lambda t: -round(t.state.score(), 9)):
        rule = _to_rule(trial, state, label_names)
        gained = f"mean Dice {rule.dice_before:.4f} to {rule.dice_after:.4f}"
        if trial.cases_changed >= LEAST_CASES:
            LOGGER.info("post-processing: %s: %s on %d cases", rule.text, gained, rule.cases)
            rules.append(rule)
            return trial.state
        LOGGER.info(
            "post-processing: not kept: %s: %s, but it changes only %d of %d cases, fewer than %d",
            rule.text, gained, rule.cases_changed, rule.cases, LEAST_CASES,
        )  # fmt: skip
    return state


def _to_rule(trial: _Trial, state: State, label_names: Sequence[str]) -> Rule:
    changes = zip(label_names[1:], state.classes(), trial.state.classes(), strict=True)
    return Rule(
        kind=trial.kind,
        index=trial.index,
        label="" if trial.index == FOREGROUND else label_names[trial.index],
        minimum_mm3=trial.minimum_mm3,
        dice_before=state.score(),
        dice_after=trial.state.score(),
        classes={n: DiceChange(before=_known(b), after=_known(a)) for n, b, a in changes},
        cases=len(state.right),
        cases_changed=trial.cases_changed,
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
