"""Metrics of a mask pair on real data, against MONAI, SimpleITK and surface-distance."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from pipeline import metrics
from pipeline.metrics import Mask

Pair = tuple[str, Mask, Mask, tuple[float, ...]]  # name, reference, prediction, spacing


def _load(path: Path) -> tuple[NDArray[Any], tuple[float, ...]]:
    import nibabel as nib

    image = nib.load(path)
    return np.asarray(image.dataobj), tuple(float(z) for z in image.header.get_zooms()[:3])


def _hippocampus_pairs(data: Path) -> list[Pair]:
    """Reference and perturbed copies: moved, grown, shrunk, with a far false spot; anisotropic on purpose."""
    pairs: list[Pair] = []
    for case in ("hippocampus_001", "hippocampus_003"):
        labels, _ = _load(data / "Task04_Hippocampus/labelsTr" / f"{case}.nii.gz")
        for value in (1, 2):
            reference = labels == value
            spotted = np.roll(reference, 1, axis=0)
            spotted[:2, :2, :2] = True
            changed = {
                "moved": np.roll(reference, (2, -1), axis=(0, 2)),
                "grown": ndimage.binary_dilation(reference),
                "shrunk": ndimage.binary_erosion(reference),
                "spotted": spotted,
            }
            pairs += [(f"{case} {value} {n}", reference, m, (1.0, 0.8, 1.7)) for n, m in changed.items()]
    return pairs


def _spine_pairs(data: Path) -> list[Pair]:
    """Vertebrae of a real prediction, 0.59 x 0.59 x 3.3 mm."""
    folder = data / "spine_instances/semantic"
    (reference, spacing), (prediction, _) = _load(folder / "ref.nii.gz"), _load(folder / "pred.nii.gz")
    return [(f"spine {v}", reference == v, prediction == v, spacing) for v in (41, 49, 60)]


@cache
def _real_pairs(data: Path) -> list[Pair]:
    return _hippocampus_pairs(data) + _spine_pairs(data)


@pytest.fixture
def real_pairs(shared_data: Path) -> list[Pair]:
    return _real_pairs(shared_data)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_surface_metrics_equal_monai(real_pairs: list[Pair]) -> None:
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    for name, reference, prediction, spacing in real_pairs:
        distances = metrics.surface_distances(reference, prediction, spacing)
        pair = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]
        keys: dict[str, Any] = {"include_background": True, "spacing": spacing}
        hd95 = compute_hausdorff_distance(*pair, percentile=95, **keys).item()
        assd = compute_average_surface_distance(*pair, symmetric=True, **keys).item()
        surface_dice = compute_surface_dice(*pair, class_thresholds=[1.5], **keys).item()
        assert metrics.hd95_mm(distances) == pytest.approx(hd95, rel=1e-5, abs=1e-6), name
        assert metrics.assd_mm(distances) == pytest.approx(assd, rel=1e-5, abs=1e-6), name
        assert metrics.surface_dice(distances, 1.5) == pytest.approx(surface_dice, rel=1e-5), name


def test_overlaps_equal_simpleitk(real_pairs: list[Pair]) -> None:
    import SimpleITK

    for name, reference, prediction, _ in real_pairs:
        counts = metrics.count_voxels(reference, prediction)
        measures = SimpleITK.LabelOverlapMeasuresImageFilter()
        # source, target: the target is the reference
        measures.Execute(*(SimpleITK.GetImageFromArray(m.astype(np.uint8)) for m in (prediction, reference)))
        expected = {
            "dice": measures.GetDiceCoefficient(1),
            "jaccard": measures.GetJaccardCoefficient(1),
            "precision": 1 - measures.GetFalseDiscoveryRate(1),
            "recall": 1 - measures.GetFalseNegativeError(1),
            "specificity": 1 - measures.GetFalsePositiveError(1),
        }
        assert {k: getattr(metrics, k)(counts) for k in expected} == pytest.approx(expected, rel=1e-9), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_surface_metrics_agree_with_surface_distance(
    real_pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    # That package puts the surface on the corners between voxels and weighs by area: the same quantity on
    # another discretisation. Allowed: one voxel diagonal for HD95, half the largest spacing for ASSD, 0.2 for
    # the surface Dice at 3 mm (0.01 but for "spine 60", a canal that is half missing, on 3.3 mm slices).
    import surface_distance

    monkeypatch.setattr(np, "Inf", np.inf, raising=False)  # it was written for NumPy 1
    for name, reference, prediction, spacing in real_pairs:
        distances = metrics.surface_distances(reference, prediction, spacing)
        theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)
        hd95 = surface_distance.compute_robust_hausdorff(theirs, 95)
        both = np.concatenate([theirs["distances_gt_to_pred"], theirs["distances_pred_to_gt"]])
        areas = np.concatenate([theirs["surfel_areas_gt"], theirs["surfel_areas_pred"]])
        surface_dice = surface_distance.compute_surface_dice_at_tolerance(theirs, 3.0)
        assert metrics.hd95_mm(distances) == pytest.approx(hd95, abs=math.hypot(*spacing)), name
        assert metrics.assd_mm(distances) == pytest.approx(
            np.average(both, weights=areas), abs=max(spacing) / 2
        ), name
        assert metrics.surface_dice(distances, 3.0) == pytest.approx(
            surface_dice, abs=0.2 if name == "spine 60" else 0.01
        ), name
