"""Patch and network that fit a data set and a memory budget.

Source: the rules of nnU-Net (Isensee et al., Nature Methods 18, 2021; nnunetv2 2.8.1, `ExperimentPlanner`),
worded anew. Lengths along X, Y, Z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.errors import SegtrailError
from pipeline.topology import SMALLEST_FEATURE_EDGE, Triple, divisible, halvings, pooling

Spacing = tuple[float, float, float]

LARGEST_PATCH = {2: 2048**2, 3: 256**3}  # voxels of the patch that shrinking starts from
SHORT_AXIS = 4 * SMALLEST_FEATURE_EDGE  # the voxel limit leaves an axis of so many voxels whole
# nnU-Net took 560e6 feature map elements a sample at batch 2 (2D: 85e6 at batch 12) for 8 GB.
BYTES_PER_ELEMENT = {2: 8e9 / (12 * 85e6), 3: 8e9 / (2 * 560e6)}
RESIDUAL_BATCH = {2: 12, 3: 2}  # its step must fit for the residual encoder, one of 2 for the plain network
RESIDUAL_BYTES_PER_ELEMENT = {2: 8e9 / (12 * 135e6), 3: 8e9 / (2 * 680e6)}
RESIDUAL_BLOCKS = (1, 3, 4, 6)  # of the first stages; the last number is that of all further ones
MAX_FEATURES = {2: 512, 3: 320}
BASE_FEATURES = 32


class NetworkShape(BaseModel):
    """A U-Net on its patch: all that its memory depends on.

    Attributes:
        channels, classes: Of the image; of the label map, background included.
        dimensions: 2 or 3; in 2D the patch has one slice.
        patch_size: Voxels.
        strides, kernels, features: One entry a stage.
        blocks: Residual blocks of each stage of the encoder; empty = the plain U-Net.
    """

    model_config = ConfigDict(frozen=True)

    channels: int
    classes: int
    dimensions: Literal[2, 3]
    patch_size: Triple
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    features: tuple[int, ...]
    blocks: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        """Elements that the convolutions put out for one patch, which memory grows with.

        Two convolutions a stage on the way down, a transposed one and two more on the way up, and the finest
        head of the classes: what nnU-Net counts (`compute_conv_feature_map_size`). With residual blocks: a
        convolution before all, two a block and the skip where width or grid change; a transposed one and one
        more on the way up.
        """
        voxels = int(np.prod(self.patch_size))
        total = self.classes * voxels
        up = 2 if self.blocks else 3
        for stage, (width, stride) in enumerate(zip(self.features, self.strides, strict=True)):
            voxels //= int(np.prod(stride))
            down = 2 * self.blocks[stage] + 1 if self.blocks else 2
            total += down * width * voxels
            if stage < len(self.features) - 1:
                total += up * width * voxels
        return total


class StepMemory(BaseModel):
    """What one training step of a network takes, measured.

    Attributes:
        device: Where, for people.
        available_bytes: Memory of the device.
        fixed_bytes: Of weights, gradients and optimizer.
        element_bytes: Of a sample, for each element of its feature maps.
    """

    model_config = ConfigDict(frozen=True)

    device: str
    available_bytes: float
    fixed_bytes: float
    element_bytes: float


@dataclass(frozen=True)
class StepCost:
    """Memory of one training step: `fixed_bytes` and `element_bytes` for each element of a sample's feature maps."""

    fixed_bytes: float
    element_bytes: float

    def step_bytes(self, shape: NetworkShape, batch_size: int) -> float:
        """Of a step with so many patches."""
        return self.fixed_bytes + batch_size * self.element_bytes * shape.elements

    def largest_batch(self, shape: NetworkShape, memory_bytes: float) -> int:
        """Patches whose step stays within the memory; 0 when not even one does."""
        return max(int((memory_bytes - self.fixed_bytes) / (self.element_bytes * shape.elements)), 0)


