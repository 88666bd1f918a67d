"""From the contours of several readers to one mask a nodule.

A reader's contour runs just outside the nodule: its polygon is filled, and the edge pixels themselves are left
out. Contours with inclusion FALSE are holes. **One nodule** = the marks whose masks share a voxel, directly or
through others; its mask = the voxels inside the masks of at least `agreement` of its readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.io.consensus import Voxels, agreeing_voxels, mean_pairwise_dice
from pipeline.io.lidc_xml import Contour, Mark


@dataclass(frozen=True)
class Nodule:
    """What the readers drew for one nodule.

    Attributes:
        masks: Voxels by reader; at least one reader, each with at least one voxel.
    """

    masks: Mapping[int, Voxels]

    @property
    def agreement(self) -> float:
        """Mean Dice of each two readers' masks; NaN with one reader."""
        return mean_pairwise_dice(list(self.masks.values()))

    def consensus(self, agreement: int) -> Voxels:
        """Voxels that at least so many readers drew; there may be none."""
        return agreeing_voxels(list(self.masks.values()), agreement)


def draw_mark(mark: Mark, slices: Sequence[int | None], shape: tuple[int, ...]) -> Voxels:
    """Fills the contours of one mark.

    Args:
        mark: Its points are column (X) and row (Y) of the image.
        slices: Z index of each contour, None where it lies outside the image.
        shape: X, Y, Z of the image.

    Returns:
        Nothing when no contour within the image has an inside: points, and outlines of nothing but edge.
    """
    inside: dict[int, NDArray[np.bool_]] = {}
    holes: dict[int, NDArray[np.bool_]] = {}
    for contour, z in zip(mark.contours, slices, strict=True):
        if z is not None and len(contour.points) > 1:
            part = inside if contour.included else holes
            filled = _fill(contour, (shape[0], shape[1]))
            part[z] = part[z] | filled if z in part else filled
    found = [np.empty(0, np.int64)]
    for z, mask in inside.items():
        x, y = np.nonzero(mask & ~holes[z] if z in holes else mask)
        found.append(np.ravel_multi_index((x, y, np.full_like(x, z)), shape))
    return np.sort(np.concatenate(found))


def group_marks(drawn: Sequence[tuple[int, Voxels]]) -> list[Nodule]:
    """Groups the marks that share a voxel, in the order of their first ones.

    Args:
        drawn: Reader and voxels of each mark. Marks of one reader that meet in another one's become one.
    """
    groups: list[list[tuple[int, Voxels]]] = []
    for item in drawn:
        meeting = [group for group in groups if any(np.intersect1d(item[1], v).size for _, v in group)]
        if not meeting:
            groups.append([item])
            continue
        meeting[0] += [other for group in meeting[1:] for other in group] + [item]
        groups = [group for group in groups if not any(group is gone for gone in meeting[1:])]
    return [_join(group) for group in groups]


def _fill(contour: Contour, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Inside of an outline, without the edge itself."""
    from skimage.draw import polygon

    columns, rows = contour.points.T
    mask = np.zeros(shape, bool)
    mask[polygon(columns, rows, shape)] = True  # type: ignore[no-untyped-call]
    mask[columns, rows] = False
    return mask


def _join(group: Sequence[tuple[int, Voxels]]) -> Nodule:
    readers = sorted({reader for reader, _ in group})
    return Nodule({r: np.unique(np.concatenate([v for reader, v in group if reader == r])) for r in readers})
