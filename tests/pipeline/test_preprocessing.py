"""Preprocessing by hand, there and back, and on a real case."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn.functional import interpolate

from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.io.images import load_label_map, load_volume
from pipeline.normalization import nonzero_mask, normalize, with_own_scale
from pipeline.phantom import make_case
from pipeline.plan import ChannelNormalization, Plan
from pipeline.preprocessing import (
    foreground_voxels,
    prepare_instances,
    prepare_label_map,
    prepare_volume,
    target_shape,
)
from pipeline.volume import LabelMap, Volume


def make_plan(spacing: tuple[float, float, float], values: tuple[int, ...] = (0, 1)) -> Plan:
    return Plan(
        dataset="x", channels=("MRI",), label_names=tuple(f"c{v}" for v in values), label_values=values,
        dimensions=3, spacing_mm=spacing, patch_size=(8, 8, 8), batch_size=2, strides=((1, 1, 1),),
        kernels=((3, 3, 3),), features=(4,), reasons={}, n_cases=1,
        normalization=(ChannelNormalization(scheme="zscore"),),
    )  # fmt: skip


def test_target_shape_by_hand() -> None:
    # 100 x 60 x 10 voxels of 1 x 2 x 5 mm on 2 mm: 50 x 60 x 25.
    assert target_shape((100, 60, 10), (1, 2, 5), make_plan((2, 2, 2))) == (50, 60, 25)
    assert target_shape((1, 1, 1), (0.1, 0.1, 0.1), make_plan((2, 2, 2))) == (1, 1, 1)


def test_zscore_and_ct_by_hand() -> None:
    channel = np.array([0.0, 2.0, 4.0, 6.0], np.float32).reshape(4, 1, 1)
    own = with_own_scale(channel, ChannelNormalization(scheme="zscore"))
    assert (own.mean, own.std) == pytest.approx((3, np.sqrt(5)))
    scaled = normalize(channel.copy(), own)
    assert scaled.ravel() == pytest.approx((channel.ravel() - 3) / np.sqrt(5))
    ct = normalize(channel, ChannelNormalization(scheme="ct", low=1, high=5, mean=3, std=2))
    assert ct.ravel().tolist() == [-1.0, -0.5, 0.5, 1.0]


def test_a_window_by_hand() -> None:
    """-300 HU is 900 of 1800 HU above -1200; air below and metal above are clipped."""
    channel = np.array([-2000, -1200, -300, 600, 3000], np.float32).reshape(5, 1, 1)
    scaled = normalize(channel, ChannelNormalization(scheme="window", low=-1200, high=600))
    assert scaled.ravel().tolist() == [0, 0, 0.5, 1, 1]
    assert scaled.dtype == np.float32


def test_a_constant_image_stays_finite() -> None:
    channel = np.full((3, 3, 3), 7, np.float32)
    own = with_own_scale(channel, ChannelNormalization(scheme="zscore"))
    assert not normalize(channel, own).any()


def test_a_zscore_inside_the_mask_by_hand() -> None:
    """A head of 1, 0, 5 in air: the 0 inside is a hole, so mean 2 and variance (1 + 4 + 9) / 3; air stays 0."""
    channel = np.zeros((5, 3, 3), np.float32)
    channel[1:4] = 1
    channel[2, 1, 1] = 0
    mask = nonzero_mask(channel[None])
    assert mask.sum() == 27
    assert mask[2, 1, 1]
    values = np.array([0, 0, 1, 0, 5, 0, 0], np.float32).reshape(7, 1, 1)
    inside = np.array([0, 0, 1, 1, 1, 0, 0], bool).reshape(7, 1, 1)
    own = with_own_scale(values, ChannelNormalization(scheme="zscore", nonzero_mask=True), inside)
    assert (own.mean, own.std**2) == pytest.approx((2, 14 / 3))
    scaled = normalize(values, own, inside).ravel()
    assert scaled == pytest.approx(np.array([0, 0, -1, -2, 3, 0, 0]) / np.sqrt(14 / 3))


def test_the_mask_is_that_of_all_channels_together() -> None:
    array = np.zeros((2, 4, 1, 1), np.int16)
    array[0, 1], array[1, 2] = -5, 3
    assert nonzero_mask(array).ravel().tolist() == [False, True, True, False]
    assert not nonzero_mask(array * 0).any()
    plan = make_plan((1, 1, 1)).model_copy(
        update={
            "channels": ("a", "b"),
            "normalization": (ChannelNormalization(scheme="zscore", nonzero_mask=True),) * 2,
        }
    )
    found = prepare_volume(Volume(array, np.eye(4)), plan, "case").numpy().reshape(2, 4)
    np.testing.assert_allclose(found, [[0, -1, 1, 0], [0, -1, 1, 0]], atol=1e-6)
    np.testing.assert_array_equal(array[0].ravel(), [0, -5, 0, 0])


@pytest.mark.parametrize(
    ("how", "low", "high"),
    [
        (ChannelNormalization(scheme="window", low=-1000, high=400), 0.0, 1.0),
        (ChannelNormalization(scheme="ct", low=-900, high=300, mean=100, std=200), -5.0, 1.0),
    ],
)
def test_what_a_scheme_clips_to_holds_after_cubic_resampling(
    how: ChannelNormalization, low: float, high: float
) -> None:
    array = np.full((1, 8, 8, 8), -1000, np.int16)
    array[:, 4:] = 1000
    plan = make_plan((0.7, 0.7, 0.7)).model_copy(update={"normalization": (how,), "resampling": "cubic"})
    found = prepare_volume(Volume(array, np.eye(4)), plan, "case")
    assert (float(found.min()), float(found.max())) == (low, high)
    own = plan.model_copy(update={"normalization": (ChannelNormalization(scheme="zscore"),)})
    free = prepare_volume(Volume(array, np.eye(4)), own, "case")  # -1 and 1, and what lies beyond
    assert float(free.max()) > 1.03


def test_the_plan_says_how_images_are_resampled() -> None:
    array = np.float32([0, 0, 4, 4]).reshape(1, 4, 1, 1)
    flat = ChannelNormalization(scheme="window", low=0, high=4)
    plan = make_plan((0.5, 1, 1)).model_copy(update={"normalization": (flat,)})
    assert plan.resampling == "linear"  # a plan without the line
    found = prepare_volume(Volume(array, np.eye(4)), plan, "case").ravel().tolist()
    assert found == pytest.approx([0, 0, 0, 0.25, 0.75, 1, 1, 1])
    cubic = plan.model_copy(update={"resampling": "cubic"})
    found = prepare_volume(Volume(array, np.eye(4)), cubic, "case").ravel().tolist()
    # A quarter beside the step: (67 - 9) / 256; the overshoot, 9 / 256 and 27 / 256 below 0 and above 1, is clipped.
    assert found == pytest.approx([0, 0, 0, 58 / 256, 198 / 256, 1, 1, 1])


def test_axes_are_brought_to_ras() -> None:
    array = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    prepared = prepare_volume(Volume(array, lps), make_plan((1, 1, 1)), "case").numpy()
    straight = prepare_volume(Volume(array, np.eye(4)), make_plan((1, 1, 1)), "case").numpy()
    np.testing.assert_array_equal(prepared, straight[:, ::-1, ::-1, :])


def test_source_values_become_indices() -> None:
    array = np.array([0, 1, 2, 4], np.uint8).reshape(4, 1, 1)
    label = prepare_label_map(LabelMap(array, np.eye(4)), make_plan((1, 1, 1), (0, 1, 2, 4)))
    assert label.ravel().tolist() == [0, 1, 2, 3]


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.sampled_from([0.5, 0.7, 1.0])] * 3), st.integers(0, 1000))
def test_a_label_keeps_its_volume_on_a_finer_grid(spacing: tuple[float, float, float], seed: int) -> None:
    generator = np.random.default_rng(seed)
    array = np.zeros((16, 16, 16), np.uint8)
    x, y, z = generator.integers(0, 8, 3)
    array[x : x + 8, y : y + 8, z : z + 8] = 1
    label = prepare_label_map(LabelMap(array, np.eye(4)), make_plan(spacing))
    assert int(label.sum()) * np.prod(spacing) == pytest.approx(512, rel=0.2)


def line(*values: int) -> np.ndarray:
    return np.array(values).reshape(-1, 1, 1)


def objects_of(
    label: np.ndarray, ids: np.ndarray | None, plan: Plan, affine: np.ndarray | None = None
) -> tuple[list[int], list[int]]:
    """Ids along the line and class by id."""
    reference = LabelMap(label, np.eye(4) if affine is None else affine)
    instances, labels = prepare_instances(reference, ids, plan, "case (file)")
    assert (instances.dtype, labels.dtype) == (np.uint16, np.uint8)
    return instances.ravel().tolist(), labels.tolist()


def test_ids_are_numbered_anew_with_the_network_index_of_their_class() -> None:
    plan = make_plan((1, 1, 1), (0, 2, 7))
    found = objects_of(line(0, 7, 7, 2, 2, 0), line(0, 900, 900, 4, 4, 0), plan)
    assert found == ([0, 2, 2, 1, 1, 0], [0, 1, 2])


def test_the_voxel_at_the_new_centre_is_taken_and_lost_objects_leave_no_gap(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 2 mm the centres lie on the edges after voxels 1, 3, 5: the upper neighbours 1, 3, 5 are taken."""
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    caplog.set_level(logging.DEBUG, "segtrail")
    ids = line(1, 0, 2, 3, 3, 8)
    found = objects_of(np.where(ids > 0, 1, 0), ids, make_plan((2, 1, 1)))
    assert found == ([0, 1, 2], [0, 1, 1])
    assert "case (file): 2 of 4 objects" in caplog.text