@dataclass(frozen=True)
class NetworkLimits:
    """What a network must keep to.

    Attributes:
        channels, classes, dimensions: As of `NetworkShape`.
        base_features, max_features: Of the first stage, doubled with each, and at most.
        memory_bytes: That one training step may take.
        batch_size: Patches of the step that must fit.
        voxels: Largest part of a patch that lies in an image of median shape.
        first_features: Of the first stage alone, in place of `base_features`.
        residual: Whether the encoder is of residual blocks.
    """

    channels: int
    classes: int
    dimensions: Literal[2, 3]
    base_features: int
    max_features: int
    memory_bytes: float
    batch_size: int
    voxels: int
    first_features: int | None = None
    residual: bool = False

    def build(self, patch: Triple, spacing: Spacing) -> NetworkShape:
        """The network of a patch that its stages halve without a rest."""
        strides, kernels = pooling(patch, spacing)
        features = [min(self.base_features * 2**stage, self.max_features) for stage in range(len(strides))]
        features[0] = self.first_features or features[0]
        further = (RESIDUAL_BLOCKS[-1],) * max(len(strides) - len(RESIDUAL_BLOCKS), 0)
        return NetworkShape(
            channels=self.channels,
            classes=self.classes,
            dimensions=self.dimensions,
            patch_size=patch,
            strides=strides,
            kernels=kernels,
            features=tuple(features),
            blocks=(*RESIDUAL_BLOCKS, *further)[: len(strides)] if self.residual else (),
        )


@dataclass(frozen=True)
class PlannedNetwork:
    """A network, and what its patch was shrunk by: "memory", "voxels", both or neither."""

    shape: NetworkShape
    shrunk_by: frozenset[str]


def plan_network(
    spacing: Spacing, median_shape: Triple, limits: NetworkLimits, cost: StepCost
) -> PlannedNetwork:
    """Finds the largest patch, as wide in mm along each axis as the data allow, that keeps to the limits.

    The start is proportional to 1 / spacing, clipped to the median shape. While a step takes too much memory,
    the axis whose share of the median shape is largest becomes shorter by one step of its halvings. The voxel
    limit, which is there for speed and is not nnU-Net's, spares axes of at most 16 voxels; what a patch has
    beyond the median shape does not count: it is padding.

    Raises:
        SegtrailError: Not even the smallest patch fits.
    """
    patch = _start(spacing, median_shape, limits.dimensions)
    shrunk_by: set[str] = set()
    while True:
        shape = limits.build(patch, spacing)
        if cost.step_bytes(shape, limits.batch_size) > limits.memory_bytes:
            shrunk_by.add("memory")
            spared = 0
        elif voxels_inside(patch, median_shape) > limits.voxels:
            shrunk_by.add("voxels")
            spared = SHORT_AXIS if max(patch) > SHORT_AXIS else 0
        else:
            return PlannedNetwork(shape, frozenset(shrunk_by))
        shares = [p / m if p > max(spared, 1) else 0.0 for p, m in zip(patch, median_shape, strict=True)]
        if limits.dimensions == 2:
            shares[2] = 0.0
        smaller = _shorter(patch, int(np.argmax(shares)), spacing)
        if smaller is None:
            raise _nothing_fits(shape, limits, cost)
        patch = smaller


def voxels_inside(patch: Triple, median_shape: Triple) -> int:
    """Voxels of a patch that lie in an image of median shape."""
    return int(np.prod(np.minimum(patch, median_shape)))


def _start(spacing: Spacing, median_shape: Triple, dimensions: int) -> Triple:
    finest = 1 / np.array(spacing[:dimensions])
    edges = finest * (LARGEST_PATCH[dimensions] / finest.prod()) ** (1 / dimensions)
    start = [min(round(float(edge)), size) for edge, size in zip(edges, median_shape, strict=False)]
    return divisible((*start, 1)[:3], spacing)


def _shorter(patch: Triple, axis: int, spacing: Spacing) -> Triple | None:
    """The next smaller patch along an axis; None when nothing would be left to halve.

    The step is that of the patch which is one step shorter: of 256 (halved 6 times, in steps of 64) that is 224
    (5 times, in steps of 32) and not 192.
    """
    trial = list(patch)
    trial[axis] = max(trial[axis] - halvings(patch, spacing)[axis], 1)
    step = halvings((trial[0], trial[1], trial[2]), spacing)[axis]
    for edge in range(patch[axis] - step, 0, -step):
        trial[axis] = edge
        fitted = divisible(tuple(trial), spacing)
        if fitted[axis] < patch[axis]:
            return fitted if len(pooling(fitted, spacing)[0]) > 1 else None
    return None


def _nothing_fits(shape: NetworkShape, limits: NetworkLimits, cost: StepCost) -> SegtrailError:
    need = cost.step_bytes(shape, limits.batch_size) / 1e9
    return SegtrailError(
        f"a step with {limits.batch_size} patches of {list(shape.patch_size)} voxels needs {need:.2f} GB, may take "
        f"{limits.memory_bytes / 1e9:.2f} GB, and no smaller patch can be halved",
        "params.yaml: plan.memory_gb",
        "raise plan.memory_gb, or lower plan.base_features, plan.max_features or plan.batch_size",
    )
