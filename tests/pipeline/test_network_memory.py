"""The dry step, taken for real."""

from __future__ import annotations

import pytest

from pipeline.network_memory import BATCHES, CPU_WORKSPACE, measure_step
from pipeline.patch_planning import NetworkLimits, NetworkShape, StepMemory


def make_shape(patch: tuple[int, int, int], classes: int = 2) -> NetworkShape:
    limits = NetworkLimits(
        channels=1, classes=classes, dimensions=3, base_features=8, max_features=320, memory_bytes=1e9,
        batch_size=2, voxels=10**9,
    )  # fmt: skip
    return limits.build(patch, (1, 1, 1))


@pytest.mark.slow
def test_a_dry_step_on_a_cpu_is_the_same_each_time_and_near_what_backward_keeps() -> None:
    """Each element is kept at least once in float32 (4 bytes), and hardly more than five times."""
    shape = make_shape((32, 32, 32))
    first = measure_step(shape, "cpu")
    assert isinstance(first, StepMemory)
    assert first == measure_step(shape, "cpu")
    assert BATCHES == (2, 3)
    assert 4 * CPU_WORKSPACE < first.element_bytes < 20 * CPU_WORKSPACE
    assert first.available_bytes > 1e9
    many = measure_step(make_shape((32, 32, 32), classes=60), "cpu")
    assert isinstance(many, StepMemory)
    assert many.element_bytes > first.element_bytes  # the loss keeps each class several times


def test_a_dry_step_that_cannot_be_taken_says_why() -> None:
    found = measure_step(make_shape((32, 32, 32)), "no device")
    assert isinstance(found, str)
    assert "names no device" in found
