"""`params.yaml` as frozen, validated records. Defaults stand in `params.yaml`, never here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    model_validator,
)

from pipeline.errors import SegtrailError
from pipeline.nightly_params import NightlyParams
from pipeline.params_errors import to_params_error
from pipeline.section import Fraction, Name, Section, Seed
from pipeline.train_params import TrainSections

LAYOUTS = "pipeline.io.layouts"  # package with a module a layout


def layout_names() -> tuple[str, ...]:
    """Names of the layouts: those of the files in `pipeline/io/layouts`, of which none is imported."""
    return tuple(sorted(module.name for module in iter_modules(import_module(LAYOUTS).__path__)))


def _known_layout(name: str) -> str:
    if name not in layout_names():
        raise ValueError(f"legal: {', '.join(layout_names())}")
    return name


Auto = Literal["auto"]
LayoutName = Annotated[str, AfterValidator(_known_layout)]
Axis = Annotated[int, Field(ge=48, le=256)]
Millimetres = Annotated[float, Field(gt=0, le=100)]
Voxels = Annotated[int, Field(ge=1, le=4096)]
Pixels = Annotated[int, Field(ge=64, le=4096, multiple_of=32)]
AnchorSize = Annotated[float, Field(ge=2, le=4096)]
AnchorRatio = Annotated[float, Field(ge=0.1, le=10)]
Hounsfield = Annotated[float, Field(ge=-5000, le=30000)]


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
    consensus: Literal["majority", "staple", "first"]
    affine_tolerance_mm: Fraction
    fix: tuple[Literal["rounding", "header", "orientation", "axes"], ...]
    position_outlier: Annotated[float, Field(ge=4, le=100)]
    value_outlier: Annotated[float, Field(ge=3, le=100)]
    max_bad_fraction: Fraction


class SplitParams(Section):
    salt: str
    test_fraction: Annotated[float, Field(ge=0.05, le=0.5)]
    validation_fraction: Annotated[float, Field(ge=0.02, le=0.5)]


class PlanParams(Section):
    tolerance: Fraction
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


class PredictParams(Section):
    overlap: Annotated[float, Field(ge=0, le=0.9)]
    mirror: Annotated[str, Field(pattern=r"^(none|x?y?z?)$", min_length=1)]
    memory_gb: Annotated[float, Field(ge=0.5, le=10_000)]
    postprocessing: Literal["learned", "none"]
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
    nightly: NightlyParams

    @model_validator(mode="after")
    def _known_models(self) -> Params:
        unknown = [name for name in self.models if name not in self.train.root]
        if unknown:
            raise ValueError(f"models names {unknown}; legal: {', '.join(self.train.root)}")
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
