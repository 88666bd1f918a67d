"""Slab by slab back to the source grid: the same as the whole volume at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_networks import CPU, HALF, SINGLE, blurred, make_plan, predict, threshold
from torch.nn.functional import interpolate

from pipeline.inference import predict_logits
from pipeline.plan import Plan, RegionPlan
from pipeline.preprocessing import prepare_volume
from pipeline.volume import Volume, from_canonical, reorientation, spacing_mm
from pipeline.windows import Network, Setting, sum_windows


def predict_whole(network: Network, volume: Volume, plan: Plan, mirror: str = "") -> np.ndarray:
    """Probabilities of all classes on the source grid, all at once."""
    logits = predict_logits(network, prepare_volume(volume, plan, "case"), plan, 0.5, mirror)
    axes, _ = reorientation(volume.affine)
    x, y, z = (volume.array.shape[1 + axis] for axis in axes)
    return from_canonical(
        interpolate(logits.softmax(dim=0)[None], (x, y, z), mode="trilinear")[0].numpy(), volume.affine
    )


def rotated_affine() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Left-posterior-superior, turned 20 degrees about the head axis, voxels of 1.5 x 2 x 4 mm."""
    turn = np.deg2rad(20)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.5, -2.0, 4.0])
    affine[:3, 3] = [11, -7, 3]
    return affine


@pytest.mark.parametrize("plan_spacing", [(1.5, 2.0, 4.0), (2.0, 2.0, 2.0), (1.0, 3.0, 5.0)])
def test_a_box_comes_back_to_its_place_on_an_oblique_grid(plan_spacing: tuple[float, float, float]) -> None:
    array = np.full((1, 30, 26, 14), -80.0, np.float32)
    array[0, 6:18, 4:16, 3:10] = 80
    volume = Volume(array, rotated_affine())
    assert spacing_mm(volume.affine) == pytest.approx((1.5, 2.0, 4.0))
    winner, probability = predict(threshold, volume, make_plan((16, 16, 16), plan_spacing))
    assert winner.shape == probability.shape == (30, 26, 14)
    assert probability.min() >= 0.5  # of two classes
    assert probability.max() <= 1 + 1e-6
    found, truth = winner == 1, array[0] > 0
    overlap = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert overlap > (0.999 if plan_spacing == (1.5, 2.0, 4.0) else 0.9)


SHAPES = [
    ((40, 30, 21), (2.0, 3.0, 1.5)),  # coarser and finer
    ((21, 40, 30), (1.5, 2.0, 4.0)),  # the plan's own spacing
    ((30, 21, 45), (0.9, 1.1, 9.0)),
    ((9, 40, 6), (1.5, 2.0, 4.0)),  # smaller than a window
]


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_slabs_say_what_the_whole_volume_says(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    array = np.random.default_rng(0).normal(0, 60, (1, *shape)).astype(np.float32)
    volume, plan = Volume(array, rotated_affine()), make_plan((16, 12, 8), spacing)
    whole = predict_whole(blurred, volume, plan, "xz")
    winner, probability = predict(blurred, volume, plan, "xz")
    two = np.sort(whole, axis=0)[-2:]
    clear = two[1] - two[0] > 1e-5
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(winner[clear], whole.argmax(axis=0)[clear])
    np.testing.assert_allclose(probability, whole.max(axis=0), atol=2e-6)


def test_sums_of_16_bits_differ_only_where_two_classes_are_nearly_equal() -> None:
    array = np.random.default_rng(0).normal(0, 60, (1, 40, 30, 21)).astype(np.float32)
    volume, plan = Volume(array, rotated_affine()), make_plan((16, 12, 8), (1.5, 2.0, 4.0))
    (winner, probability), (other, others) = (
        predict(blurred, volume, plan, setting=s) for s in (SINGLE, HALF)
    )
    assert (winner == other).mean() > 0.998
    np.testing.assert_allclose(others, probability, atol=0.01)


@pytest.mark.parametrize("windows", [1, 3, 5, 100])
def test_windows_at_once_change_nothing(windows: int) -> None:
    array = np.random.default_rng(0).normal(0, 60, (1, 20, 12, 40)).astype(np.float32)
    volume, plan = Volume(array, np.eye(4)), make_plan((12, 12, 8), (1, 1, 1))
    setting = Setting(windows, torch.float32, CPU, CPU)
    np.testing.assert_allclose(
        predict(blurred, volume, plan, setting=setting)[1], predict(blurred, volume, plan)[1], atol=1e-6
    )


@pytest.mark.parametrize(("patch", "overlap"), [((40, 16, 1), 0.5), ((8, 16, 8), 0.0)])
def test_windows_that_do_not_overlap_keep_to_themselves(patch: tuple[int, int, int], overlap: float) -> None:
    """Single slices, and windows side by side: nothing of one slab is left in the next."""
    image = torch.randn(1, 40, 16, 24, generator=torch.Generator().manual_seed(0))
    slabs = sum_windows(lambda windows: windows.clone(), image, patch, overlap, SINGLE)
    for slab in slabs:
        planes = image.narrow(slab.axis + 1, slab.first, slab.logits.shape[slab.axis + 1])
        torch.testing.assert_close(slab.logits, planes)


def test_an_image_of_one_slice_is_predicted_as_it_is() -> None:
    array = np.random.default_rng(0).normal(0, 60, (1, 50, 40, 1)).astype(np.float32)
    volume, plan = Volume(array, np.eye(4)), make_plan((16, 16, 1), (1, 1, 1))
    np.testing.assert_array_equal(predict(threshold, volume, plan)[0], array[0] > 0)


NESTED = (
    RegionPlan(name="whole", labels=(1, 2), paint=1),
    RegionPlan(name="core", labels=(2,), paint=2),
)


def two_thresholds(image: torch.Tensor) -> torch.Tensor:
    """A network that calls whole what is above zero, core what is above one half."""
    return torch.cat([image, image - 0.5], dim=1) * 4


@pytest.mark.parametrize("plan_spacing", [(1.5, 2.0, 4.0), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize("setting", [SINGLE, HALF])
def test_regions_slab_by_slab_are_those_of_the_whole_volume(
    plan_spacing: tuple[float, float, float], setting: Setting
) -> None:
    array = np.random.default_rng(5).normal(0, 60, (1, 33, 29, 17)).astype(np.float32)
    volume = Volume(array, rotated_affine())
    plan = make_plan((16, 16, 16), plan_spacing).model_copy(
        update={
            "regions": NESTED,
            "label_names": ("background", "edema", "core"),
            "label_values": (0, 1, 2),
        }
    )
    winner, probability = predict(two_thresholds, volume, plan, setting=setting)
    logits = predict_logits(two_thresholds, prepare_volume(volume, plan, "case"), plan, 0.5, "")
    axes, _ = reorientation(volume.affine)
    x, y, z = (volume.array.shape[1 + axis] for axis in axes)
    resampled = interpolate(logits.sigmoid()[None], (x, y, z), mode="trilinear")[0].numpy()
    whole, core = from_canonical(resampled, volume.affine)
    sure = (np.abs(whole - 0.5) > 0.01) & (np.abs(core - 0.5) > 0.01)  # rounding apart
    assert sure.mean() > 0.9
    expected = np.where(core > 0.5, 2, np.where(whole > 0.5, 1, 0))
    np.testing.assert_array_equal(winner[sure], expected[sure])
    assert all((winner == index).mean() > 0.05 for index in range(3))
    shares = np.where(core > 0.5, core, np.where(whole > 0.5, whole, 1 - np.maximum(whole, core)))
    np.testing.assert_allclose(probability[sure], shares[sure], atol=0.01)
