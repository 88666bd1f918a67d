"""The basis of a plan: what of the set its values are derived from, as a record."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Edges = tuple[float, float, float]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class IntensityBasis(_Record):
    """Foreground of a channel of all cases, in the unit of the image: percentiles 0.5 and 99.5, mean, deviation."""

    low: float
    high: float
    mean: float
    std: float


class ObjectBasis(_Record):
    """Objects in the plane of the slices.

    Attributes:
        size_mm: Percentiles 5, 10, 50 and 95 of the root of the area of an object's box.
        ratio: Median extent along Y over that along X.
        per_slice: 99th percentile over the cases of the objects in the fullest slice.
        slice_mm: Longest edges of a slice along X and Y.
    """

    size_mm: tuple[float, ...]
    ratio: float
    per_slice: float
    slice_mm: tuple[float, float]


class PlanBasis(_Record):
    """What a plan was derived from; lengths along X, Y, Z.

    Attributes:
        cases: Their number.
        rules: Digest of the code, the section `plan` of the params and the facts of the data set.
        spacing_mm: Median voxel size.
        fine_spacing_mm: 10th percentile of the voxel size.
        voxels: Median number of voxels.
        extent_mm: Median edges of the image.
        volume_mm3: Of all images together.
        nonzero_fraction: Median share of the box around the non-zero voxels.
        intensity: One a channel; None where the plan does not need it.
        objects: None when no case has one.
    """

    cases: int
    rules: str = ""
    spacing_mm: Edges
    fine_spacing_mm: Edges
    voxels: Edges
    extent_mm: Edges
    volume_mm3: float
    nonzero_fraction: float
    intensity: tuple[IntensityBasis | None, ...]
    objects: ObjectBasis | None
