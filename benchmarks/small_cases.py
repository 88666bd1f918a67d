"""Many small cases made of a few real ones: boxes around the hippocampi of MSD task 4, each at another place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

EDGES = (20, 24, 20)
SOURCES = 40  # real cases that the boxes are taken from


@dataclass(frozen=True)
class Source:
    """One real case: voxels of image and label, the affine, and the middle of the foreground."""

    image: NDArray[Any]
    label: NDArray[Any]
    affine: NDArray[np.float64]
    middle: NDArray[np.intp]


class SmallCases:
    """Writes small cases in MSD layout; a number always gives the same case, whatever the others.

    Args:
        real: Folder of Task04_Hippocampus.
        folder: Of the new data set; made when missing.
    """

    def __init__(self, real: Path, folder: Path) -> None:
        self.folder = folder
        facts = json.loads((real / "dataset.json").read_text(encoding="utf-8"))
        pairs = facts["training"][:SOURCES]
        self.sources = [_load(real / pair["image"], real / pair["label"]) for pair in pairs]
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        described = {"name": "Small", "modality": facts["modality"], "labels": facts["labels"]}
        (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")

    def paths(self, number: int) -> tuple[Path, Path]:
        """Image and label of a case."""
        name = f"case_{number:05d}.nii"
        return self.folder / "imagesTr" / name, self.folder / "labelsTr" / name

    def write(self, number: int) -> None:
        """Writes one case."""
        source = self.sources[number % len(self.sources)]
        generator = np.random.default_rng(number)
        shape, edges = np.array(source.image.shape), np.array(EDGES)
        wanted = source.middle - edges // 2 + generator.integers(-6, 7, 3)
        start = np.clip(wanted, 0, np.maximum(shape - edges, 0))
        box = tuple(slice(int(a), int(a + n)) for a, n in zip(start, edges, strict=True))
        affine = source.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        # Boxes at the same place would be copies of each other.
        image = np.asarray(source.image[box], np.float32)
        image[0, 0, 0] = number
        for path, array in zip(self.paths(number), (image, source.label[box]), strict=True):
            nibabel.save(nibabel.Nifti1Image(array, affine), path)  # type: ignore[no-untyped-call, attr-defined]

    def change_label(self, number: int) -> None:
        """Gives one voxel at a corner of a case another class."""
        path = self.paths(number)[1]
        stored = nibabel.load(path)  # type: ignore[attr-defined]
        label = np.asarray(stored.dataobj).copy()
        label[-1, -1, -1] = 1 if label[-1, -1, -1] != 1 else 2
        nibabel.save(nibabel.Nifti1Image(label, stored.affine), path)  # type: ignore[no-untyped-call, attr-defined]

    def remove(self, number: int) -> None:
        """Takes a case out of the set."""
        for path in self.paths(number):
            path.unlink()


def _load(image: Path, label: Path) -> Source:
    stored = nibabel.load(image)  # type: ignore[attr-defined]
    mask = np.asarray(nibabel.load(label).dataobj)  # type: ignore[attr-defined]
    middle = np.argwhere(mask > 0).mean(axis=0).astype(int)
    return Source(np.asarray(stored.dataobj), mask, stored.affine, middle)
