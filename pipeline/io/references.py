"""References that a layout derives: what is drawn, listed or contoured becomes label and instance maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cases import Finding
from pipeline.config import InspectParams
from pipeline.io.stored import StoredImage
from pipeline.objects import ObjectRow
from pipeline.reader_rows import ReaderRow

OBJECT = 1  # value of the one class of these layouts
SHOWN = 5  # problems of one kind that a reason lists

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Piece:
    """The mask of one object.

    Attributes:
        box: Where it lies, X, Y, Z voxels of the image.
        mask: (x, y, z) within the box; at least one voxel is set.
    """

    box: Box
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class References:
    """The reference of one case, on the grid of its image; neither map when a finding is fatal.

    Attributes:
        instances: (X, Y, Z) ids 1..n, 0 is background; None where there are no single objects.
        label: (X, Y, Z) label values; None = class 1 wherever `instances` is above 0.
        objects: A row an annotated object; None = what the maps show.
        findings: What is wrong.
        readers: How far several readers agree; empty where there was one, or nothing is known of them.
    """

    instances: NDArray[np.integer[Any]] | None = None
    label: NDArray[np.integer[Any]] | None = None
    objects: tuple[ObjectRow, ...] | None = None
    findings: tuple[Finding, ...] = ()
    readers: tuple[ReaderRow, ...] = ()


# Makes the reference of a case from its image; of the params it takes how readers are brought to one.
ReferenceBuilder = Callable[[StoredImage, InspectParams], References]


def paint(pieces: Sequence[Piece], shape: tuple[int, ...]) -> tuple[NDArray[np.integer[Any]], list[int], int]:
    """Makes one instance map of masks that may overlap: a voxel of several goes to the smallest of them.

    Args:
        pieces: In the order of their ids.
        shape: X, Y, Z of the map.

    Returns:
        instances: Ids 1..n of the pieces that still have a voxel, in the smallest unsigned type.
        ids: The id of each piece; 0 for one that lies wholly beneath others.
        shared: Number of voxels that belong to several pieces.
    """
    painted = np.zeros(shape, np.min_scalar_type(len(pieces)))
    shared = np.zeros(shape, bool)
    sizes = [int(piece.mask.sum()) for piece in pieces]
    for index in sorted(range(len(pieces)), key=lambda i: -sizes[i]):
        box, mask = pieces[index].box, pieces[index].mask
        shared[box] |= mask & (painted[box] > 0)
        painted[box][mask] = index + 1
    left = [bool((painted[p.box][p.mask] == number).any()) for number, p in enumerate(pieces, 1)]
    ids = [number if seen else 0 for number, seen in zip(np.cumsum(left).tolist(), left, strict=True)]
    if not all(left):
        painted = np.array([0, *ids], painted.dtype)[painted]
    return painted, ids, int(shared.sum())


def crop(mask: NDArray[np.bool_]) -> Piece | None:
    """The smallest box around a mask (X, Y, Z), with what it holds; None when the mask is empty."""
    spans = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not hits.size:
            return None
        spans.append(slice(int(hits[0]), int(hits[-1]) + 1))
    box = (spans[0], spans[1], spans[2])
    return Piece(box, mask[box].copy())  # a view would keep the whole mask in memory


def overlap_findings(ids: Sequence[int], names: Sequence[str], shared: int) -> list[Finding]:
    """Says what `paint` had to decide.

    Args:
        ids: Of the pieces, as `paint` returned them.
        names: Of the pieces.
        shared: As `paint` returned it.
    """
    findings = []
    if shared:
        what = f"{shared} voxel(s) belong to several masks, each goes to the smallest of them"
        findings.append(Finding("masks_overlap", what, fatal=False))
    if hidden := [name for name, number in zip(names, ids, strict=True) if number == 0]:
        what = f"{shorten(hidden)} lie wholly beneath other masks and have no voxel of their own"
        findings.append(Finding("mask_hidden", what, fatal=False))
    return findings


def shorten(texts: Sequence[str]) -> str:
    """Joins texts, at most the first five."""
    rest = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + rest
