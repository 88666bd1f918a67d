"""From slabs of logits on the plan's grid to one class a voxel of the source grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.plan import RegionPlan
from pipeline.regions import paint_regions
from pipeline.resampling import Shape, neighbours
from pipeline.volume import Affine, reorientation, to_canonical
from pipeline.windows import Slab

AT_ONCE = 16 << 20  # bytes of probabilities that are worked on together: about what a cache holds


class ClassMap:
    """Keeps of each voxel the most probable class and its probability, and nothing of the other classes.

    The probabilities are resampled linearly, as `torch.nn.functional.interpolate` (trilinear) does it for a whole
    volume: a plane of the source grid needs two of the plan's, so a slab keeps its last one for the next.
    Of regions the logits are one sigmoid each, and the class is what they paint (`pipeline.regions`).

    Args:
        shape: (X, Y, Z) of the source grid.
        affine: (4, 4) of the source grid.
        plan_shape: (X, Y, Z) of the plan's grid, canonical axis order.
        regions: Of the plan; empty = the logits are of classes.

    Attributes:
        winner: (X, Y, Z) uint8 network index, source axis order.
        probability: (X, Y, Z) float32, of the winner.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        affine: Affine,
        plan_shape: Shape,
        regions: Sequence[RegionPlan] = (),
    ) -> None:
        self.winner: NDArray[np.uint8] = np.zeros(shape, np.uint8, order="F")  # as NIfTI stores them
        self.probability: NDArray[np.float32] = np.zeros(shape, np.float32, order="F")
        self._views = to_canonical(self.winner, affine)[0], to_canonical(self.probability, affine)[0]
        axes, _ = reorientation(affine)
        self._shape = tuple(shape[axis] for axis in axes)
        self._plan_shape = plan_shape
        self._regions = tuple(regions)
        self._done = 0
        self._last: torch.Tensor | None = None

    def add(self, slab: Slab) -> None:
        """Takes the next slab; writes the planes of the source grid that are known with it."""
        axis = slab.axis
        logits = slab.logits.movedim(axis + 1, 1)
        first, end = slab.first, slab.first + logits.shape[1]
        if self._last is not None:
            first -= 1
        low, high, share = neighbours(self._plan_shape[axis], self._shape[axis])
        ready = int(np.searchsorted(high, end))
        size = tuple(n for a, n in enumerate(self._shape) if a != axis)
        plane = max(size[0] * size[1], logits.shape[2] * logits.shape[3]) * len(logits) * 4
        step = max(1, AT_ONCE // plane)
        for start in range(self._done, ready, step):
            stop = min(start + step, ready)
            planes = self._planes(logits, first, low[start], high[stop - 1] + 1)
            if tuple(self._shape) == tuple(self._plan_shape):
                value, index = self._pick(planes.sigmoid()) if self._regions else _winner(planes)
            else:
                weights = torch.from_numpy(share[start:stop].astype(np.float32)).to(planes.device)[
                    :, None, None
                ]
                shares = planes.sigmoid() if self._regions else planes.softmax(dim=0)
                lower, upper = (
                    shares[:, low[start:stop] - low[start]],
                    shares[:, high[start:stop] - low[start]],
                )
                value, index = self._pick(_resize(lower + (upper - lower) * weights, size))
            part = np.s_[start:stop]
            np.moveaxis(self._views[0], axis, 0)[part] = index.to(torch.uint8).cpu().numpy()
            np.moveaxis(self._views[1], axis, 0)[part] = value.cpu().numpy()
        self._done = ready
        self._last = logits[:, -1:].clone()

    def _pick(self, probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probability and network index of the class that a voxel gets."""
        if self._regions:
            return paint_regions(probabilities, self._regions)
        value, index = probabilities.max(dim=0)
        return value, index

    def _planes(self, logits: torch.Tensor, first: int, low: int, high: int) -> torch.Tensor:
        """Planes `low` to `high` in float32; the first one may be the last of the slab before."""
        if self._last is None:
            return logits[:, low - first : high - first].float()
        if low > first:
            return logits[:, low - first - 1 : high - first - 1].float()
        return torch.cat([self._last, logits[:, : high - first - 1]], dim=1).float()


def _winner(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Highest softmax over classes, and where it is."""
    value, index = logits.max(dim=0)
    return (logits - value).exp_().sum(dim=0).reciprocal_(), index


def _resize(planes: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Linear resampling of each plane of (classes, planes, A, B)."""
    if tuple(planes.shape[2:]) == size:
        return planes
    return functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)