def test_on_a_finer_grid_each_voxel_is_repeated() -> None:
    ids = line(0, 3, 5)
    found = objects_of(np.where(ids > 0, 1, 0), ids, make_plan((0.5, 1, 1)))
    assert found == ([0, 0, 1, 1, 2, 2], [0, 1, 1])


def test_an_object_on_background_alone_is_left_out() -> None:
    assert objects_of(line(1, 0, 0, 1), line(1, 2, 2, 3), make_plan((1, 1, 1))) == ([1, 0, 0, 2], [0, 1, 1])


def test_without_an_instance_map_components_are_the_objects() -> None:
    """Two pieces of class 1; the one of class 2 touches, and is another object all the same."""
    found = objects_of(line(1, 1, 2, 0, 1), None, make_plan((1, 1, 1), (0, 1, 2)))
    assert found == ([1, 1, 3, 0, 2], [0, 1, 1, 2])


def test_components_are_found_before_a_coarser_grid_joins_them() -> None:
    """Two objects, one voxel apart, of which a grid of 3 mm shows no gap."""
    assert objects_of(line(1, 1, 1, 0, 1, 1), None, make_plan((3, 1, 1))) == ([1, 2], [0, 1, 1])


def test_a_case_without_any_object() -> None:
    empty = np.zeros((4, 4, 4), np.uint8)
    for ids in (None, empty):
        instances, labels = prepare_instances(LabelMap(empty, np.eye(4)), ids, make_plan((2, 2, 2)), "case")
        assert instances.shape == (2, 2, 2)
        assert (instances.max(), labels.tolist()) == (0, [0])


