"""Gaussian sliding windows over a case, to one class a voxel of the grid it came from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from pipeline.class_maps import ClassMap
from pipeline.errors import SegtrailError
from pipeline.plan import Plan
from pipeline.progress import PartProgress
from pipeline.resampling import Shape
from pipeline.volume import Affine
from pipeline.windows import Network, Setting, Slab, Tell, average_mirrors, sum_windows

LOGGER = logging.getLogger("segtrail")
# How the C++ allocator, oneDNN, CUDA, cuBLAS and cuDNN say it.
OUT_OF_MEMORY = (
    "allocate memory", "not enough memory", "could not create a memory", "bad_alloc", "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "unable to find an engine to execute",
)  # fmt: skip
SMALLER = "raise plan.spacing_mm or lower plan.patch_size and train again"
SUMS_IN_MAIN_MEMORY = "raise predict.memory_gb, where there is more, so that the sums may lie in main memory"
# In a training nothing reads `predict.memory_gb`.
WHILE_TRAINING = (
    "free memory and dvc repro, which goes on from what is trained; or raise plan.spacing_mm or lower "
    "plan.patch_size, and train anew"
)


def predict_logits(
    network: Network,
    image: torch.Tensor,
    plan: Plan,
    overlap: float,
    mirror_axes: str,
    finish: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
    previous: torch.Tensor | None = None,
) -> torch.Tensor:
    """Runs a network over a whole prepared case.

    Args:
        network: (N, C, X, Y, Z) to new logits (N, classes or regions, X, Y, Z).
        image: (C, X, Y, Z) on the plan's spacing, on the network's device.
        plan: Gives window and padding.
        overlap: Of neighbouring windows, as a share of the window.
        mirror_axes: Average over the versions mirrored along these of "xyz"; "" for none.
        finish: Makes what is kept of a slab of logits (classes, X, Y, Z): a new tensor of as many axes. All
            classes of a large case would fill the memory.
        previous: (X, Y, Z) integer label map of the first network of a cascade, where this is the second.

    Returns:
        What is kept, on the CPU; by default (classes, X, Y, Z) logits.
    """
    setting = Setting(1 if image.device.type == "cpu" else 4, torch.float32, image.device, image.device)
    with torch.inference_mode():
        found = _slabs(network, image, plan, overlap, mirror_axes, setting, previous)
        # The next slab overwrites this one.
        slabs = [replace(slab, logits=finish(slab.logits).cpu()) for slab in found]
        return torch.cat([slab.logits for slab in slabs], dim=1 + slabs[0].axis)


def predict_classes(
    network: Network,
    image: torch.Tensor,
    grid: tuple[tuple[int, ...], Affine],
    plan: Plan,
    overlap: float,
    mirror_axes: str,
    settings: Sequence[Setting],
    where: str,
    previous: torch.Tensor | None = None,
    fix: str = "",
) -> ClassMap:
    """The most probable class of each voxel of the source grid, and its probability.

    Args:
        network: In evaluation mode.
        image: (C, X, Y, Z) on the plan's spacing, as `prepare_volume` makes it.
        grid: (X, Y, Z) and affine of the source.
        plan: The plan the network was trained with.
        overlap, mirror_axes: See `predict_logits`.
        settings: Tried in this order: the next one where memory runs out.
        where: Case id and file, for errors.
        previous: See `predict_logits`.
        fix: What to do when memory runs out, in place of what a prediction says.

    Raises:
        SegtrailError: Memory ran out with every setting.
    """
    for number, setting in enumerate(settings):
        try:
            with torch.inference_mode():
                tell = PartProgress(f"{where}: window")
                return _fill(network, image, grid, plan, overlap, mirror_axes, setting, previous, tell)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        following = settings[number + 1] if number + 1 < len(settings) else None
        LOGGER.warning(
            "%s: out of memory with %s (%s); %s",
            where, setting, reason[:160], f"again with {following}" if following else "no smaller setting",
        )  # fmt: skip
    advice = ["free memory", *([SUMS_IN_MAIN_MEMORY] if settings[-1].sums.type != "cpu" else []), SMALLER]
    raise SegtrailError("memory ran out with the smallest setting", where, fix or ", or ".join(advice))


def predict_previous(
    network: Network,
    image: torch.Tensor,
    shape: tuple[int, ...],
    plan: Plan,
    overlap: float,
    mirror_axes: str,
    settings: Sequence[Setting],
    where: str,
    fix: str = "",
) -> torch.Tensor:
    """What the first network of a cascade finds, on the grid of the second; probabilities are resampled linearly.

    Args:
        network: The first, in evaluation mode.
        image: (C, X, Y, Z) on its plan's spacing.
        shape: (X, Y, Z) of the same extent on the spacing of the second.
        plan: Of the first.
        overlap, mirror_axes, settings, where, fix: See `predict_classes`.

    Returns:
        `shape` uint8 network indices.
    """
    grid = shape, np.eye(4)
    found = predict_classes(network, image, grid, plan, overlap, mirror_axes, settings, where, fix=fix)
    return torch.from_numpy(found.winner)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on the CPU or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def _fill(
    network: Network,
    image: torch.Tensor,
    grid: tuple[tuple[int, ...], Affine],
    plan: Plan,
    overlap: float,
    mirror_axes: str,
    setting: Setting,
    previous: torch.Tensor | None,
    tell: Tell,
) -> ClassMap:
    x, y, z = image.shape[1:]
    shape: Shape = (x, y, z)
    classes = ClassMap(*grid, shape, plan.regions)
    for slab in _slabs(network, image, plan, overlap, mirror_axes, setting, previous, tell):
        classes.add(slab)
    return classes


def _slabs(
    network: Network,
    image: torch.Tensor,
    plan: Plan,
    overlap: float,
    mirror_axes: str,
    setting: Setting,
    previous: torch.Tensor | None,
    tell: Tell | None = None,
) -> Iterator[Slab]:
    """Finished slabs without the padding around the image."""
    padded, inner = _pad_to_patch(image, plan.patch_size, [how.padding for how in plan.normalization])
    labels = None if previous is None else _pad_to_patch(previous[None], plan.patch_size, [0])[0]
    axes = ["xyz".index(axis) for axis in mirror_axes if plan.patch_size["xyz".index(axis)] > 1]
    for slab in sum_windows(
        average_mirrors(network, axes), padded, plan.patch_size, overlap, setting, labels, tell
    ):
        first, end = slab.first, slab.first + slab.logits.shape[1 + slab.axis]
        own = inner[slab.axis]
        low, high = max(first, own.start), min(end, own.stop)
        if low < high:
            cut = list(inner)
            cut[slab.axis] = slice(low - first, high - first)
            yield Slab(slab.axis, low - own.start, slab.logits[(slice(None), *cut)])


def _pad_to_patch(
    image: torch.Tensor, patch: Sequence[int], values: Sequence[float]
) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Pads to at least one window, each channel with its own value; also says where the image lies."""
    before = [max(p - n, 0) // 2 for p, n in zip(patch, image.shape[1:], strict=True)]
    inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    if all(p <= n for p, n in zip(patch, image.shape[1:], strict=True)):
        return image, inner
    size = [max(p, n) for p, n in zip(patch, image.shape[1:], strict=True)]
    padded = image.new_empty((len(image), *size))
    for channel, own, value in zip(padded, image, values, strict=True):
        channel.fill_(value)
        channel[inner] = own
    return padded, inner
