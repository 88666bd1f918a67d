"""Windows, mirrors and the way back to the source grid, with networks whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.errors import SegtrailError
from pipeline.inference import predict_logits, predict_probabilities
from pipeline.plan import ChannelNormalization, Plan
from pipeline.volume import Volume, spacing_mm


def make_plan(patch: tuple[int, int, int], spacing: tuple[float, float, float]) -> Plan:
    return Plan(
        dataset="x", channels=("CT",), label_names=("background", "bright"), label_values=(0, 1),
        dimensions=3, spacing_mm=spacing, patch_size=patch, batch_size=2, strides=((1, 1, 1),),
        kernels=((3, 3, 3),), features=(4,), reasons={}, n_cases=1,
        normalization=(ChannelNormalization(scheme="ct", low=-100, high=100, mean=0, std=100),),
    )  # fmt: skip


def threshold(image: torch.Tensor) -> torch.Tensor:
    """A network that calls bright what is above zero."""
    return torch.cat([-image, image], dim=1) * 10


def rotated_affine() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Left-posterior-superior, turned 20 degrees about the head axis, voxels of 1.5 x 2 x 4 mm."""
    turn = np.deg2rad(20)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.5, -2.0, 4.0])
    affine[:3, 3] = [11, -7, 3]
    return affine


def test_windows_cover_every_voxel_once_weighted() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 23, 17, 9, generator=generator)
    logits = predict_logits(threshold, image, make_plan((8, 8, 8), (1, 1, 1)), 0.5, mirror_axes="")
    torch.testing.assert_close(logits[1], image[0] * 10, rtol=1e-4, atol=1e-4)


def test_mirroring_a_symmetric_network_changes_nothing() -> None:
    image = torch.randn(1, 12, 10, 9, generator=torch.Generator().manual_seed(0))
    plan = make_plan((8, 8, 8), (1, 1, 1))
    plain = predict_logits(threshold, image, plan, 0.5, mirror_axes="")
    torch.testing.assert_close(
        predict_logits(threshold, image, plan, 0.5, mirror_axes="xyz"), plain, rtol=1e-4, atol=1e-4
    )


def test_mirroring_averages_over_all_eight_views() -> None:
    seen = []

    def record(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.clone())
        return threshold(image)

    predict_logits(record, torch.randn(1, 8, 8, 8), make_plan((8, 8, 8), (1, 1, 1)), 0.5, mirror_axes="xyz")
    assert len(seen) == 8
    assert len({float(view[0, 0, 0, 0, 0]) for view in seen}) == 8


@pytest.mark.parametrize("plan_spacing", [(1.5, 2.0, 4.0), (2.0, 2.0, 2.0), (1.0, 3.0, 5.0)])
def test_a_box_comes_back_to_its_place_on_an_oblique_grid(plan_spacing: tuple[float, float, float]) -> None:
    array = np.full((1, 30, 26, 14), -80.0, np.float32)
    array[0, 6:18, 4:16, 3:10] = 80
    volume = Volume(array, rotated_affine())
    assert spacing_mm(volume.affine) == pytest.approx((1.5, 2.0, 4.0))
    probabilities = predict_probabilities(
        threshold, volume, make_plan((16, 16, 16), plan_spacing), 0.5, "", torch.device("cpu"), "case"
    )
    assert probabilities.shape == (2, 30, 26, 14)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-5)
    found, truth = probabilities[1] > 0.5, array[0] > 0
    overlap = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert overlap > (0.999 if plan_spacing == (1.5, 2.0, 4.0) else 0.9)


def test_outside_is_air_for_ct() -> None:
    # A volume smaller than the window: the padding must not look like tissue.
    values = []

    def record(image: torch.Tensor) -> torch.Tensor:
        values.append(float(image[0, 0, 0, 0, 0]))
        return threshold(image)

    predict_logits(record, torch.zeros(1, 4, 4, 4), make_plan((8, 8, 8), (1, 1, 1)), 0.5, mirror_axes="")
    assert values == [pytest.approx(-1.0)]


def test_the_wrong_number_of_channels_is_one_clear_error() -> None:
    volume = Volume(np.zeros((2, 8, 8, 8), np.float32), np.eye(4))
    with pytest.raises(SegtrailError, match=r"2 channel\(s\), the model wants 1: CT"):
        predict_probabilities(
            threshold, volume, make_plan((8, 8, 8), (1, 1, 1)), 0.5, "", torch.device("cpu"), "case"
        )


def test_not_a_number_is_refused() -> None:
    array = np.zeros((1, 8, 8, 8), np.float32)
    array[0, 1, 1, 1] = np.nan
    with pytest.raises(SegtrailError, match="1 voxels are NaN"):
        predict_probabilities(
            threshold, Volume(array, np.eye(4)), make_plan((8, 8, 8), (1, 1, 1)), 0.5, "",
            torch.device("cpu"), "case",
        )  # fmt: skip


def test_mirroring_keeps_to_the_axes_it_is_given() -> None:
    seen = []

    def record(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.clone())
        return threshold(image)

    image = torch.randn(1, 8, 8, 8)
    predict_logits(record, image, make_plan((8, 8, 8), (1, 1, 1)), 0.5, mirror_axes="x")
    assert len(seen) == 2
    assert torch.equal(seen[1], seen[0].flip(2))
