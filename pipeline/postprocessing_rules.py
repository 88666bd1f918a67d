"""Rules that a model's label maps go through after the network: which components stay, which holes are filled.

They are learned from validation cases (`pipeline.rule_learning`), stand in `bundle.json`, and are applied on the
grid of the source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import ndimage

from pipeline.instances import TOUCHING, find_boxes, instance_voxels, z_slabs

Box = tuple[slice, slice, slice]
LabelArray = NDArray[np.uint8]
Kind = Literal["largest_foreground", "largest_component", "minimum_volume", "fill_holes"]
FOREGROUND = 0  # index of a rule that is about all classes together


class DiceChange(BaseModel):
    """Mean Dice of one class over the cases that a rule was learned from; None where no case has the class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: float | None
    after: float | None


class Rule(BaseModel):
    """One rule, and what it gained on the cases it was learned from.

    Attributes:
        kind: "largest_foreground" keeps the largest component of all classes together, "largest_component" that
            of one class, "minimum_volume" removes the smaller components of one class, "fill_holes" gives
            background that one class encloses to this class.
        index: Network index of the class; 0 for "largest_foreground".
        label: Name of the class; "" for "largest_foreground".
        minimum_mm3: Components with less are removed, mm3 (2D: mm2); "minimum_volume" alone uses it.
        dice_before, dice_after: Mean over cases, then over classes, without the rule and with it; the rules
            that stand before it are applied in both.
        classes: The same class by class.
        cases: Number of cases it was learned from.
        cases_changed: In how many of them it changed a voxel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    index: int
    label: str
    minimum_mm3: float = 0.0
    dice_before: float
    dice_after: float
    classes: dict[str, DiceChange]
    cases: int
    cases_changed: int

    @property
    def text(self) -> str:
        """What it does, for a person."""
        return {
            "largest_foreground": "keep the largest component of the whole foreground",
            "largest_component": f"keep the largest component of {self.label}",
            "minimum_volume": f"remove components of {self.label} below {self.minimum_mm3:.4g} mm3 (2D: mm2)",
            "fill_holes": f"fill holes of {self.label}",
        }[self.kind]


def apply_rules(label_map: LabelArray, rules: Sequence[Rule], voxel_size: float) -> LabelArray:
    """Applies rules one after the other.

    Beside the result, components of 4 bytes a voxel are held at a time, inside the box of one class.

    Args:
        label_map: (X, Y, Z) network indices, 0 is background; stays as it is.
        rules: In the order in which they were learned.
        voxel_size: mm3 of a voxel, mm2 on an image of a single slice (`volume.voxel_size_mm`).

    Returns:
        (X, Y, Z), laid out in memory as it was.
    """
    result = label_map.copy(order="K")
    for rule in rules:
        if rule.kind == "fill_holes":
            for box, hole in find_holes(result, rule.index):
                result[box][hole] = rule.index
        else:
            _remove_components(result, rule, voxel_size)
    return result


def _remove_components(label_map: LabelArray, rule: Rule, voxel_size: float) -> None:
    for box, pieces, voxels in find_components(label_map, rule.index):
        if rule.kind == "minimum_volume":
            kept = voxels * voxel_size >= rule.minimum_mm3
        else:
            kept = np.arange(len(voxels)) == voxels.argmax()
        if kept.all():
            continue
        keeps, inside = np.concatenate([[True], kept]), label_map[box]
        for part in z_slabs(pieces.shape):
            inside[part][~keeps[pieces[part]]] = 0


def find_components(
    label_map: LabelArray, index: int
) -> Iterator[tuple[Box, NDArray[np.int32], NDArray[np.int64]]]:
    """Connected components (voxels that share a corner) of one class, or of the whole foreground.

    Args:
        label_map: (X, Y, Z) network indices.
        index: Of the class, FOREGROUND for all of them.

    Yields:
        Once, or not at all when there is nothing: the box, the ids 1..n of the components within it, and the
        voxels of each (n,).
    """
    box = _foreground_box(label_map) if index == FOREGROUND else _class_box(label_map, index)
    if box is not None:
        inside = label_map[box].T  # X lies together in memory
        pieces, count = ndimage.label(inside > 0 if index == FOREGROUND else inside == index, TOUCHING)
        yield box, pieces.T, instance_voxels(pieces.T, count)


def find_holes(label_map: LabelArray, index: int) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
    """Holes of a class: background that only voxels of this class enclose.

    A hole is a component of background by faces, as its walls are components by corners. One that reaches the
    edge of the image is open; an image of a single slice is measured within it. One that a second class borders
    too is nobody's.

    Args:
        label_map: (X, Y, Z) network indices; holes that were yielded may be filled.
        index: Of the class.

    Yields:
        A box of the label map and which of its voxels are the hole.
    """
    box = _class_box(label_map, index)
    if box is None:
        return
    inside = label_map[box]
    pieces, count = ndimage.label(inside.T == 0)
    pieces = pieces.T
    still_open = np.zeros(count + 1, np.bool_)
    for axis in (axis for axis in range(3) if label_map.shape[axis] > 1):
        for end in (0, -1):
            still_open[pieces.take(end, axis)] = True
    for number, place in enumerate(find_boxes(pieces), 1):
        if place is None or still_open[number]:
            continue
        x, y, z = (slice(max(edge.start - 1, 0), edge.stop + 1) for edge in place)
        hole = pieces[x, y, z] == number
        walls = ndimage.binary_dilation(hole) & ~hole
        if (inside[x, y, z][walls] == index).all():
            yield _within(box, (x, y, z)), hole


def _class_box(label_map: LabelArray, index: int) -> Box | None:
    boxes = find_boxes(label_map)
    return boxes[index - 1] if index <= len(boxes) else None


def _foreground_box(label_map: LabelArray) -> Box | None:
    boxes = [box for box in find_boxes(label_map) if box is not None]
    if not boxes:
        return None
    x, y, z = (
        slice(min(e.start for e in edges), max(e.stop for e in edges)) for edges in zip(*boxes, strict=True)
    )
    return x, y, z


def _within(outer: Box, inner: Box) -> Box:
    """A box inside another one, counted from the corner of the image."""
    x, y, z = (slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner, strict=True))
    return x, y, z
