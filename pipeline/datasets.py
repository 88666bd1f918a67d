"""Training patches as a pure function of seed and step, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
class StepSchedule:
    """Which steps a stream yields.

    Attributes:
        steps_per_epoch: Length of an epoch.
        current_step: Returns the optimizer steps done so far; asked when an epoch begins.
        share: Part of each batch that this process draws.
    """

    steps_per_epoch: int
    current_step: Callable[[], int]
    share: Share


class StepStream(IterableDataset[dict[str, Any]], ABC):
    """Batches by optimizer step, from the present step to the end of the epoch."""

    def __init__(self, schedule: StepSchedule) -> None:
        self.schedule = schedule

    def __len__(self) -> int:
        return self.schedule.steps_per_epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first, length = self.schedule.current_step(), self.schedule.steps_per_epoch
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(first + offset, (first // length + 1) * length, stride):
            yield self.batch(step)

    @abstractmethod
    def batch(self, step: int) -> dict[str, Any]:
        """The batch of an optimizer step: a function of the step and the seed alone."""

    def sample_numbers(self, step: int, batch_size: int) -> Iterator[int]:
        """Numbers, counted over the whole training, of this process's samples of a step."""
        share = self.schedule.share
        yield from range(step * batch_size + share.rank, (step + 1) * batch_size, share.world)


def is_forced(number: int, fraction: float) -> bool:
    """Whether a sample must show foreground: such samples are spread evenly over the training."""
    return int((number + 1) * fraction) > int(number * fraction)


@dataclass(frozen=True)
class PatchSampling:
    """How patches are drawn.

    Attributes:
        patch_size: Voxels along X, Y, Z.
        batch_size: Patches a step over all processes.
        foreground_fraction: Share of the patches centred on a foreground voxel.
        padding: Value outside the image, one a channel.
        seed: Of all draws.
    """

    patch_size: tuple[int, int, int]
    batch_size: int
    foreground_fraction: float
    padding: tuple[float, ...]
    seed: int


class PatchStream(StepStream):
    """Batches of patches with their label maps.

    Args:
        folder: Store of preprocessed cases.
        case_ids: Training cases.
        sampling: How patches are drawn.
        schedule: Which steps are yielded.
    """

    def __init__(
        self, folder: Path, case_ids: Sequence[str], sampling: PatchSampling, schedule: StepSchedule
    ) -> None:
        super().__init__(schedule)
        self.cases = {case_id: load_case(folder, case_id) for case_id in sorted(case_ids)}
        self.sampling = sampling

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of an optimizer step.

        Returns:
            image: (N, C, X, Y, Z) float32.
            label: (N, X, Y, Z) uint8.
            step: () int64.
        """
        samples = [self._sample(step, n) for n in self.sample_numbers(step, self.sampling.batch_size)]
        stacked = {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in samples[0]}
        return {**stacked, "step": torch.tensor(step)}

    def _sample(self, step: int, number: int) -> dict[str, NDArray[Any]]:
        index = number - step * self.sampling.batch_size
        generator = np.random.default_rng([self.sampling.seed, step, index])
        names = list(self.cases)
        case_id = names[generator.integers(len(names))]
        forced = is_forced(number, self.sampling.foreground_fraction)
        start = _patch_start(self.cases[case_id], self.sampling.patch_size, forced, generator)
        return self.cut(case_id, start, generator)

    def cut(
        self, case_id: str, start: tuple[int, int, int], generator: np.random.Generator
    ) -> dict[str, NDArray[Any]]:
        """The arrays of one patch, by their names in a batch.

        Args:
            case_id: Of the case.
            start: First voxel, see `cut_patch`.
            generator: Source of whatever else is drawn.
        """
        case, size = self.cases[case_id], self.sampling.patch_size
        image = cut_patch(case.image, start, size, self.sampling.padding)
        label = cut_patch(case.label[None], start, size, (0,))[0]
        return {"image": image.astype(np.float32), "label": label}


def _patch_start(
    case: StoredCase, patch_size: Sequence[int], forced: bool, generator: np.random.Generator
) -> tuple[int, int, int]:
    """First voxel of a patch; negative where the image is smaller than the patch."""
    shape = case.label.shape
    low = [min(0, (n - p) // 2) for n, p in zip(shape, patch_size, strict=True)]
    high = [max(n - p, first) for n, p, first in zip(shape, patch_size, low, strict=True)]
    rows = _centres(case.foreground, forced, generator)
    if len(rows):
        centre = rows[generator.integers(len(rows)), 1:]
        wanted = [int(c) - p // 2 for c, p in zip(centre, patch_size, strict=True)]
        x, y, z = (min(max(w, a), b) for w, a, b in zip(wanted, low, high, strict=True))
    else:
        x, y, z = (int(generator.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
    return x, y, z


def _centres(labelled: NDArray[np.int16], forced: bool, generator: np.random.Generator) -> NDArray[np.int16]:
    """Rows of which one is the centre of a patch: of one class, or, where labels are sparse, of any; may be none."""
    foreground: NDArray[np.int16] = labelled[labelled[:, 0] > 0]
    if forced and len(foreground):
        foreground = foreground[foreground[:, 0] == generator.choice(np.unique(foreground[:, 0]))]
        return foreground
    sparse = len(foreground) < len(labelled)
    return labelled if sparse else labelled[:0]


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
        """A case.

        Returns:
            image: (C, X, Y, Z) float32.
            label: (X, Y, Z) uint8 network indices.
            instances: (X, Y, Z) int32 ids.
            instance_labels: (largest id + 1,) uint8 network index by id.
            case_id: Its name.
        """
        case = load_case(self.folder, self.case_ids[index])
        return {
            "image": torch.from_numpy(case.image.astype(np.float32)),
            "label": torch.from_numpy(np.array(case.label)),
            "instances": torch.from_numpy(case.instances.astype(np.int32)),
            "instance_labels": torch.from_numpy(np.array(case.instance_labels)),
            "case_id": self.case_ids[index],
        }