def test_instances_are_brought_to_ras_like_their_image() -> None:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    assert objects_of(line(1, 0, 1), line(2, 0, 1), make_plan((1, 1, 1)), lps) == ([1, 0, 2], [0, 1, 1])


def test_more_objects_than_ids_is_an_error() -> None:
    label = np.zeros((512, 512, 1), np.uint8)
    label[::2, ::2] = 1
    with pytest.raises(SegtrailError, match=r"65536 objects, at most 65535[\s\S]*case \(file\)"):
        prepare_instances(LabelMap(label, np.eye(4)), None, make_plan((1, 1, 1)), "case (file)")


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.sampled_from([0.37, 0.5, 1.0, 1.3, 2.0, 4.0])] * 3),
)
def test_nearest_neighbour_is_that_of_torch(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    ids = np.arange(1, np.prod(shape) + 1).reshape(shape)
    label = LabelMap(np.ones(shape, np.uint8), np.eye(4))
    plan = make_plan(spacing)
    found, labels = prepare_instances(label, ids, plan, "case")
    size = target_shape(shape, (1, 1, 1), plan)
    expected = interpolate(torch.from_numpy(ids)[None, None].double(), size=size, mode="nearest-exact")[0, 0]
    _, numbered = np.unique(expected.numpy(), return_inverse=True)
    np.testing.assert_array_equal(found, numbered.reshape(size) + 1)
    assert labels.tolist() == [0] + [1] * int(found.max())


@pytest.mark.parametrize("spacing", [0.5, 3.0])
def test_image_label_and_instances_stay_in_place_together(spacing: float) -> None:
    """A bright ball: its centre of gravity in all three, in mm of the source; half a new voxel would be 0.25 or 1.5."""
    ball = ((np.indices((36, 30, 24)).T - [19, 16, 10]) ** 2).sum(axis=-1).T <= 8**2
    plan = make_plan((spacing, spacing, spacing))
    image = prepare_volume(Volume(ball[None].astype(np.float32), np.eye(4)), plan, "case").numpy()[0]
    reference = LabelMap(ball.astype(np.uint8), np.eye(4))
    instances, _ = prepare_instances(reference, None, plan, "case")
    for found in (image - image.min(), prepare_label_map(reference, plan), instances):
        centre = (np.array(ndimage.center_of_mass(found)) + 0.5) * spacing - 0.5
        assert centre == pytest.approx([19, 16, 10], abs=0.1)


def test_nodules_of_the_phantom_keep_their_volume() -> None:
    case = make_case(load_params().phantom, 0)
    voxel = abs(np.linalg.det(case.volume.affine[:3, :3]))
    plan = make_plan((1.5, 1.5, 1.5))
    instances, labels = prepare_instances(case.label_map, case.instances.array, plan, "case")
    before = np.bincount(case.instances.array.ravel())[1:] * voxel
    after = np.bincount(instances.ravel())[1:] * 1.5**3
    assert labels.tolist() == [0] + [1] * len(before)
    assert after[before > 500] == pytest.approx(before[before > 500], rel=0.1)


def test_foreground_positions_carry_their_class_and_repeat() -> None:
    label = np.zeros((10, 10, 10), np.uint8)
    label[2:8, 2:8, 2:8] = 1
    label[9, 9, 9] = 2
    rows = foreground_voxels(label, 3, 50, seed=4)
    assert (rows[:, 0] == 1).sum() == 50
    assert rows[rows[:, 0] == 2].tolist() == [[2, 9, 9, 9]]
    assert all(label[tuple(row[1:])] == row[0] for row in rows)
    np.testing.assert_array_equal(rows, foreground_voxels(label, 3, 50, seed=4))


def test_a_real_case_keeps_its_labels(shared_data: Path) -> None:
    folder = shared_data / "Task04_Hippocampus"
    volume = load_volume([folder / "imagesTr" / "hippocampus_001.nii.gz"])
    reference = load_label_map(folder / "labelsTr" / "hippocampus_001.nii.gz")
    plan = make_plan((1, 1, 1), (0, 1, 2))
    image, label = prepare_volume(volume, plan, "hippocampus_001"), prepare_label_map(reference, plan)
    assert tuple(image.shape[1:]) == label.shape == reference.array.shape
    assert float(image.mean()) == pytest.approx(0, abs=1e-4)
    assert float(image.std()) == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(np.bincount(label.ravel()), np.bincount(reference.array.ravel()))
