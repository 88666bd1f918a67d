"""How far a set may grow away from what its plan was made from.

A plan keeps its values while every number of its basis has moved less than a tolerance since it was made. Numbers
that moved further are taken anew, the others stay: one more case in a thousand leaves every preprocessed case as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.config import PlanParams
from pipeline.errors import SegtrailError
from pipeline.fingerprint import Fingerprint
from pipeline.plan_basis import Edges, IntensityBasis, ObjectBasis, PlanBasis

Scheme = Literal["ct", "zscore", "window"]
FINE = 10  # percentile of the voxel size that an anisotropic axis takes
SIZES = (5, 10, 50, 95)  # percentiles of the object sizes
LARGEST = 99  # percentile of the objects in the fullest slice


@dataclass(frozen=True)
class Move:
    """How far a number of the set lies from that of the basis.

    Attributes:
        field: Of `PlanBasis`; "intensity 0" is of the first channel.
        before, after: The numbers.
        share: Largest relative distance of them; of intensities, in standard deviations.
    """

    field: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    share: float

    def __str__(self) -> str:
        before, after = (
            ", ".join(f"{value:.4g}" for value in values) for values in (self.before, self.after)
        )
        return f"{self.field} {before} -> {after} ({self.share:.1%})"


def schemes(channels: Sequence[str], params: PlanParams) -> tuple[Scheme, ...]:
    """How each channel is normalised: as `plan.normalization` says, or by its modality."""
    if params.normalization != "auto":
        return (params.normalization,) * len(channels)
    return tuple("ct" if channel.upper() == "CT" else "zscore" for channel in channels)


def measure_basis(
    fingerprints: Sequence[Fingerprint], wanted: Sequence[Scheme], rules: str = ""
) -> PlanBasis:
    """Measures a set.

    Args:
        fingerprints: Of its cases.
        wanted: Scheme of each channel; the samples of others than "ct" are not looked at.
        rules: As in the record.

    Raises:
        SegtrailError: There is no case.
    """
    if not fingerprints:
        raise SegtrailError("there is no case to plan from", "data/splits/splits.csv", "add cases")
    spacings = np.array([f.spacing_mm for f in fingerprints])
    voxels = np.array([f.shape for f in fingerprints])
    edges = voxels * spacings
    return PlanBasis(
        cases=len(fingerprints),
        rules=rules,
        spacing_mm=_edges(np.median(spacings, axis=0)),
        fine_spacing_mm=_edges(np.percentile(spacings, FINE, axis=0)),
        voxels=_edges(np.median(voxels, axis=0)),
        extent_mm=_edges(np.median(edges, axis=0)),
        volume_mm3=float(edges.prod(axis=1).sum()),
        nonzero_fraction=float(np.median([f.nonzero_fraction for f in fingerprints])),
        intensity=tuple(
            _intensity(fingerprints, index) if scheme == "ct" else None for index, scheme in enumerate(wanted)
        ),
        objects=_objects(fingerprints, edges),
    )


def compare(before: PlanBasis, after: PlanBasis) -> list[Move]:
    """How far each number has moved, the farthest first; those that are equal are left out."""
    old, new = _numbers(before), _numbers(after)
    moves = []
    for field in old.keys() | new.keys():
        one, other = old.get(field, ()), new.get(field, ())
        if one != other:
            moves.append(Move(field, one, other, _distance(field, one, other)))
    return sorted(moves, key=lambda move: (-move.share, move.field))


def hold(before: PlanBasis, after: PlanBasis, tolerance: float) -> PlanBasis:
    """The basis of a set that was planned for before it grew.

    Args:
        before: What the plan in use was made from.
        after: The set as it is.
        tolerance: Largest share that a number may move and still be kept.
    """
    gone = {move.field for move in compare(before, after) if move.share > tolerance}
    channels = zip(before.intensity, after.intensity, strict=False)
    intensity = [new if f"intensity {i}" in gone else old for i, (old, new) in enumerate(channels)]
    fields = ("spacing_mm", "fine_spacing_mm", "voxels", "extent_mm", "volume_mm3", "nonzero_fraction")
    kept = {name: getattr(before, name) for name in fields if name not in gone}
    if not any(name.startswith("objects") for name in gone):
        kept["objects"] = before.objects
    if len(before.intensity) == len(after.intensity):
        kept["intensity"] = tuple(intensity)
    return after.model_copy(update=kept)


def _intensity(fingerprints: Sequence[Fingerprint], channel: int) -> IntensityBasis:
    samples = np.concatenate([f.intensity[channel].samples for f in fingerprints])
    low, high = np.percentile(samples, [0.5, 99.5])
    return IntensityBasis(
        low=float(low), high=float(high), mean=float(samples.mean()), std=max(float(samples.std()), 1e-3)
    )


def _objects(fingerprints: Sequence[Fingerprint], edges: NDArray[np.float64]) -> ObjectBasis | None:
    found = [e for f in fingerprints for one in f.classes.values() for e in one.object_extents_mm]
    if not found:
        return None
    extents = np.array(found)[:, :2]
    sizes = np.percentile(np.sqrt(extents.prod(axis=1)), SIZES)
    x, y = edges.max(axis=0)[:2].tolist()
    return ObjectBasis(
        size_mm=tuple(sizes.tolist()),
        ratio=float(np.median(extents[:, 1] / extents[:, 0])),
        per_slice=float(np.percentile([f.objects_per_slice for f in fingerprints], LARGEST)),
        slice_mm=(x, y),
    )


def _edges(values: NDArray[np.float64]) -> Edges:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _numbers(basis: PlanBasis) -> dict[str, tuple[float, ...]]:
    """The numbers of a basis by name."""
    numbers: dict[str, tuple[float, ...]] = {
        name: getattr(basis, name) for name in ("spacing_mm", "fine_spacing_mm", "voxels", "extent_mm")
    }
    numbers["volume_mm3"] = (basis.volume_mm3,)
    numbers["nonzero_fraction"] = (basis.nonzero_fraction,)
    for index, channel in enumerate(basis.intensity):
        if channel is not None:
            numbers[f"intensity {index}"] = (channel.low, channel.high, channel.mean, channel.std)
    if basis.objects is not None:
        numbers["objects size_mm"] = basis.objects.size_mm
        numbers["objects ratio"] = (basis.objects.ratio,)
        numbers["objects per_slice"] = (basis.objects.per_slice,)
        numbers["objects slice_mm"] = basis.objects.slice_mm
    return numbers


def _distance(field: str, before: Sequence[float], after: Sequence[float]) -> float:
    if len(before) != len(after):
        return math.inf
    units = [before[-1]] * len(before) if field.startswith("intensity") else [abs(value) for value in before]
    pairs = zip(before, after, units, strict=True)
    return max(0.0 if new == old else abs(new - old) / unit if unit else math.inf for old, new, unit in pairs)
