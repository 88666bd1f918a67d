"""The plan as a record: what preprocessing, training and inference know of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.disk import write_whole
from pipeline.errors import SegtrailError
from pipeline.plan_basis import PlanBasis
from pipeline.topology import Triple

# What a preprocessed case depends on.
PREPROCESSING = ("label_values", "ignore_value", "spacing_mm", "normalization", "resampling")
CONFIGURATIONS = ("full", "2d", "lowres", "cascade")


class ChannelNormalization(BaseModel):
    """How the intensities of one channel are brought to a common scale.

    Attributes:
        scheme: "ct" clips to [low, high] and uses the data set's mean and std; "zscore" uses the case's own;
            "window" makes [low, high] 0 to 1 and clips to it.
        low, high: Clip limits in the unit of the image (HU). "ct": percentiles 0.5 and 99.5 of the foreground.
        mean, std: Of the foreground of the data set; "ct" alone uses them.
        nonzero_mask: "zscore" counts only voxels where some channel is not 0 (holes filled); the rest stays 0.
    """

    model_config = ConfigDict(frozen=True)

    scheme: Literal["ct", "zscore", "window"]
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    nonzero_mask: bool = False

    @property
    def padding(self) -> float:
        """Normalised value outside the image: the lowest of a clipped scale (air), the mean otherwise."""
        return (self.low - self.mean) / self.std if self.scheme == "ct" else 0.0

    @property
    def limits(self) -> tuple[float, float] | None:
        """Lowest and highest normalised value of a scheme that clips; None of one that does not."""
        if self.scheme == "zscore":
            return None
        return (self.padding, (self.high - self.mean) / self.std) if self.scheme == "ct" else (0.0, 1.0)


class DetectionPlan(BaseModel):
    """What detection by windows needs to know of the objects; lengths in network pixels unless said otherwise.

    Attributes:
        slices: Neighbouring slices along Z that are the channels of a window: 1 for images, 3 for volumes.
        zoom: Network pixels a voxel of the plan's grid, along X and Y.
        window: Pixels along X and Y that the network sees at once; multiples of 32.
        anchor_sizes: Edge lengths at each level of the pyramid (strides 4, 8, 16, 32), finest first.
        anchor_ratios: Extents along Y over extents along X.
        detections: Most objects of a window.
    """

    model_config = ConfigDict(frozen=True)

    slices: int
    zoom: float
    window: tuple[int, int]
    anchor_sizes: tuple[tuple[float, ...], ...]
    anchor_ratios: tuple[float, ...]
    detections: int


class ConfigurationPlan(BaseModel):
    """Another network, or another grid, for the same data; lengths along X, Y, Z.

    Attributes:
        dimensions: 2 (single slices along Z) or 3.
        spacing_mm: Voxel size.
        shape: Voxels of the median image.
        patch_size: Voxels.
        batch_size: Patches a step.
        strides, kernels, features: One entry a stage.
        blocks: Residual blocks of each stage of the encoder; empty = the plain U-Net.
    """

    model_config = ConfigDict(frozen=True)

    dimensions: Literal[2, 3]
    spacing_mm: tuple[float, float, float]
    shape: Triple
    patch_size: Triple
    batch_size: int
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    features: tuple[int, ...]
    blocks: tuple[int, ...] = ()


class RegionPlan(BaseModel):
    """A set of classes that a network finds as one, with an output of its own.

    Attributes:
        name: Such as "tumor core".
        labels: Network indices of its classes.
        paint: Network index that it becomes in a label map, unless a later region paints over it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    labels: tuple[int, ...]
    paint: int


