"""A network over a volume, window by window, in bounded memory: finished planes leave as slabs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch

Network = Callable[[torch.Tensor], torch.Tensor]
Cut = tuple[slice, ...]
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Setting:
    """How the windows of a case are run.

    Attributes:
        windows: At once through the network.
        dtype: Of the sums over windows.
        sums: Device on which they lie.
        compute: Device of the network.
    """

    windows: int
    dtype: torch.dtype
    sums: torch.device
    compute: torch.device

    def __str__(self) -> str:
        bits = torch.finfo(self.dtype).bits
        return f"{self.windows} window(s) at once, sums of {bits} bits on {self.sums}"


@dataclass(frozen=True)
class Slab:
    """Logits that no further window changes.

    Attributes:
        axis: Of X, Y, Z (0, 1, 2) along which slabs follow one another.
        first: First plane along that axis.
        logits: (classes, X, Y, Z); overwritten when the next slab is asked for.
    """

    axis: int
    first: int
    logits: torch.Tensor


def average_mirrors(network: Network, axes: Sequence[int]) -> Network:
    """The mean over all mirrored views, each turned back; a view of the same windows, not new windows.

    Args:
        network: (N, C, X, Y, Z) to a new tensor (N, classes, X, Y, Z).
        axes: Of X, Y, Z (0, 1, 2).
    """
    flips = [[a + 2 for a in chosen] for n in range(1, len(axes) + 1) for chosen in combinations(axes, n)]

    def averaged(windows: torch.Tensor) -> torch.Tensor:
        total = network(windows)
        for flip in flips:
            total += network(windows.flip(flip)).flip(flip)
        return total.div_(len(flips) + 1) if flips else total

    return averaged


def window_starts(whole: int, size: int, overlap: float) -> list[int]:
    """First voxels of windows along one axis: as few as overlap as asked, evenly spread (nnU-Net's rule).

    Args:
        whole: Voxels of the volume, at least `size`.
        size: Voxels of a window.
        overlap: Share of the window.
    """
    count = math.ceil((whole - size) / max(size * (1 - overlap), 1)) + 1
    return [round(i * (whole - size) / max(count - 1, 1)) for i in range(count)]


def window_shares(starts: Sequence[int], size: int, whole: int) -> list[torch.Tensor]:
    """Weight of each window along one axis, 1 in sum at every voxel.

    Gaussian, standard deviation an eighth of the window. Weights of windows on a grid are products of such
    rows, and so is their sum: what is summed with them needs no division.

    Returns:
        One (size,) row a window.
    """
    places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    gaussian = torch.exp(-0.5 * (places / (size / 8)) ** 2)
    total = torch.zeros(whole, dtype=torch.float64)
    for start in starts:
        total[start : start + size] += gaussian
    return [(gaussian / total[start : start + size]).float() for start in starts]


def choose_axis(shape: Sequence[int], patch: Sequence[int]) -> int:
    """Axis along which slabs of one window are the smallest part of a volume."""
    return min(range(3), key=lambda axis: patch[axis] / shape[axis])


def slab_planes(shape: Sequence[int], patch: Sequence[int], overlap: float, windows: int) -> int:
    """Planes along `choose_axis` that are summed at the same time."""
    axis = choose_axis(shape, patch)
    rows = _row_groups(shape, patch, overlap, windows)
    return max(group[-1] - group[0] for group in rows) + patch[axis]


def sum_windows(
    network: Network,
    image: torch.Tensor,
    patch: Sequence[int],
    overlap: float,
    setting: Setting,
    previous: torch.Tensor | None = None,
    tell: Tell | None = None,
) -> Iterator[Slab]:
    """Runs a network over a volume and gives the weighted mean of its windows, slab by slab.

    Args:
        network: (N, C, X, Y, Z) to logits (N, classes, X, Y, Z), on `setting.compute`.
        image: (C, X, Y, Z), at least one window along each axis.
        patch: Voxels of a window along X, Y, Z.
        overlap: Of neighbouring windows, as a share of the window.
        setting: Windows at once, and type and place of the sums.
        previous: (1, X, Y, Z) integer label map of an earlier network, a further channel of each window.
        tell: Is given the number of windows that are done, and of all, after each batch.
    """
    shape = image.shape[1:]
    axis = choose_axis(shape, patch)
    groups = _row_groups(shape, patch, overlap, setting.windows)
    starts = [window_starts(n, p, overlap) for n, p in zip(shape, patch, strict=True)]
    shares = [
        dict(zip(s, window_shares(s, p, n), strict=True))
        for s, p, n in zip(starts, patch, shape, strict=True)
    ]
    size = list(shape)
    size[axis] = slab_planes(shape, patch, overlap, setting.windows)
    sums, done, total = torch.zeros(0), 0, math.prod(map(len, starts))
    for rows, following in zip(groups, [*groups[1:], [shape[axis]]], strict=True):
        places = list(product(*(rows if a == axis else starts[a] for a in range(3))))
        for first in range(0, len(places), setting.windows):
            batch = places[first : first + setting.windows]
            windows = torch.stack([_window(image, previous, _cut(place, patch)) for place in batch])
            logits = network(windows.to(setting.compute))
            if not len(sums):
                sums = torch.zeros((logits.shape[1], *size), dtype=setting.dtype, device=setting.sums)
            for place, one in zip(batch, logits, strict=True):
                x, y, z = (shares[a][start].to(one.device) for a, start in enumerate(place))
                weighted = one.mul_(x[:, None, None] * y[:, None] * z)
                local = [start - rows[0] if a == axis else start for a, start in enumerate(place)]
                sums[_cut(local, patch)] += weighted.to(sums.device, sums.dtype)
            done += len(batch)
            if tell is not None:
                tell(done, total)
        finished = following[0] - rows[0]
        yield Slab(axis, rows[0], sums.narrow(axis + 1, 0, finished))
        _shift(sums, axis + 1, finished)


def _row_groups(shape: Sequence[int], patch: Sequence[int], overlap: float, windows: int) -> list[list[int]]:
    """First planes of the windows along the slab axis, as many together as fill a batch."""
    axis = choose_axis(shape, patch)
    starts = [window_starts(n, p, overlap) for n, p in zip(shape, patch, strict=True)]
    row = math.prod(len(s) for a, s in enumerate(starts) if a != axis)
    together = max(1, windows // row)
    return [starts[axis][i : i + together] for i in range(0, len(starts[axis]), together)]


def _cut(first: Sequence[int], size: Sequence[int]) -> Cut:
    return (slice(None), *(slice(f, f + n) for f, n in zip(first, size, strict=True)))


def _window(image: torch.Tensor, previous: torch.Tensor | None, cut: Cut) -> torch.Tensor:
    if previous is None:
        return image[cut]
    return torch.cat([image[cut], previous[cut].to(image)])


def _shift(sums: torch.Tensor, dim: int, finished: int) -> None:
    """Moves the unfinished planes to the front and clears the rest."""
    whole = sums.shape[dim]
    for first in range(0, whole - finished, finished):  # in pieces that do not overlap with their target
        count = min(finished, whole - finished - first)
        sums.narrow(dim, first, count).copy_(sums.narrow(dim, first + finished, count))
    sums.narrow(dim, whole - finished, finished).zero_()
