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
from pipeline.memory_limits import free_bytes
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
MACHINE_SHARE = 0.9  # of the memory there is that a prediction takes at most
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
        sums = plan.outputs * voxels // padded[axis] * planes
        total += sums * torch.finfo(setting.dtype).bits // 8
    if setting.compute.type == "cpu":
        maps = FEATURE_COPIES * _widest(plan) + 3 * plan.outputs
        total += math.ceil(4 * math.prod(plan.patch_size) * maps) * setting.windows
    return total


def cascade_bytes(
    size: CaseSize,
    low_shape: tuple[int, ...],
    plan: Plan,
    low_plan: Plan,
    overlap: float,
    setting: Setting,
) -> int:
    """Peak of main memory while the networks of a cascade run, one after the other.

    While the first one does, the image of the second waits, and its label map and probabilities grow on the grid of
    the second. While the second one does, that label map is there, 8 bits a voxel, and in its windows one-hot.

    Args:
        size: Of the case, on the plan of the second network.
        low_shape: (X, Y, Z) on the plan of the first.
        plan, low_plan: Of the second and the first network.
        overlap, setting: See `window_bytes`.
    """
    voxels = math.prod(size.plan_shape)
    waiting = 4 * voxels * len(plan.channels)
    first = window_bytes(CaseSize(size.raw_bytes + waiting, voxels, low_shape), low_plan, overlap, setting)
    padded = math.prod(max(n, p) for n, p in zip(size.plan_shape, plan.patch_size, strict=True))
    second = window_bytes(size, plan, overlap, setting) + voxels + (padded if padded > voxels else 0)
    if setting.compute.type == "cpu":
        unfolded = len(plan.channels) + 2 * len(plan.label_values)
        second += 4 * math.prod(plan.patch_size) * unfolded * setting.windows
    return max(first, second)


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
    size: CaseSize,
    plan: Plan,
    overlap: float,
    device: torch.device,
    memory: Memory,
    where: str,
    low: tuple[Plan, tuple[int, ...]] | None = None,
) -> tuple[list[Setting], int]:
    """Settings whose peak stays below the limit, the fastest first.

    Args:
        size: Of the case.
        plan: Of the network.
        overlap: Of neighbouring windows, as a share of the window.
        device: Of the network.
        memory: The limit.
        where: Case id and file, for errors.
        low: Plan of the first network of a cascade, and (X, Y, Z) of the case on it.

    Returns:
        The settings, at least one; and the bytes that the largest of them takes at its peak.

    Raises:
        SegtrailError: None of them does; it names what to change.
    """
    settings = list_settings(device)
    windows = [
        window_bytes(size, plan, overlap, s)
        if low is None
        else cascade_bytes(size, low[1], plan, low[0], overlap, s)
        for s in settings
    ]
    peaks = [max(peak, object_bytes(size)) for peak in windows]
    fitting = [i for i, peak in enumerate(peaks) if peak <= memory.free_bytes]
    if not fitting:
        least = (min(peaks) + memory.limit_bytes - memory.free_bytes) / GB
        raise memory.refuse(least, where)
    if fitting[0] > 0 and device.type == "cpu":
        LOGGER.info("%s: %s, to stay below %s", where, settings[fitting[0]], memory.source)
    return [settings[i] for i in fitting], max(peaks[i] for i in fitting)


def choose_free_settings(
    size: CaseSize, plan: Plan, overlap: float, device: torch.device, where: str
) -> list[Setting]:
    """Settings whose peak stays below the memory that is free now, the fastest first: where no param sets a limit.

    Where memory is enough they begin with sums of 32 bits, so the result does not depend on how much there is.

    Args:
        size, plan, overlap, device, where: See `choose_settings`.

    Returns:
        At least one; where none fits, the smallest.
    """
    free, settings = free_bytes(), list_settings(device)
    fitting = [s for s in settings if window_bytes(size, plan, overlap, s) <= free]
    if fitting[:1] != settings[:1]:
        chosen = fitting[0] if fitting else settings[-1]
        LOGGER.warning("%s: %s, as %.1f GB of memory are free", where, chosen, free / GB)
    return fitting or settings[-1:]


class Memory:
    """Shares a limit among the cases in flight.

    Libraries and network count as taken, with a fixed number: the settings of a case, and so its result, must
    not depend on what else the process has done.

    Args:
        limit_gb: Of the whole process, in GB of 1e9 bytes: `predict.memory_gb`.
        further_networks: Bytes of the weights of all networks but one.
        machine_bytes: What this machine or container has; its share is the limit where that is lower.
    """

    def __init__(self, limit_gb: float, further_networks: int = 0, machine_bytes: float = math.inf) -> None:
        self.wanted_gb = limit_gb
        allowed_gb = MACHINE_SHARE * machine_bytes / GB
        self.of_machine = allowed_gb < limit_gb
        self.limit_bytes = round(min(limit_gb, allowed_gb) * GB)
        self.free_bytes = self.limit_bytes - PROCESS - further_networks
        self._held: dict[object, int] = {}
        self._change = threading.Condition()

    @property
    def source(self) -> str:
        """What sets the limit."""
        return "what this machine or container allows" if self.of_machine else "predict.memory_gb"

    def refuse(self, least_gb: float, where: str) -> SegtrailError:
        """The error of a case that does not fit; it says what would help.

        Args:
            least_gb: What the process would take at least.
            where: Case id and file.
        """
        limit, raised = f"{self.limit_bytes / GB:.1f} GB", f"predict.memory_gb: {math.ceil(least_gb)}"
        if self.of_machine:
            limit = f"this machine or container allows {limit}"
            more = f"give the machine or container {math.ceil(least_gb / MACHINE_SHARE)} GB"
            raised = f"{more} (and {raised})" if least_gb > self.wanted_gb else more
        else:
            limit, raised = f"the limit is {limit}", f"give {raised}"
            where = f"{where}; params.yaml: predict.memory_gb"
        return SegtrailError(
            f"the case takes {least_gb:.1f} GB of memory at least, {limit}",
            where,
            f"{raised}, or a larger plan.spacing_mm, or a smaller plan.patch_size, and train again",
        )

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
