"""One dry training step, to measure the memory of a network: `python -m pipeline.network_memory` in a process
of its own, which takes its memory along when it ends and whose failure harms nobody.

On a GPU the allocator's peak is read. On a CPU torch's allocations are added up as the profiler lists them: the
growth of the process differed by a factor of 20 from run to run for small networks, the sum is the same each time.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pydantic import BaseModel

from pipeline.errors import SegtrailError
from pipeline.memory_limits import limit_bytes
from pipeline.patch_planning import NetworkShape, StepMemory

if TYPE_CHECKING:
    import torch

LOGGER = logging.getLogger("segtrail")
MEASURED_VOXELS = 2**16  # of the patch of a dry step on a CPU; a larger one is halved, its memory scaled up
CPU_WORKSPACE = (
    1.3  # the process grows by this factor more than torch allocates: scratch of oneDNN, rest of blocks
)
BATCHES = (2, 3)  # at batch 1 torch takes other kernels on a CPU
TIMEOUT_S = 180


class _Request(BaseModel):
    shape: NetworkShape
    device: str


def measure_step(shape: NetworkShape, device: str) -> StepMemory | str:
    """Measures forward, backward and optimizer step of a network in float32, at batch 2 and 3.

    Args:
        shape: The network and its patch.
        device: As `pipeline.devices.choose_device` takes it.

    Returns:
        What was measured; or one line that says why nothing was.
    """
    command = [sys.executable, "-m", "pipeline.network_memory"]
    request = _Request(shape=shape, device=device).model_dump_json()
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, check=False, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"the dry step took more than {TIMEOUT_S} s"
    if done.returncode != 0:
        LOGGER.debug("dry step: %s", done.stderr)
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return f"the dry step failed ({last[:200]})"
    return StepMemory.model_validate_json(done.stdout.splitlines()[-1])


def _run(request: _Request) -> StepMemory:
    import torch

    from pipeline.devices import choose_device

    device = choose_device(request.device)
    patch = request.shape.patch_size
    if device.type == "cuda":
        available = float(torch.cuda.get_device_properties(device).total_memory)
        name = torch.cuda.get_device_name(device)
    else:
        available = _main_memory()
        name = "CPU"
        patch = _small_enough(request.shape)
    two, three = (_peak(partial(_step, request.shape, patch, size, device), device) for size in BATCHES)
    measured = request.shape.model_copy(update={"patch_size": patch})
    factor = CPU_WORKSPACE if device.type == "cpu" else 1.0
    sample = three - two
    if sample < 4 * measured.elements:  # backward needs each element once more, in 32 bits
        sys.exit("the memory of a step hardly grows with its batch")
    return StepMemory(
        device=name,
        available_bytes=available,
        fixed_bytes=factor * max(two - 2 * sample, 0.0),
        element_bytes=factor * sample / measured.elements,
    )


def _small_enough(shape: NetworkShape) -> tuple[int, int, int]:
    """A patch that the network can take and a CPU gets through in seconds.

    Memory grows with the voxels, so a part of the patch tells that of the whole. At least two voxels of each
    halved axis reach the deepest stage: normalisation needs more than one.
    """
    factors = [1, 1, 1]
    for stride in shape.strides:
        factors = [f * s for f, s in zip(factors, stride, strict=True)]
    patch = list(shape.patch_size)
    while patch[0] * patch[1] * patch[2] > MEASURED_VOXELS:
        halves = [
            size // 2 // factor * factor if size // 2 // factor >= 2 else 0
            for size, factor in zip(patch, factors, strict=True)
        ]
        if not any(halves):
            break
        axis = max(range(3), key=lambda a: patch[a] if halves[a] else 0)
        patch[axis] = halves[axis]
    return patch[0], patch[1], patch[2]


def _main_memory() -> float:
    """Bytes of the machine or container, or of the address space that this process may use when that is less."""
    import resource

    most = float(limit_bytes())
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return most if limit == resource.RLIM_INFINITY else min(most, float(limit))


def _step(shape: NetworkShape, patch: tuple[int, int, int], batch_size: int, device: torch.device) -> None:
    """Builds the network and takes one step with AdamW, whose moments are there before it."""
    import torch

    from pipeline.models.resunet import build_resunet
    from pipeline.models.unet import build_unet

    arguments = shape.model_dump(exclude={"patch_size", "blocks"})
    built = build_resunet(**arguments, blocks=shape.blocks) if shape.blocks else build_unet(**arguments)
    network = built.to(device)
    optimizer = torch.optim.AdamW(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    image = torch.zeros(batch_size, shape.channels, *patch, device=device)
    label = torch.zeros(batch_size, *patch, dtype=torch.long, device=device)
    levels = max(len(shape.features) - 2, 1)
    torch.autograd.backward(_loss(network.pyramid(image, levels), label))
    optimizer.step()


def _loss(pyramid: Sequence[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
    """Soft Dice and cross-entropy at each stage, as `pipeline.losses` keeps them in memory.

    Written out, because MONAI's loss takes longer to import than the step to run.
    """
    import torch
    from torch.nn import functional

    total = pyramid[0].new_zeros(())
    for logits in pyramid:
        target = functional.interpolate(label[:, None].float(), logits.shape[2:], mode="nearest").long()
        truth = torch.zeros_like(logits).scatter_(1, target, 1.0)
        chance = logits.softmax(1)
        overlap = (chance * truth).sum() / (chance + truth).sum()
        total = total + functional.cross_entropy(logits, target[:, 0]) - overlap
    return total


def _peak(step: Callable[[], None], device: torch.device) -> float:
    """Most bytes that are allocated at once while a step runs that frees all it allocates."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return float(torch.cuda.max_memory_allocated(device))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    now = most = 0
    results = record.profiler.kineto_results if record.profiler else None
    for event in results.events() if results else ():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return float(most)


if __name__ == "__main__":
    try:
        sys.stdout.write(_run(_Request.model_validate_json(sys.stdin.read())).model_dump_json() + "\n")
    except SegtrailError as error:
        sys.exit(error.what)
