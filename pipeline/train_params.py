"""Section `train` of `params.yaml`: one section a model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel, model_validator

from pipeline.errors import unknown_name
from pipeline.section import Fraction, Name, Section, Seed

# Of a weight of 0 the weighted mean of the cross-entropy has no value where a batch shows nothing else.
ClassWeight = Annotated[float, Field(ge=0.001, le=1000)]


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

    start: Literal["scratch", "champion"]
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
    network: Literal["unet", "resunet"]
    configuration: Literal["full", "2d", "lowres", "cascade"]
    lowres_share: Annotated[float, Field(ge=0.05, le=0.95)]
    folds: Annotated[int, Field(ge=1, le=10)]
    dice_weight: Annotated[float, Field(ge=0, le=10)]
    cross_entropy_weight: Annotated[float, Field(ge=0, le=10)]
    class_weights: Literal["none", "balanced"] | tuple[ClassWeight, ...]
    deep_supervision: bool

    @model_validator(mode="after")
    def _some_loss(self) -> SemanticTrainParams:
        if self.dice_weight == 0 and self.cross_entropy_weight == 0:
            raise ValueError("dice_weight and cross_entropy_weight are both 0: nothing would be learned")
        return self


class InstanceTrainParams(TrainParams):
    network: Literal["maskrcnn"]
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


AnyTrainParams = Annotated[SemanticTrainParams | InstanceTrainParams, Field(discriminator="network")]


class TrainSections(RootModel[Annotated[dict[Name, AnyTrainParams], Field(min_length=1)]]):
    """Section `train`: the models that `models` may name; the `network` of each decides which keys it has."""

    model_config = ConfigDict(frozen=True)

    def of(self, model: str) -> SemanticTrainParams | InstanceTrainParams:
        """Section of a model.

        Raises:
            SegtrailError: There is no such section.
        """
        if model not in self.root:
            raise unknown_name("model", model, self.root, "params.yaml: train")
        return self.root[model]