class Plan(BaseModel):
    """Everything preprocessing, training and inference need to know of the data.

    Attributes:
        dataset: Name of the data set.
        channels: Modality names.
        label_names: Class names by network index; index 0 is background.
        label_values: Value in the source label maps of each index.
        ignore_value: Value in the source label maps of voxels that nobody labelled; None = there are none.
        dimensions: 2 (networks see single slices along Z) or 3.
        spacing_mm: Target voxel size along X, Y, Z (canonical order).
        patch_size: Voxels along X, Y, Z; Z is 1 in 2D.
        batch_size: Patches a step.
        strides: Down-sampling of each stage along X, Y, Z; the first is (1, 1, 1).
        kernels: Convolution kernel of each stage.
        features: Feature maps of each stage.
        normalization: One entry a channel.
        resampling: How images come to `spacing_mm`; plans from before there was a choice are linear.
        reasons: Why each value was chosen.
        n_cases: Number of cases the plan was made from.
        detection: What Mask R-CNN needs; None when no case has an object.
        regions: Overlapping regions that semantic networks find instead of classes, in painting order; may be empty.
        blocks: Residual blocks of each stage of the encoder; empty = the plain U-Net.
        alternatives: What `configured` makes a plan of: "2d", "lowres", "residual", "residual 2d", "residual
            lowres"; an absent one has its reason in `reasons`.
        basis: What of the set the values come from; None in a plan from before it was recorded.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    channels: tuple[str, ...]
    label_names: tuple[str, ...]
    label_values: tuple[int, ...]
    dimensions: Literal[2, 3]
    spacing_mm: tuple[float, float, float]
    patch_size: Triple
    batch_size: int
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    features: tuple[int, ...]
    normalization: tuple[ChannelNormalization, ...]
    resampling: Literal["linear", "cubic"] = "linear"
    reasons: dict[str, str]
    n_cases: int
    detection: DetectionPlan | None = None
    regions: tuple[RegionPlan, ...] = ()
    blocks: tuple[int, ...] = ()
    alternatives: dict[str, ConfigurationPlan] = {}
    ignore_value: int | None = None
    basis: PlanBasis | None = None

    @property
    def outputs(self) -> int:
        """Channels of the logits of a semantic network: regions, or classes with the background."""
        return len(self.regions) or len(self.label_names)

    @property
    def scored(self) -> dict[str, tuple[int, ...]]:
        """Network indices of what a semantic network is scored by: of each region, or else foreground class."""
        regions = {region.name: region.labels for region in self.regions}
        return regions or {name: (index,) for index, name in enumerate(self.label_names) if index}

    def configured(self, network: str, configuration: str, model: str = "<model>") -> Plan:
        """The plan of one network on one grid, in place of the plain U-Net on the finest.

        Args:
            network: "unet" or "resunet".
            configuration: "full", "2d" or "lowres"; of a "cascade" it is the plan of its second network.
            model: Whose section of `train` asks, for the error.

        Raises:
            SegtrailError: There is nothing like that in this plan; it says why, and what there is.
        """
        missing = [name for name in _needed(network, configuration) if name not in ("", *self.alternatives)]
        if missing:
            raise self._not_there(network, configuration, model, missing[0])
        wanted = _needed(network, configuration)[-1]
        if not wanted:
            return self
        values = self.alternatives[wanted].model_dump(exclude={"shape"})
        return self.model_copy(update={**values, "alternatives": {}})

    def _not_there(self, network: str, configuration: str, model: str, missing: str) -> SegtrailError:
        grid = "lowres" if configuration == "cascade" else configuration
        reason = self.reasons.get(missing) or self.reasons.get(grid, "no stage makes one")
        known = {"", *self.alternatives}
        there = [c for c in CONFIGURATIONS if known.issuperset(_needed(network, c))]
        return SegtrailError(
            f"the plan has no configuration {configuration} for the network {network}: {reason}",
            f"params.yaml: train.{model}.configuration",
            (f"use one of: {', '.join(there)}" if there else "dvc repro --force plan")
            + f"; or take {model} out of models",
        )

    def save(self, path: Path) -> None:
        """Writes the plan as readable JSON, whole or not at all."""
        write_whole(path, self.model_dump_json(indent=2) + "\n")


def alternative_name(network: str, configuration: str) -> str:
    """Key of `Plan.alternatives`; "" for the plan itself."""
    parts = ("residual" if network == "resunet" else "", configuration if configuration != "full" else "")
    return " ".join(part for part in parts if part)


def _needed(network: str, configuration: str) -> list[str]:
    """Names of the plans that a configuration needs, that of its last network last."""
    grids = ("lowres", "full") if configuration == "cascade" else (configuration,)
    return [alternative_name(network, grid) for grid in grids]


def load_plan(path: Path) -> Plan:
    """Reads `plan.json`.

    Raises:
        SegtrailError: The file is missing.
    """
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SegtrailError("the plan is missing", str(path), "dvc repro plan") from error
    except ValidationError as error:
        raise SegtrailError(f"the plan is damaged: {error}", str(path), "dvc repro --force plan") from error
