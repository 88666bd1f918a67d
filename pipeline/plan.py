"""The plan as a record: what preprocessing, training and inference know of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import SegtrailError
from pipeline.topology import Triple


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


class LowResolutionPlan(BaseModel):
    """The grid on which a patch sees a quarter of the image, when on the plan's own grid it sees less.

    Attributes:
        spacing_mm: Voxel size along X, Y, Z.
        shape: Voxels of the median image.
        patch_size: Voxels along X, Y, Z that the same limits allow there.
    """

    model_config = ConfigDict(frozen=True)

    spacing_mm: tuple[float, float, float]
    shape: Triple
    patch_size: Triple


class Plan(BaseModel):
    """Everything preprocessing, training and inference need to know of the data.

    Attributes:
        dataset: Name of the data set.
        channels: Modality names.
        label_names: Class names by network index; index 0 is background.
        label_values: Value in the source label maps of each index.
        dimensions: 2 (networks see single slices along Z) or 3.
        spacing_mm: Target voxel size along X, Y, Z (canonical order).
        patch_size: Voxels along X, Y, Z; Z is 1 in 2D.
        batch_size: Patches a step.
        strides: Down-sampling of each stage along X, Y, Z; the first is (1, 1, 1).
        kernels: Convolution kernel of each stage.
        features: Feature maps of each stage.
        normalization: One entry a channel.
        reasons: Why each value was chosen.
        n_cases: Number of cases the plan was made from.
        detection: What Mask R-CNN needs; None when no case has an object.
        lowres: A coarser grid worth a training of its own; None when the patch covers enough.
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
    reasons: dict[str, str]
    n_cases: int
    detection: DetectionPlan | None = None
    lowres: LowResolutionPlan | None = None

    def save(self, path: Path) -> None:
        """Writes the plan as readable JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


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
