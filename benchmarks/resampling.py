"""How close to nnU-Net's spline of order 3, and how fast, images are resampled; on real images.

    .venv/bin/python benchmarks/resampling.py

First table: in float32, on one thread, from the spacing of the image to 1.5 and 1.2 times it and back. Differences
are means in units of the image's standard deviation: from the original after both ways, where it is brighter than
its median; and from the spline on the coarse grid. Seconds are CPU time, the best of three.

Second table: thick slices. Averages over 5 or 6 planes stand for an anisotropic acquisition; along that axis they are
resampled, and the truth is the average over a slice of the new thickness at the new place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from preset_quality import describe_machine
from scipy import ndimage

from pipeline.resampling import Method, nearest, resample_planes

DATA = Path(__file__).resolve().parents[2] / "shared/data"
REAL = {
    "hippocampus (MR)": "Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz",
    "brain tumour (FLAIR)": "brats_style/TCGA-DU-7294/TCGA-DU-7294_flair.nii.gz",
    "abdomen (CT)": "organs_ct_mr/ct_full/image.nii.gz",
}
FACTORS = (1.5, 1.2)
THICK = ((5, 3), (5, 4), (6, 4))  # planes a slice, before and after
REPEATS = 3
Image = NDArray[np.float32]
Resample = Callable[[Image, tuple[int, ...]], Image]


def spline(image: Image, shape: tuple[int, ...]) -> Image:
    """Order 3 on the same grid of centres, as nnU-Net has it."""
    factors = [new / old for old, new in zip(image.shape, shape, strict=True)]
    found: Image = ndimage.zoom(image, factors, order=3, mode="nearest", grid_mode=True)
    return found


def in_slabs(method: Method) -> Resample:
    """Segtrail's own."""

    def resample(image: Image, shape: tuple[int, ...]) -> Image:
        found = torch.empty(shape)
        resample_planes(lambda wanted: image[wanted], image.shape, found, method)
        return found.numpy()

    return resample


def nearest_planes(image: Image, shape: tuple[int, ...]) -> Image:
    """Order 0 along the first axis."""
    return image[nearest(len(image), shape[0])]


def compare_round_trips(name: str, image: Image) -> None:
    """Prints the rows of one image."""
    methods: dict[str, Resample] = {
        "cubic spline": spline, "cubic convolution": in_slabs("cubic"), "trilinear": in_slabs("linear"),
    }  # fmt: skip
    inside = image > np.percentile(image, 50)
    for factor in FACTORS:
        shape = tuple(max(1, round(n / factor)) for n in image.shape)
        reference, slowest = spline(image, shape), 0.0
        for method, resample in methods.items():
            seconds = []
            for _ in range(REPEATS):
                began = time.process_time()
                coarse = resample(image, shape)
                back = resample(coarse, image.shape)
                seconds.append(time.process_time() - began)
            slowest = slowest or min(seconds)
            lost = np.abs(back - image)[inside].mean() / image.std()
            apart = np.abs(coarse - reference).mean() / image.std()
            print(
                f"| {name} {image.shape} | {factor} | {method} | {lost:.4f} | {apart:.4f} | {min(seconds):.3f} | "
                f"{slowest / min(seconds):.0f} |",
                flush=True,
            )


def compare_thick_slices(name: str, image: Image) -> None:
    """Prints the errors along the axis of thick slices."""
    planes = np.moveaxis(image, 2, 0)
    for old, new in THICK:
        count = len(planes) // old
        fine = planes[: count * old]
        thick = fine.reshape(count, old, *fine.shape[1:]).mean(axis=1)
        shape = (round(len(fine) / new), *fine.shape[1:])
        truth = _averages(fine, shape[0], new)
        inside = truth > np.percentile(truth, 50)
        errors = [
            np.abs(resample(thick, shape) - truth)[inside].mean() / image.std()
            for resample in (nearest_planes, in_slabs("linear"), in_slabs("cubic"))
        ]
        print(
            f"| {name} | {old} to {new} | " + " | ".join(f"{error:.3f}" for error in errors) + " |",
            flush=True,
        )


def _averages(fine: Image, count: int, thickness: float) -> Image:
    """Mean over slices of a thickness, in planes, around `count` centres that are spread over the whole."""
    sums = np.concatenate([np.zeros((1, *fine.shape[1:])), fine.cumsum(axis=0, dtype=np.float64)])
    centres = (np.arange(count) + 0.5) * len(fine) / count
    ends = np.clip([centres - thickness / 2, centres + thickness / 2], 0, len(fine))
    below = np.minimum(ends.astype(int), len(fine) - 1)
    share = (ends - below)[..., None, None]
    low, high = (sums[b] * (1 - s) + sums[b + 1] * s for b, s in zip(below, share, strict=True))
    found: Image = ((high - low) / (ends[1] - ends[0])[:, None, None]).astype(np.float32)
    return found


def main() -> None:
    torch.set_num_threads(1)
    images = {
        name: np.asarray(nibabel.load(DATA / place).dataobj, np.float32) for name, place in REAL.items()
    }  # type: ignore[attr-defined]
    print(f"{describe_machine()}, one thread\n")
    print("| image | coarser by | method | lost there and back | from the spline | s | times faster |")
    print("|---" * 7 + "|")
    for name, image in images.items():
        compare_round_trips(name, image)
    print("\n| image | planes a slice | nearest | linear | cubic convolution |")
    print("|---" * 5 + "|")
    for name, image in list(images.items())[1:]:
        compare_thick_slices(name, image)


if __name__ == "__main__":
    main()
