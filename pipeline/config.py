"""`params.yaml` as frozen, validated records. Defaults stand in `params.yaml`, never here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from pipeline.errors import SegtrailError
from pipeline.params_errors import to_params_error

NETWORK_NAMES = ("unet", "maskrcnn")  # what `models` may name; each has a section below `train`
Auto = Literal["auto"]
Fraction = Annotated[float, Field(ge=0, le=1)]
LayoutName = Literal["msd", "table", "dsb2018", "luna16", "lidc"]  # names of pipeline.io.sources.LAYOUTS
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Axis = Annotated[int, Field(ge=48, le=256)]
Millimetres = Annotated[float, Field(gt=0, le=100)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Voxels = Annotated[int, Field(ge=1, le=4096)]
Pixels = Annotated[int, Field(ge=64, le=4096, multiple_of=32)]
AnchorSize = Annotated[float, Field(ge=2, le=4096)]
AnchorRatio = Annotated[float, Field(ge=0.1, le=10)]
Hounsfield = Annotated[float, Field(ge=-5000, le=30000)]


class Section(BaseModel):
    """Base of all sections: immutable (so sequences are tuples), and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PhantomParams(Section):
    datasets: tuple[Name, ...]
    cases: Annotated[int, Field(ge=10, le=1000)]
    seed: int
    shape: tuple[Axis, Axis, Axis]
    spacing_mm: tuple[
        Annotated[float, Field(ge=0.5, le=5)],
        Annotated[float, Field(ge=0.5, le=5)],
        Annotated[float, Field(ge=0.5, le=5)],
    ]
    noise_hu: Annotated[float, Field(ge=0, le=100)]


class InspectParams(Section):
    dataset: Name
    layout: LayoutName
    agreement: Annotated[int, Field(ge=1, le=4)]
    affine_tolerance_mm: Fraction
    position_outlier: Annotated[float, Field(ge=4, le=100)]
    max_bad_fraction: Fraction


class SplitParams(Section):
    salt: str
    test_fraction: Annotated[float, Field(ge=0.05, le=0.5)]
    validation_fraction: Annotated[float, Field(ge=0.02, le=0.5)]


class PlanParams(Section):
    dimensions: Auto | Literal[2, 3]
    spacing_mm: Auto | tuple[Millimetres, Millimetres, Millimetres]
    patch_size: Auto | tuple[Voxels, Voxels, Voxels]
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)]
    max_patch_voxels: Annotated[int, Field(ge=4096, le=16777216)]
    memory: Literal["measure", "estimate"]
    memory_gb: Annotated[float, Field(ge=0.1, le=1000)]
    base_features: Auto | Annotated[int, Field(ge=4, le=64)]
    first_features: Auto | Annotated[int, Field(ge=4, le=64)]
    max_features: Auto | Annotated[int, Field(ge=16, le=1024)]
    normalization: Literal["auto", "ct", "zscore", "window"]
    hu_window: tuple[Hounsfield, Hounsfield]
    detection_zoom: Auto | Annotated[float, Field(ge=0.25, le=8)]
    detection_window: Auto | tuple[Pixels, Pixels]
    anchor_sizes: Auto | Annotated[tuple[AnchorSize, ...], Field(min_length=1, max_length=20)]
    anchor_ratios: Auto | Annotated[tuple[AnchorRatio, ...], Field(min_length=1, max_length=9)]

    @model_validator(mode="after")
    def _window_has_a_width(self) -> PlanParams:
        if self.hu_window[0] >= self.hu_window[1]:
            raise ValueError("hu_window: the first number must be below the second")
        return self


class PreprocessParams(Section):
    dtype: Literal["float16", "float32"]


class AugmentationParams(Section):
    flip: Fraction
    flip_axes: tuple[Literal["x", "y", "z"], ...]
    rotation: Fraction
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    scale: Fraction
    scale_range: tuple[Annotated[float, Field(ge=0.3, le=3)], Annotated[float, Field(ge=0.3, le=3)]]
    noise: Fraction
    noise_std: Annotated[float, Field(ge=0, le=2)]
    blur: Fraction
    brightness: Fraction
    contrast: Fraction
    low_resolution: Fraction
    inverted_gamma: Fraction
    gamma: Fraction


class TrainParams(Section):
    """What the training of every model has in common."""

    seed: Seed
    max_epochs: Annotated[int, Field(ge=1, le=100_000)]
    max_minutes: Annotated[float, Field(ge=0.05, le=100_000)]
    steps_per_epoch: Annotated[int, Field(ge=1, le=10_000)]
    checkpoint_every_steps: Annotated[int, Field(ge=1, le=100_000)]
    validate_every_epochs: Annotated[int, Field(ge=1, le=1000)]
    patience: Annotated[int, Field(ge=0, le=1000)]
    optimizer: Literal["sgd", "adamw"]
    learning_rate: Annotated[float, Field(ge=1e-6, le=1)]
    momentum: Annotated[float, Field(ge=0, le=0.999)]
    weight_decay: Fraction
    schedule: Literal["poly", "cosine"]
    gradient_clip: Annotated[float, Field(ge=0.1, le=1000)]
    ema_decay: Annotated[float, Field(ge=0, le=0.9999)]
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
    foreground_fraction: Fraction
    augmentation: AugmentationParams


