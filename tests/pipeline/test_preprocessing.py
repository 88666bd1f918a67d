"""Preprocessing by hand, there and back, and on a real case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.io.nifti import load_label_map, load_volume
from pipeline.plan import ChannelNormalization, Plan
from pipeline.preprocessing import (
    foreground_voxels,
    normalize,
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
    scaled = normalize(channel, ChannelNormalization(scheme="zscore"))
    assert scaled.ravel() == pytest.approx((channel.ravel() - 3) / np.sqrt(5))
    ct = normalize(channel, ChannelNormalization(scheme="ct", low=1, high=5, mean=3, std=2))
    assert ct.ravel().tolist() == [-1.0, -0.5, 0.5, 1.0]


def test_a_constant_image_stays_finite() -> None:
    channel = np.full((3, 3, 3), 7, np.float32)
    assert not normalize(channel, ChannelNormalization(scheme="zscore")).any()


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
