"""The fingerprint of a case: what the plan needs to know about it, without its voxels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import SegtrailError
from pipeline.instances import ReferenceObject, describe_objects, find_instances
from pipeline.volume import Affine, LabelMap, Volume, spacing_mm, to_canonical, voxel_volume_mm3

SAMPLES = 1000
OBJECT_SAMPLES = 200
PERCENTILES = (0.5, 50.0, 99.5)
VOXEL_UNITS = np.eye(4)  # as affine: what is called mm are voxels


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class ChannelStatistics(_Record):
    """Intensities of one channel over the foreground (label > 0; all voxels when there is none).

    Attributes:
        samples: At most 1000 of these voxels, drawn with a generator seeded from the case's hash, sorted.
    """

    mean: float
    std: float
    median: float
    min: float
    max: float
    p00_5: float
    p99_5: float
    samples: tuple[float, ...]


class ClassStatistics(_Record):
    """One class in one case.

    Attributes:
        voxels: Their number; 0 when the class is absent.
        volume_mm3: Their volume.
        components: Pieces that do not even share a corner.
        centroid_fraction: Centre of the largest piece as a share of the canonical (RAS+) grid, 0 to 1 along
            each axis; None when the class is absent. Of the largest piece, because a label that was rolled
            around the border keeps its centre of gravity when all pieces count.
        objects: Ids of the instance map that belong to the class; without a map, its components.
        object_extents_mm: Edges of the objects' boxes along R, A, S, by id; of at most 200 objects, drawn with
            a generator seeded from the case's hash.
    """

    voxels: int
    volume_mm3: float
    components: int
    centroid_fraction: tuple[float, float, float] | None
    objects: int = 0
    object_extents_mm: tuple[tuple[float, float, float], ...] = ()


class Fingerprint(_Record):
    """One case, in canonical (RAS+) axis order.

    Attributes:
        case_id: Name of the case.
        shape: Voxels along R, A, S.
        spacing_mm: Voxel size along the same axes.
        intensity: One record a channel.
        classes: One record a foreground class of the data set; empty when the case has no label.
        image_sha256: Of the voxels themselves: equal for copies, however they are stored.
        objects_per_slice: Objects of all classes in the slice along S that cuts most of them.
        nonzero_fraction: Share of the voxels that the box around all voxels with a value other than 0, in any
            channel, holds; 1 when all are 0.
        ignored_fraction: Share of the voxels that nobody labelled.
    """

    case_id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    intensity: tuple[ChannelStatistics, ...]
    classes: dict[str, ClassStatistics]
    image_sha256: str = ""
    objects_per_slice: int = 0
    nonzero_fraction: float = 1.0
    ignored_fraction: float = 0.0

    def save(self, path: Path) -> None:
        """Writes the record as JSON."""
        path.write_text(self.model_dump_json() + "\n", encoding="utf-8")

    def without_samples(self) -> Fingerprint:
        """The record without the samples of voxels and objects: a hundredth of its size, for what compares cases."""
        intensity = tuple(channel.model_copy(update={"samples": ()}) for channel in self.intensity)
        classes = {
            name: one.model_copy(update={"object_extents_mm": ()}) for name, one in self.classes.items()
        }
        return self.model_copy(update={"intensity": intensity, "classes": classes})

    @classmethod
    def load(cls, path: Path) -> Fingerprint:
        """Reads what `save` wrote.

        Raises:
            SegtrailError: The file is missing or is not a fingerprint.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            what = f"the fingerprint cannot be read: {error}"
            raise SegtrailError(what, str(path), "dvc repro --force inspect") from error


def build_fingerprint(
    case_id: str,
    volume: Volume,
    label_map: LabelMap | None,
    labels: Mapping[str, int],
    sha256: str,
    instances: NDArray[np.integer[Any]] | None = None,
) -> Fingerprint:
    """Measures a case.

    Args:
        case_id: Name of the case.
        volume: Its image; all voxels finite.
        label_map: Its labels on the same grid, or None.
        labels: Value of each class; background is left out of the result.
        sha256: Of the case's files; seeds the sampling.
        instances: (X, Y, Z) ids on the grid of `label_map`; without, each component of a class is an object.
    """
    image, affine = to_canonical(volume.array, volume.affine)
    seed = int(sha256[:16], 16)
    foreground: NDArray[np.bool_] | None = None
    classes, busiest = {}, 0
    if label_map is not None:
        label = to_canonical(label_map.array, label_map.affine)[0]
        ids = None if instances is None else to_canonical(instances, label_map.affine)[0]
        pieces = describe_objects(find_instances(label), label, VOXEL_UNITS)
        objects = pieces if ids is None else describe_objects(ids, label, VOXEL_UNITS)
        foreground = label > 0 if pieces else None
        busiest = _most_per_slice([found for found in objects if found.label])
        classes = {
            name: _describe_class(value, pieces, objects, label.shape, affine, seed)
            for name, value in labels.items()
            if value != 0
        }
    x, y, z = image.shape[1:]
    return Fingerprint(
        case_id=case_id,
        shape=(x, y, z),
        spacing_mm=spacing_mm(affine),
        intensity=_intensity(image, foreground, seed),
        classes=classes,
        image_sha256=_hash_voxels(image),
        objects_per_slice=busiest,
        nonzero_fraction=_nonzero_fraction(image),
    )