class SemanticTrainParams(TrainParams):
    dice_weight: Annotated[float, Field(ge=0, le=10)]
    cross_entropy_weight: Annotated[float, Field(ge=0, le=10)]
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Field(ge=0, le=1000)], ...]
    deep_supervision: bool

    @model_validator(mode="after")
    def _some_loss(self) -> SemanticTrainParams:
        if self.dice_weight == 0 and self.cross_entropy_weight == 0:
            raise ValueError("dice_weight and cross_entropy_weight are both 0: nothing would be learned")
        return self


class InstanceTrainParams(TrainParams):
    batch_size: Annotated[int, Field(ge=1, le=64)]
    warmup_steps: Annotated[int, Field(ge=0, le=100_000)]
    backbone: Literal["resnet18", "resnet50", "resnext101_32x8d"]
    backbone_weights: Annotated[str, Field(min_length=1)]
    backbone_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    trainable_layers: Annotated[int, Field(ge=0, le=5)]
    pyramid_channels: Annotated[int, Field(ge=16, le=512)]
    head_channels: Annotated[int, Field(ge=16, le=2048)]
    proposals: Annotated[int, Field(ge=10, le=10_000)]

    @model_validator(mode="after")
    def _weights_can_be_checked(self) -> InstanceTrainParams:
        if self.backbone_weights not in ("none", "imagenet") and not self.backbone_sha256:
            raise ValueError("backbone_weights names a file: give its backbone_sha256 (sha256sum FILE)")
        return self


class TrainSections(Section):
    """Section `train`: one section a model."""

    unet: SemanticTrainParams
    maskrcnn: InstanceTrainParams

    def of(self, model: str) -> SemanticTrainParams | InstanceTrainParams:
        """Section of a model, one of NETWORK_NAMES."""
        section: SemanticTrainParams | InstanceTrainParams = getattr(self, model)
        return section


class PredictParams(Section):
    overlap: Annotated[float, Field(ge=0, le=0.9)]
    mirror: Annotated[str, Field(pattern=r"^(none|x?y?z?)$", min_length=1)]
    memory_gb: Annotated[float, Field(ge=0.5, le=10_000)]
    min_component_mm3: Annotated[float, Field(ge=0, le=100_000)]
    min_score: Fraction
    label_score: Fraction
    duplicate_iou: Annotated[float, Field(ge=0, le=0.5)]
    link_iou: Fraction


class EvaluateParams(Section):
    surface_tolerance_mm: Annotated[float, Field(ge=0.1, le=20)]
    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)]
    seed: Seed
    baseline: Literal["none", "otsu_lung"]
    max_detections: Annotated[int, Field(ge=1, le=100_000)]
    max_marks: Annotated[int, Field(ge=1, le=100_000)]


class RegisterParams(Section):
    model_name: Name
    metric: Annotated[str, Field(pattern=r"^test/([^/]+/)?[a-z0-9_]+$")]
    min_cases: Annotated[int, Field(ge=2, le=10_000)]
    margin: Annotated[float, Field(ge=-1, le=1)]
    class_margin: Fraction


class ReportParams(Section):
    title: str
    worst_cases: Annotated[int, Field(ge=1, le=100)]


class Params(Section):
    """The whole of `params.yaml`; each stage takes only its own section."""

    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    phantom: PhantomParams
    inspect: InspectParams
    split: SplitParams
    plan: PlanParams
    preprocess: PreprocessParams
    train: TrainSections
    predict: PredictParams
    evaluate: EvaluateParams
    register_: Annotated[RegisterParams, Field(alias="register")]
    report: ReportParams

    @model_validator(mode="after")
    def _known_models(self) -> Params:
        unknown = [name for name in self.models if name not in NETWORK_NAMES]
        if unknown:
            raise ValueError(f"models names {unknown}; legal: {', '.join(NETWORK_NAMES)}")
        if len(set(self.models)) < len(self.models):
            raise ValueError("models names one model twice")
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Reads and checks `params.yaml`; reports every problem at once.

    Raises:
        SegtrailError: The file is missing, is not YAML, or holds unknown, missing or illegal values.
    """
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SegtrailError(
            f"there is no {path.name} in this folder", str(path), "change to the project's top folder"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SegtrailError(
            f"{path.name} is not valid YAML: {error}", str(path), "mend the line named above"
        ) from error
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise to_params_error(error, Params, path) from error
