"""What the voxels of predictions and references say about rules, counted once a case.

A component of one class lies in one component of the whole foreground, and removing it changes neither the other
components nor the other classes. So the Dice after any removal follows from a table of components: their
volumes, and what of them is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.postprocessing_rules import (
    FOREGROUND,
    LabelArray,
    Rule,
    apply_rules,
    find_components,
    find_holes,
)
from pipeline.volume import voxel_size_mm

Pairs = Callable[[], Iterable[tuple[LabelArray, LabelArray]]]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Components of the prediction of one case; arrays (n,).

    Attributes:
        classes: Network index.
        groups: Which component of the whole foreground it is part of.
        sizes: mm3 (2D: mm2).
        voxels: Their number.
        right: Those whose reference is of the same class.
        reference: (classes,) voxels of each class in the reference, background first.
    """

    classes: NDArray[np.intp]
    groups: NDArray[np.intp]
    sizes: Values
    voxels: NDArray[np.int64]
    right: NDArray[np.int64]
    reference: NDArray[np.int64]

    def count(self, values: NDArray[np.int64], kept: NDArray[np.bool_]) -> Values:
        """Sums over the components that are kept, by foreground class (classes,)."""
        sums: Values = np.bincount(self.classes[kept], values[kept], len(self.reference))[1:].astype(float)
        return sums


@dataclass(frozen=True)
class State:
    """What the rules so far leave.

    Attributes:
        kept: (n,) of each case, the components that are left.
        right: (cases, classes) voxels on which prediction and reference agree.
        found: (cases, classes) voxels of the prediction.
        reference: (cases, classes) voxels of the reference.
    """

    kept: tuple[NDArray[np.bool_], ...]
    right: Values
    found: Values
    reference: Values

    def classes(self) -> Values:
        """Mean Dice over cases of each class; NaN where no case has it."""
        return _mean(dice_of(self.right, self.found + self.reference), axis=0)

    def score(self) -> float:
        """Mean Dice over cases, then over classes."""
        return float(_mean(self.classes(), axis=0))


def tabulate(prediction: LabelArray, reference: LabelArray, classes: int, voxel_size: float) -> Table:
    """Counts one case.

    Args:
        prediction, reference: (X, Y, Z) network indices.
        classes: Their number, background included.
        voxel_size: mm3 (2D: mm2) of a voxel.
    """
    counted = np.bincount(reference.ravel(order="K"), minlength=classes)[:classes]
    columns: list[tuple[NDArray[Any], ...]] = []
    for whole, groups, _ in find_components(prediction, FOREGROUND):
        inside, truth = prediction[whole], reference[whole]
        for index in range(1, classes):
            for box, pieces, voxels in find_components(inside, index):
                members = pieces > 0
                ids = pieces[members]
                right = np.bincount(ids[truth[box][members] == index], minlength=len(voxels) + 1)[1:]
                group = np.zeros(len(voxels) + 1, np.intp)
                group[ids] = groups[box][members]
                columns.append((np.full(len(voxels), index), group[1:], voxels * voxel_size, voxels, right))
    nothing = (np.zeros(0, np.intp),) * 5
    classed, grouped, sizes, voxels, right = (
        np.concatenate(column) for column in zip(nothing, *columns, strict=True)
    )
    return Table(classed, grouped, sizes, voxels, right, counted)


def leave(tables: Sequence[Table], kept: Sequence[NDArray[np.bool_]]) -> State:
    """The state in which only these components (n,) of each case are left."""
    pairs = list(zip(tables, kept, strict=True))
    return State(
        tuple(kept),
        np.array([table.count(table.right, left) for table, left in pairs]),
        np.array([table.count(table.voxels, left) for table, left in pairs]),
        np.array([table.reference[1:] for table in tables], np.float64),
    )


def count_holes(pairs: Pairs, rules: Sequence[Rule], classes: int, affine: Values) -> Values:
    """(2, cases, classes) voxels in holes after the rules so far: those that are right to fill, and all."""
    counts = []
    for prediction, reference in pairs():
        cleaned = apply_rules(prediction, rules, voxel_size_mm(affine, prediction.shape))
        found = np.zeros((2, classes - 1))
        for index in range(1, classes):
            for box, hole in find_holes(cleaned, index):
                found[:, index - 1] += (reference[box][hole] == index).sum(), hole.sum()
        counts.append(found)
    return np.stack(counts, axis=1)


def dice_of(right: NDArray[Any], both: NDArray[Any]) -> Values:
    """Dice from counts: `right` voxels in common, `both` volumes added; NaN where both are empty."""
    return _divide(2.0 * right, both)


def _mean(values: Values, axis: int) -> Values:
    """Over what is defined; NaN without anything (where np.nanmean would warn)."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(axis), defined.sum(axis))


def _divide(parts: NDArray[Any], wholes: NDArray[Any]) -> Values:
    """NaN where the whole is 0."""
    undefined: Values = np.full(np.shape(wholes), np.nan)
    np.divide(parts, wholes, out=undefined, where=np.asarray(wholes) > 0)
    return undefined