def _intensity(
    image: NDArray[Any], foreground: NDArray[np.bool_] | None, seed: int
) -> tuple[ChannelStatistics, ...]:
    records = []
    for channel in image:
        # NIfTI stores X fastest: transposed, the walk through memory is straight (several times faster).
        values = channel.T.ravel() if foreground is None else channel.T[foreground.T]
        generator = np.random.default_rng(seed)  # one draw for all channels: samples stay of one voxel
        chosen = generator.choice(values.size, min(SAMPLES, values.size), replace=False, shuffle=False)
        low, median, high = np.percentile(values, PERCENTILES)
        records.append(
            ChannelStatistics(
                mean=float(values.mean(dtype=np.float64)),
                std=float(values.std(dtype=np.float64)),
                median=float(median),
                min=float(values.min()),
                max=float(values.max()),
                p00_5=float(low),
                p99_5=float(high),
                samples=tuple(float(v) for v in np.sort(values[chosen])),
            )
        )
    return tuple(records)


def _describe_class(
    value: int,
    pieces: Sequence[ReferenceObject],
    objects: Sequence[ReferenceObject],
    shape: tuple[int, ...],
    affine: Affine,
    seed: int,
) -> ClassStatistics:
    """One class of a case, from components and objects measured in voxels of the canonical grid."""
    pieces = [piece for piece in pieces if piece.label == value]
    objects = [found for found in objects if found.label == value]
    voxels = sum(piece.voxels for piece in pieces)
    centre = None
    if pieces:
        largest = max(pieces, key=lambda piece: piece.voxels)
        x, y, z = ((c + 0.5) / n for c, n in zip(largest.centroid_mm, shape, strict=True))
        centre = (x, y, z)
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.choice(len(objects), min(OBJECT_SAMPLES, len(objects)), replace=False))
    extents = np.array([objects[i].extent_voxels for i in chosen]).reshape(-1, 3) * spacing_mm(affine)
    return ClassStatistics(
        voxels=voxels,
        volume_mm3=round(voxels * voxel_volume_mm3(affine), 6),
        components=len(pieces),
        centroid_fraction=centre,
        objects=len(objects),
        object_extents_mm=tuple((_short(x), _short(y), _short(z)) for x, y, z in extents.tolist()),
    )


def _short(value: float) -> float:
    return float(f"{value:.6g}")  # keeps the file small


def _most_per_slice(objects: Sequence[ReferenceObject]) -> int:
    """Largest number of objects whose boxes one slice along Z cuts."""
    if not objects:
        return 0
    ends = np.array([(one.box_voxels[0][2], one.box_voxels[1][2]) for one in objects])
    length = int(ends.max()) + 1
    change = np.bincount(ends[:, 0], minlength=length) - np.bincount(ends[:, 1], minlength=length)
    return int(change.cumsum().max())


def _nonzero_fraction(image: NDArray[Any]) -> float:
    """Volume of the box around the non-zero voxels over that of the grid."""
    share = 1.0
    # The walk through memory is straight where the last axis of the transposed array is reduced first.
    there = np.logical_or.reduce([channel.T != 0 for channel in image])
    flat = there.any(axis=2)
    for profile in (flat.any(axis=1), flat.any(axis=0), there.any(axis=(0, 1))):
        found = np.flatnonzero(profile)
        if not found.size:
            return 1.0
        share *= (found[-1] - found[0] + 1) / profile.size
    return round(float(share), 6)


def _hash_voxels(image: NDArray[Any]) -> str:
    digest = hashlib.sha256(repr(image.shape).encode())
    for channel in image:
        for plane in np.moveaxis(channel, -1, 0):  # plane by plane: no second copy of a large volume
            digest.update(np.ascontiguousarray(plane, dtype=np.float32).tobytes())
    return digest.hexdigest()
