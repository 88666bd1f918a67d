"""Random changes of the label map that the second network of a cascade sees.

The first network knows its training cases and is worse on others; without these changes the second one would learn
to trust it. Source: nnU-Net's augmentation of the cascade (Isensee et al., Nature Methods 18, 2021; nnunetv2 2.8.1):
morphology of each class in 40 % of the patches, a component of each class removed in 20 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]

MORPHOLOGY, REMOVAL = 0.4, 0.2  # probability a patch
OPERATIONS = ("erode", "dilate", "open", "close")
LARGEST_RADIUS = 8  # voxels
RADIUS_SHARE = (
    8  # and no more than this part of the patch's shortest edge: nnU-Net's patches are rarely below 64
)
LARGEST_REMOVED = 0.15  # of the patch: larger components stay
NEIGHBOURHOOD = np.ones((3, 3, 3), np.bool_)


@dataclass(frozen=True)
class Morphology:
    """One of OPERATIONS on a class, by a ball.

    Attributes:
        label: Network index.
        operation: Its name.
        radius: Of the ball, in voxels.
    """

    label: int
    operation: str
    radius: int


@dataclass(frozen=True)
class Removal:
    """A component of a class becomes background.

    Attributes:
        label: Network index.
        place: Which one, as a share of the components that are small enough, 0 to 1.
    """

    label: int
    place: float


def draw_changes(
    classes: int, patch_size: Sequence[int], generator: np.random.Generator
) -> list[Morphology | Removal]:
    """Draws the changes of one patch, in the order in which they are made.

    Args:
        classes: Background included.
        patch_size: Voxels along X, Y, Z.
        generator: Source of chance.
    """
    changes: list[Morphology | Removal] = []
    largest = max(1, min(LARGEST_RADIUS, min(patch_size) // RADIUS_SHARE))
    if generator.random() < MORPHOLOGY:
        for label in generator.permutation(np.arange(1, classes)).tolist():
            operation = OPERATIONS[generator.integers(len(OPERATIONS))]
            changes.append(Morphology(label, operation, int(generator.integers(1, largest + 1))))
    if generator.random() < REMOVAL:
        labels = generator.permutation(np.arange(1, classes)).tolist()
        changes += [Removal(label, generator.random()) for label in labels]
    return changes


def apply_changes(previous: NDArray[np.uint8], changes: list[Morphology | Removal]) -> NDArray[np.uint8]:
    """Changes a label map.

    Args:
        previous: (X, Y, Z) network indices; stays as it is.
        changes: From `draw_changes`; of a class that is not there nothing happens.
    """
    result = previous.copy()
    for change in changes:
        if (box := _bounding_box(result == change.label)) is None:
            continue
        if isinstance(change, Morphology):
            _reshape(result, box, change)
        else:
            _remove(result, box, change)
    return result


def _reshape(result: NDArray[np.uint8], box: tuple[slice, ...], change: Morphology) -> None:
    """What a class gains is taken from the others; what it loses becomes background."""
    margin = change.radius + 1
    wide = tuple(
        slice(max(edge.start - margin, 0), min(edge.stop + margin, size))
        for edge, size in zip(box, result.shape, strict=True)
    )
    part = result[wide]
    before = part == change.label
    after = change_mask(before, change.operation, change.radius)
    part[before & ~after] = 0
    part[after] = change.label


def change_mask(mask: Mask, operation: str, radius: int) -> Mask:
    """Erodes, dilates, opens or closes by a ball; the mask goes on beyond the border of the array.

    By distances: a ball of 8 voxels has 2109 neighbours, the distance transform needs none of them.

    Args:
        mask: (X, Y, Z).
        operation: One of OPERATIONS.
        radius: Of the ball, in voxels.
    """
    steps = {
        "erode": (_erode,),
        "dilate": (_dilate,),
        "open": (_erode, _dilate),
        "close": (_dilate, _erode),
    }[operation]
    for step in steps:
        mask = step(mask, radius)
    return mask


def _erode(mask: Mask, radius: int) -> Mask:
    if mask.all():  # without background there is no distance to it
        return mask
    distances: NDArray[Any] = ndimage.distance_transform_edt(mask)
    return distances > radius


def _dilate(mask: Mask, radius: int) -> Mask:
    if not mask.any():
        return mask
    distances: NDArray[Any] = ndimage.distance_transform_edt(~mask)
    return distances <= radius


def _remove(result: NDArray[np.uint8], box: tuple[slice, ...], change: Removal) -> None:
    part = result[box]
    components, _ = ndimage.label(part == change.label, structure=NEIGHBOURHOOD)
    sizes = np.bincount(components.ravel())
    small = 1 + np.flatnonzero(sizes[1:] < LARGEST_REMOVED * result.size)
    if len(small):
        part[components == small[int(change.place * len(small))]] = 0


def _bounding_box(mask: Mask) -> tuple[slice, ...] | None:
    found: list[tuple[slice, ...]] = ndimage.find_objects(mask.view(np.uint8), max_label=1)
    return found[0]
