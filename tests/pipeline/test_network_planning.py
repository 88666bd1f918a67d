"""How measured memory decides about batch and patch, and what the plan says about it."""

from __future__ import annotations

from plan_cases import MRI, make_fingerprints, make_params

from pipeline.patch_planning import NetworkShape, StepMemory
from pipeline.planning import build_plan

LARGE = make_params(max_patch_voxels=16777216, base_features="auto", max_features="auto")
BRAINS = make_fingerprints((160, 160, 160), (1, 1, 1), 200)


def dry_step(element_bytes: float, available_gb: float = 1000.0) -> StepMemory:
    return StepMemory(
        device="a device", available_bytes=available_gb * 1e9, fixed_bytes=1e9, element_bytes=element_bytes
    )


def test_what_was_measured_decides_about_batch_and_patch() -> None:
    """7.14 bytes an element is nnU-Net's guess; twice that leaves a smaller patch in the same 8 GB."""
    guessed = build_plan(BRAINS, MRI, LARGE)
    measured = build_plan(BRAINS, MRI, LARGE, lambda shape: dry_step(14.0))
    assert guessed.patch_size == (128, 128, 128)  # nnU-Net's patch of isotropic brains for 8 GB
    assert 0 < measured.patch_size[0] < 128
    assert "measured by a dry step in float32 on a device" in measured.reasons["memory"]
    assert "shrunk to 8 GB (plan.memory_gb)" in measured.reasons["patch_size"]
    small = make_fingerprints((35, 50, 36), (1, 1, 1), 2000)
    batches = [build_plan(small, MRI, LARGE, lambda s, b=b: dry_step(b)).batch_size for b in (5.0, 20.0)]  # type: ignore[misc]
    assert batches[0] > 3 * batches[1] > 6


def test_a_small_device_counts_more_than_the_param() -> None:
    plan = build_plan(BRAINS, MRI, LARGE, lambda shape: dry_step(7.0, available_gb=5))
    assert "4 GB may be taken (80% of the device, less than plan.memory_gb)" in plan.reasons["memory"]


def test_noise_of_a_few_per_mille_leaves_the_plan_as_it_is() -> None:
    plans = [build_plan(BRAINS, MRI, LARGE, lambda s, b=b: dry_step(b)) for b in (9.0, 9.03)]  # type: ignore[misc]
    assert plans[0] == plans[1]


def test_a_dry_step_that_fails_leaves_the_estimate_and_says_why() -> None:
    def fail(shape: NetworkShape) -> str:
        return "the dry step failed (MemoryError)"

    plan = build_plan(BRAINS, MRI, LARGE, fail)
    assert plan.patch_size == build_plan(BRAINS, MRI, LARGE).patch_size
    assert "estimated, as the dry step failed (MemoryError)" in plan.reasons["memory"]


def test_a_patch_of_ones_own_that_is_too_large_is_named() -> None:
    params = make_params(patch_size=(256, 256, 256), memory_gb=1.0)
    plan = build_plan(BRAINS, MRI, params)
    assert plan.patch_size == (256, 256, 256)
    assert "NEEDS MORE" in plan.reasons["memory"]
