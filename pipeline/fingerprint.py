"""The fingerprint of a case: what the plan needs to know about it, without its voxels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import ndimage

from pipeline.errors import SegtrailError
from pipeline.volume import Affine, LabelMap, Volume, spacing_mm, to_canonical, voxel_volume_mm3

SAMPLES = 1000
PERCENTILES = (0.5, 50.0, 99.5)
TOUCHING = np.ones((3, 3, 3), dtype=bool)  # voxels that share a corner belong together


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
    """

    voxels: int
    volume_mm3: float
    components: int
    centroid_fraction: tuple[float, float, float] | None


class Fingerprint(_Record):
    """One case, in canonical (RAS+) axis order.

    Attributes:
        case_id: Name of the case.
        shape: Voxels along R, A, S.
        spacing_mm: Voxel size along the same axes.
        intensity: One record a channel.
        classes: One record a foreground class of the data set; empty when the case has no label.
        image_sha256: Of the voxels themselves: equal for copies, however they are stored.
    """

    case_id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    intensity: tuple[ChannelStatistics, ...]
    classes: dict[str, ClassStatistics]
    image_sha256: str = ""

    def save(self, path: Path) -> None:
        """Writes the record as JSON."""
        path.write_text(self.model_dump_json() + "\n", encoding="utf-8")

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
    case_id: str, volume: Volume, label_map: LabelMap | None, labels: Mapping[str, int], sha256: str
) -> Fingerprint:
    """Measures a case.

    Args:
        case_id: Name of the case.
        volume: Its image; all voxels finite.
        label_map: Its labels on the same grid, or None.
        labels: Value of each class; background is left out of the result.
        sha256: Of the case's files; seeds the sampling.
    """
    image, affine = to_canonical(volume.array, volume.affine)
    label = None if label_map is None else to_canonical(label_map.array, label_map.affine)[0]
    foreground = None if label is None or not label.any() else label > 0
    x, y, z = image.shape[1:]
    return Fingerprint(
        case_id=case_id,
        shape=(x, y, z),
        spacing_mm=spacing_mm(affine),
        intensity=_intensity(image, foreground, int(sha256[:16], 16)),
        classes={} if label is None else _classes(label, affine, labels),
        image_sha256=_hash_voxels(image),
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


def _classes(label: NDArray[Any], affine: Affine, labels: Mapping[str, int]) -> dict[str, ClassStatistics]:
    boxes = [box and box[::-1] for box in ndimage.find_objects(label.T)]  # transposed: as above
    voxel_mm3 = voxel_volume_mm3(affine)
    records = {}
    for name, value in labels.items():
        if value == 0:
            continue
        box = boxes[value - 1] if value <= len(boxes) else None
        if box is None:
            records[name] = ClassStatistics(voxels=0, volume_mm3=0.0, components=0, centroid_fraction=None)
            continue
        pieces, count = ndimage.label(label[box] == value, TOUCHING)
        sizes = np.bincount(pieces.ravel())[1:]
        start = np.array([part.start for part in box])
        centre = np.argwhere(pieces == 1 + int(sizes.argmax())).mean(axis=0) + start
        x, y, z = (centre + 0.5) / label.shape
        voxels = int(sizes.sum())
        records[name] = ClassStatistics(
            voxels=voxels,
            volume_mm3=round(voxels * voxel_mm3, 6),
            components=int(count),
            centroid_fraction=(float(x), float(y), float(z)),
        )
    return records


def _hash_voxels(image: NDArray[Any]) -> str:
    digest = hashlib.sha256(repr(image.shape).encode())
    for channel in image:
        for plane in np.moveaxis(channel, -1, 0):  # plane by plane: no second copy of a large volume
            digest.update(np.ascontiguousarray(plane, dtype=np.float32).tobytes())
    return digest.hexdigest()
