"""Training patches as a pure function of seed and step, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from pipeline.store import StoredCase, load_case


@dataclass(frozen=True)
class Share:
    """Which part of each batch a process draws: `rank` of `world` processes."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class PatchSampling:
    """How patches are drawn.

    Attributes:
        patch_size: Voxels along X, Y, Z.
        batch_size: Patches a step over all processes.
        foreground_fraction: Share of a batch centred on a foreground voxel.
        padding: Value outside the image, one a channel.
        seed: Of all draws.
    """

    patch_size: tuple[int, int, int]
    batch_size: int
    foreground_fraction: float
    padding: tuple[float, ...]
    seed: int


class PatchStream(IterableDataset[dict[str, torch.Tensor]]):
    """Batches of patches, from the present optimizer step to the end of the epoch.

    Args:
        folder: Store of preprocessed cases.
        case_ids: Training cases.
        sampling: How patches are drawn.
        steps_per_epoch: Length of an epoch.
        current_step: Returns the optimizer steps done so far; asked when an epoch begins.
        share: Part of each batch that this process draws.
    """

    def __init__(
        self,
        folder: Path,
        case_ids: Sequence[str],
        sampling: PatchSampling,
        steps_per_epoch: int,
        current_step: Callable[[], int],
        share: Share,
    ) -> None:
        self.cases = {case_id: load_case(folder, case_id) for case_id in sorted(case_ids)}
        self.sampling = sampling
        self.steps_per_epoch = steps_per_epoch
        self.current_step = current_step
        self.share = share

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        first = self.current_step()
        last = (first // self.steps_per_epoch + 1) * self.steps_per_epoch
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(first + offset, last, stride):
            yield self.batch(step)

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """The batch of an optimizer step.

        Returns:
            image: (N, C, X, Y, Z) float32.
            label: (N, X, Y, Z) uint8.
            step: () int64.
        """
        size = self.sampling.batch_size
        samples = [self._sample(step, index) for index in range(self.share.rank, size, self.share.world)]
        return {
            "image": torch.from_numpy(np.stack([image for image, _ in samples])),
            "label": torch.from_numpy(np.stack([label for _, label in samples])),
            "step": torch.tensor(step),
        }

    def _sample(self, step: int, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        generator = np.random.default_rng([self.sampling.seed, step, index])
        names = list(self.cases)
        case = self.cases[names[generator.integers(len(names))]]
        # Evenly spread over all samples of the training, and a function of the step alone.
        number = step * self.sampling.batch_size + index
        fraction = self.sampling.foreground_fraction
        forced = int((number + 1) * fraction) > int(number * fraction)
        start = _patch_start(case, self.sampling.patch_size, forced, generator)
        image = cut_patch(case.image, start, self.sampling.patch_size, self.sampling.padding)
        label = cut_patch(case.label[None], start, self.sampling.patch_size, (0,))[0]
        return image.astype(np.float32), label


def _patch_start(
    case: StoredCase, patch_size: Sequence[int], forced: bool, generator: np.random.Generator
) -> tuple[int, int, int]:
    """First voxel of a patch; negative where the image is smaller than the patch."""
    shape = case.label.shape
    low = [min(0, (n - p) // 2) for n, p in zip(shape, patch_size, strict=True)]
    high = [max(n - p, first) for n, p, first in zip(shape, patch_size, low, strict=True)]
    if forced and len(case.foreground):
        classes = np.unique(case.foreground[:, 0])
        rows = case.foreground[case.foreground[:, 0] == generator.choice(classes)]
        centre = rows[generator.integers(len(rows)), 1:]
        wanted = [int(c) - p // 2 for c, p in zip(centre, patch_size, strict=True)]
        x, y, z = (min(max(w, a), b) for w, a, b in zip(wanted, low, high, strict=True))
    else:
        x, y, z = (int(generator.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
    return x, y, z


def cut_patch(
    array: NDArray[Any], start: Sequence[int], size: Sequence[int], padding: Sequence[float]
) -> NDArray[Any]:
    """Cuts a box that may reach outside the array.

    Args:
        array: (C, X, Y, Z).
        start: First voxel along X, Y, Z, may be negative.
        size: Voxels along X, Y, Z.
        padding: Value outside, one a channel.

    Returns:
        (C, *size), same dtype.
    """
    inside = tuple(
        slice(max(s, 0), min(s + p, n)) for s, p, n in zip(start, size, array.shape[1:], strict=True)
    )
    if all(part.stop - part.start == p for part, p in zip(inside, size, strict=True)):
        return np.array(array[(slice(None), *inside)])
    patch = np.empty((len(array), *size), array.dtype)
    patch[:] = np.asarray(padding, dtype=array.dtype).reshape(-1, 1, 1, 1)
    target = tuple(slice(part.start - s, part.stop - s) for part, s in zip(inside, start, strict=True))
    patch[(slice(None), *target)] = array[(slice(None), *inside)]
    return patch


class WholeCases(Dataset[dict[str, Any]]):
    """Whole preprocessed cases, for validation.

    Args:
        folder: Store of preprocessed cases.
        case_ids: Validation cases.
    """

    def __init__(self, folder: Path, case_ids: Sequence[str]) -> None:
        self.folder = folder
        self.case_ids = sorted(case_ids)

    def __len__(self) -> int:
        return len(self.case_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """image (C, X, Y, Z) float32, label (X, Y, Z) uint8, case_id."""
        case = load_case(self.folder, self.case_ids[index])
        return {
            "image": torch.from_numpy(case.image.astype(np.float32)),
            "label": torch.from_numpy(np.array(case.label)),
            "case_id": self.case_ids[index],
        }
