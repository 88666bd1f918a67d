"""Networks, batches and low resolutions against nnU-Net 2.8.1's own planner, memory by hand.

The literals come from `ExperimentPlanner.get_plans_for_configuration` and its loop of `3d_lowres`, run in nnU-Net's
environment for 8 GB, 32 features and more cases than the 5 % rule minds; axes turned to X, Y, Z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SegtrailError
from pipeline.low_resolution import plan_low_resolution
from pipeline.patch_planning import (
    BYTES_PER_ELEMENT,
    MAX_FEATURES,
    RESIDUAL_BATCH,
    RESIDUAL_BYTES_PER_ELEMENT,
    NetworkLimits,
    NetworkShape,
    Spacing,
    StepCost,
    plan_network,
    voxels_inside,
)
from pipeline.topology import Triple

NO_LIMIT = 10**12
# name: dimensions, spacing, median shape, classes, patch, batch, elements, halvings along X, Y, Z
NNUNET = {
    "hippocampus": (3, (1, 1, 1), (35, 50, 36), 3, (40, 56, 40), 58, 19174400, (3, 3, 3)),
    "prostate": (3, (0.6, 0.6, 3.6), (320, 320, 20), 3, (256, 320, 20), 2, 483315200, (6, 6, 2)),
    "CT": (3, (0.78, 0.78, 1.25), (512, 512, 300), 2, (160, 160, 96), 2, 528211200, (5, 5, 4)),
    "CT, thick": (3, (0.8, 0.8, 2.5), (512, 512, 110), 3, (192, 224, 48), 2, 555028992, (5, 5, 3)),
    "CT, 5 mm": (3, (0.8, 0.8, 5), (512, 512, 60), 8, (256, 256, 28), 2, 550488064, (6, 6, 2)),
    "brain": (3, (1, 1, 1), (138, 173, 139), 4, (112, 160, 128), 2, 497584640, (4, 5, 5)),
    "brain, uncropped": (3, (1, 1, 1), (240, 240, 155), 4, (160, 160, 96), 2, 533126400, (5, 5, 4)),
    "sagittal spine": (3, (3.3, 0.586, 0.586), (17, 512, 512), 23, (12, 320, 384), 2, 467412480, (1, 6, 6)),
    "61 organs": (3, (3, 3, 3), (122, 101, 112), 62, (128, 112, 112), 2, 440996864, (4, 4, 4)),
    "heart in 2D": (2, (1.5625, 1.5625, 10), (216, 256, 1), 4, (224, 256, 1), 56, 18063360, (5, 5, 0)),
    "nuclei": (2, (1, 1, 1), (256, 320, 1), 2, (256, 320, 1), 39, 25784320, (6, 6, 0)),
}
# name: spacing and median shape of nnU-Net's 3d_lowres, and its patch
NNUNET_LOWRES = {
    "CT": ((1.585579, 1.585579, 2.540993), (252, 252, 148), (160, 160, 96)),
    "CT, thick": ((1.361946, 1.361946, 2.65225), (301, 301, 104), (192, 192, 64)),
    "CT, 5 mm": ((1.246374, 1.246374, 5.0), (329, 329, 60), (192, 224, 40)),
    "brain, uncropped": None,
    "prostate": None,
}


def make_limits(dimensions: int = 3, classes: int = 2, gb: float = 8, **changes: int) -> NetworkLimits:
    values = {
        "base_features": 32,
        "max_features": MAX_FEATURES[dimensions],
        "batch_size": 2,
        "voxels": NO_LIMIT,
    }
    return NetworkLimits(
        channels=1, classes=classes, dimensions=dimensions, memory_bytes=gb * 1e9, **{**values, **changes}
    )  # type: ignore[arg-type]


def estimate(dimensions: int = 3) -> StepCost:
    return StepCost(0.0, BYTES_PER_ELEMENT[dimensions])


def builder(limits: NetworkLimits, cost: StepCost) -> Callable[[Spacing, Triple], NetworkShape]:
    return lambda spacing, shape: plan_network(spacing, shape, limits, cost).shape


@pytest.mark.parametrize("name", NNUNET)
def test_network_is_that_of_nnunet(name: str) -> None:
    dimensions, spacing, shape, classes, patch, batch, elements, halvings = NNUNET[name]
    limits, cost = make_limits(dimensions, classes), estimate(dimensions)
    found = plan_network(spacing, shape, limits, cost).shape
    assert found.patch_size == patch
    assert found.elements == elements
    assert tuple(sum(s[a] == 2 for s in found.strides) for a in range(3)) == halvings
    # nnU-Net rounds 8 GB over the estimate to the nearest whole sample, here it is rounded down.
    assert max(2, cost.largest_batch(found, limits.memory_bytes)) == batch


# name: patch and batch of nnU-Net's planner of the residual encoder (nnUNetPlannerResEncM)
NNUNET_RESIDUAL = {
    "hippocampus": ((40, 56, 40), 58),
    "prostate": ((256, 256, 20), 2),
    "CT": ((160, 160, 96), 2),
    "CT, thick": ((192, 192, 48), 2),
    "CT, 5 mm": ((224, 224, 28), 2),
    "brain": ((112, 160, 128), 2),
    "heart in 2D": ((224, 256, 1), 57),
    "nuclei": ((256, 320, 1), 40),
    "large pictures": ((448, 576, 1), 13),
}


@pytest.mark.parametrize("name", NNUNET_RESIDUAL)
def test_residual_network_is_that_of_nnunet(name: str) -> None:
    large: tuple[Any, ...] = (2, (1, 1, 1), (1024, 1360, 1), 2)
    dimensions, spacing, shape, classes, *_ = NNUNET.get(name, large)
    limits = make_limits(dimensions, classes, residual=True, batch_size=RESIDUAL_BATCH[dimensions])
    cost = StepCost(0.0, RESIDUAL_BYTES_PER_ELEMENT[dimensions])
    found = plan_network(spacing, shape, limits, cost).shape
    patch, batch = NNUNET_RESIDUAL[name]
    assert found.patch_size == patch
    assert found.blocks == (1, 3, 4, 6, 6, 6, 6)[: len(found.strides)]
    # nnU-Net rounds 8 GB over the estimate to the nearest whole sample, here it is rounded down.
    assert 0 <= batch - cost.largest_batch(found, limits.memory_bytes) <= 1 or batch == 2


def test_residual_elements_are_those_of_the_reference_network() -> None:
    """`compute_conv_feature_map_size` of dynamic_network_architectures 0.4.4, `ResidualEncoderUNet`."""
    limits = make_limits(classes=3, base_features=8, residual=True)
    assert limits.build((40, 56, 40), (1, 1, 1)).elements == 6_104_000
    pictures = make_limits(2, 2, residual=True)
    assert pictures.build((256, 320, 1), (1, 1, 1)).elements == 40_396_800


@pytest.mark.parametrize("name", NNUNET_LOWRES)
def test_low_resolution_is_that_of_nnunet(name: str) -> None:
    _, spacing, shape, classes, *_ = NNUNET[name]
    build = builder(make_limits(3, classes), estimate())
    low, why = plan_low_resolution(build(spacing, shape).patch_size, spacing, shape, build)
    wanted = NNUNET_LOWRES[name]
    if wanted is None:
        assert low is None and why
    else:
        assert low is not None
        assert low.spacing_mm == pytest.approx(wanted[0], abs=2e-6)
        assert (low.median_shape, low.network.patch_size) == wanted[1:]
        assert "configuration: lowres" in why


def test_a_low_resolution_that_saves_little_is_dropped() -> None:
    """A patch of 24 % of the image covers 25 % after one or two steps of 3 %: the image shrinks by far less than 2."""
    build = builder(make_limits(voxels=int(0.245 * 100**3)), estimate())
    patch = build((1, 1, 1), (100, 100, 100)).patch_size
    assert np.prod(patch) < 0.25 * 100**3
    low, why = plan_low_resolution(patch, (1, 1, 1), (100, 100, 100), build)
    assert low is None and "not worth it" in why


def test_elements_by_hand() -> None:
    """8 x 8 x 8, 4 and 8 features, 3 classes: 2 x 4 x 512 down, 3 x 4 x 512 up, 3 x 512; deepest 2 x 8 x 64."""
    shape = make_limits(classes=3, base_features=4).build((8, 8, 8), (1, 1, 1))
    assert shape.features == (4, 8)
    assert shape.elements == 5 * 4 * 512 + 3 * 512 + 2 * 8 * 64


def test_the_first_stage_alone_can_be_thinner() -> None:
    limits = make_limits(base_features=16, first_features=8)
    assert limits.build((40, 56, 40), (1, 1, 1)).features == (8, 32, 64, 128)


def test_step_memory_by_hand() -> None:
    shape = make_limits(classes=3, base_features=4).build((8, 8, 8), (1, 1, 1))
    cost = StepCost(fixed_bytes=1000.0, element_bytes=10.0)  # 12800 elements: 128000 bytes a sample
    assert cost.step_bytes(shape, 2) == 1000 + 2 * 128000
    assert [cost.largest_batch(shape, m) for m in (0, 128999, 129000, 385000)] == [0, 0, 1, 3]


def test_the_voxel_limit_does_not_count_what_lies_outside_the_image() -> None:
    """Of 40 x 56 x 40 = 89600 voxels, 35 x 50 x 36 = 63000 lie in the median hippocampus."""
    found = plan_network((1, 1, 1), (35, 50, 36), make_limits(voxels=65536), estimate())
    assert found.shape.patch_size == (40, 56, 40)
    assert voxels_inside((40, 56, 40), (35, 50, 36)) == 63000
    assert not found.shrunk_by
    below = plan_network((1, 1, 1), (35, 50, 36), make_limits(voxels=62999), estimate())
    assert below.shrunk_by == {"voxels"}


def test_less_memory_makes_the_patch_smaller_and_says_so() -> None:
    found = plan_network((1, 1, 1), (240, 240, 155), make_limits(gb=1), estimate())
    assert found.shrunk_by == {"memory"}
    assert estimate().step_bytes(found.shape, 2) <= 1e9


def test_no_memory_no_network() -> None:
    with pytest.raises(SegtrailError, match=r"needs .* GB") as caught:
        plan_network((1, 1, 1), (64, 64, 64), make_limits(gb=0.001), estimate())
    assert "plan.memory_gb" in caught.value.where


edges = st.integers(1, 700)
sides = st.floats(0.2, 8.0, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.tuples(edges, edges, edges), st.tuples(sides, sides, sides), st.integers(4096, 2**20))
def test_any_grid_ends_within_the_limits(shape: Triple, spacing: Spacing, voxels: int) -> None:
    limits = make_limits(voxels=voxels)
    try:
        found = plan_network(spacing, shape, limits, estimate()).shape
    except SegtrailError:
        return
    assert voxels_inside(found.patch_size, shape) <= voxels
    assert estimate().step_bytes(found, 2) <= limits.memory_bytes
    assert all(p % f == 0 for p, f in zip(found.patch_size, np.prod(found.strides, axis=0), strict=True))
