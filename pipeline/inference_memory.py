"""How much main memory a case takes on its way, which settings stay below a limit, and who has how much of it."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pipeline.errors import SegtrailError
from pipeline.plan import Plan
from pipeline.windows import Setting, choose_axis, slab_planes

LOGGER = logging.getLogger("segtrail")
GB = 1_000_000_000
SCRATCH = 400_000_000  # planes under way, and what the allocator keeps of freed blocks
FEATURE_COPIES = 7  # of the finest stage's feature maps that a U-Net holds at once, with scratch
UNREAD = 4  # a file unpacked, as voxels, and as voxels of 32 bits instead of 16
OBJECTS = 14  # bytes a voxel of the source while components are found and scored
PROCESS = 800_000_000  # libraries and network
MASK = 7  # bytes a voxel of the source while the non-zero mask is made
DRAWING = 8  # bytes a voxel of the source while results are written and drawn


@dataclass(frozen=True)
class CaseSize:
    """What the memory of a case depends on.

    Attributes:
        raw_bytes: Of its voxels as read.
        source_voxels: Of one channel as read.
        plan_shape: (X, Y, Z) of one channel on the plan's spacing.
    """

    raw_bytes: int
    source_voxels: int
    plan_shape: tuple[int, ...]


def list_settings(device: torch.device) -> list[Setting]:
    """All settings of a device, the fastest first, the smallest last."""
    cpu = torch.device("cpu")
    on_cpu = [Setting(1, dtype, cpu, device) for dtype in (torch.float32, torch.float16)]
    if device.type == "cpu":
        return on_cpu
    batches = [Setting(windows, torch.float32, device, device) for windows in (4, 2, 1)]
    return [*batches, Setting(1, torch.float16, device, device), *on_cpu]


def window_bytes(size: CaseSize, plan: Plan, overlap: float, setting: Setting) -> int:
    """Peak of main memory while windows are run: case, result, sums, and one window in the network."""
    padded = [max(n, p) for n, p in zip(size.plan_shape, plan.patch_size, strict=True)]
    voxels = math.prod(padded)
    # An image that is padded is there twice.
    images = 1 if tuple(padded) == tuple(size.plan_shape) else 2
    mask = MASK * size.source_voxels * any(how.nonzero_mask for how in plan.normalization)
    total = (
        mask + size.raw_bytes + 4 * voxels * len(plan.channels) * images + 5 * size.source_voxels + SCRATCH
    )
    if setting.sums.type == "cpu":
        axis = choose_axis(padded, plan.patch_size)
        planes = min(slab_planes(padded, plan.patch_size, overlap, setting.windows), padded[axis])
        sums = len(plan.label_values) * voxels // padded[axis] * planes
        total += sums * torch.finfo(setting.dtype).bits // 8
    if setting.compute.type == "cpu":
        maps = FEATURE_COPIES * _widest(plan) + 3 * len(plan.label_values)
        total += math.ceil(4 * math.prod(plan.patch_size) * maps) * setting.windows
    return total


def _widest(plan: Plan) -> float:
    """Feature maps of the stage that holds most, counted at full resolution."""
    share, widest = 1.0, 0.0
    for features, stride in zip(plan.features, plan.strides, strict=True):
        share /= math.prod(stride)
        widest = max(widest, features * share)
    return widest


def object_bytes(size: CaseSize) -> int:
    """Peak of main memory while components are found, of which the image and the sums are no longer part."""
    return size.raw_bytes + OBJECTS * size.source_voxels + SCRATCH


def writing_bytes(size: CaseSize) -> int:
    """Peak of main memory while results are written and drawn."""
    return size.raw_bytes + DRAWING * size.source_voxels


def choose_settings(
    size: CaseSize, plan: Plan, overlap: float, device: torch.device, memory: Memory, where: str
) -> tuple[list[Setting], int]:
    """Settings whose peak stays below the limit, the fastest first.

    Returns:
        The settings, at least one; and the bytes that the largest of them takes at its peak.

    Raises:
        SegtrailError: None of them does; it names the params to change.
    """
    settings = list_settings(device)
    peaks = [max(window_bytes(size, plan, overlap, s), object_bytes(size)) for s in settings]
    fitting = [i for i, peak in enumerate(peaks) if peak <= memory.free_bytes]
    if not fitting:
        least = (min(peaks) + memory.limit_bytes - memory.free_bytes) / GB
        raise SegtrailError(
            f"the case takes {least:.1f} GB of memory at least, the limit is {memory.limit_bytes / GB:.1f} GB",
            f"{where}; params.yaml: predict.memory_gb",
            f"give predict.memory_gb: {math.ceil(least)}, or a larger plan.spacing_mm, or a smaller "
            "plan.patch_size, and train again",
        )
    if fitting[0] > 0 and device.type == "cpu":
        LOGGER.info("%s: %s, to stay below predict.memory_gb", where, settings[fitting[0]])
    return [settings[i] for i in fitting], max(peaks[i] for i in fitting)


class Memory:
    """Shares a limit among the cases in flight.

    Libraries and network count as taken, with a fixed number: the settings of a case, and so its result, must
    not depend on what else the process has done.

    Args:
        limit_gb: Of the whole process, in GB of 1e9 bytes.
    """

    def __init__(self, limit_gb: float) -> None:
        self.limit_bytes = round(limit_gb * GB)
        self.free_bytes = self.limit_bytes - PROCESS
        self._held: dict[object, int] = {}
        self._change = threading.Condition()

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """The share of one case, given back at the end.

        Yields:
            Sets the share in bytes; more than before waits until it fits beside those of the others, or until
            there are none.
        """
        key = object()

        def hold(count: int) -> None:
            with self._change:
                self._change.wait_for(lambda: self._fits(key, count))
                self._held[key] = count
                self._change.notify_all()

        try:
            yield hold
        finally:
            with self._change:
                self._held.pop(key, None)
                self._change.notify_all()

    def _fits(self, key: object, count: int) -> bool:
        others = sum(held for other, held in self._held.items() if other is not key)
        return count <= self._held.get(key, 0) or others == 0 or others + count <= self.free_bytes
