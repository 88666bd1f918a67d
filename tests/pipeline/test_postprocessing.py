"""Label map and instances of known probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.plan import ChannelNormalization, Plan
from pipeline.postprocessing import to_prediction


@pytest.fixture
def plan() -> Plan:
    return Plan(
        dataset="x", channels=("MRI",), label_names=("background", "edema", "core"), label_values=(0, 2, 4),
        dimensions=3, spacing_mm=(1, 1, 1), patch_size=(8, 8, 8), batch_size=2, strides=((1, 1, 1),),
        kernels=((3, 3, 3),), features=(4,), reasons={}, n_cases=1,
        normalization=(ChannelNormalization(scheme="zscore"),),
    )  # fmt: skip


@pytest.fixture
def probabilities() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """An edema of 8 voxels at 0.6, one of 1 voxel at 0.9, a core of 2 voxels at 0.8."""
    p = np.zeros((3, 8, 8, 8), np.float32)
    p[1, 0:2, 0:2, 0:2] = 0.6
    p[1, 7, 7, 7] = 0.9
    p[2, 5, 5, 4:6] = 0.8
    p[0] = 1 - p[1] - p[2]
    return p


def test_values_are_those_of_the_data_set(plan: Plan, probabilities: np.ndarray) -> None:  # type: ignore[type-arg]
    prediction = to_prediction(probabilities, np.eye(4), plan, 0.0)
    values, counts = np.unique(prediction.label_map.array, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {0: 501, 2: 9, 4: 2}


def test_ids_fall_with_the_score(plan: Plan, probabilities: np.ndarray) -> None:  # type: ignore[type-arg]
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [10, 20, 30]
    instances = to_prediction(probabilities, affine, plan, 0.0).instances
    assert [(i.id, i.label, i.voxels) for i in instances.items] == [(1, 2, 1), (2, 4, 2), (3, 2, 8)]
    assert [i.score for i in instances.items] == pytest.approx([0.9, 0.8, 0.6])
    # Centre of voxels (5, 5, 4) and (5, 5, 5): (5, 5, 4.5) voxels.
    assert instances.items[1].centroid_mm == pytest.approx((20.0, 35.0, 48.0))
    assert instances.items[1].box_voxels == ((5, 5, 4), (6, 6, 6))
    assert instances.array[7, 7, 7] == 1


def test_small_components_go_by_volume_in_mm3(plan: Plan, probabilities: np.ndarray) -> None:  # type: ignore[type-arg]
    # Voxels of 0.5 mm3: 8, 2 and 1 voxels are 4, 1 and 0.5 mm3.
    affine = np.diag([0.5, 1.0, 1.0, 1.0])
    kept = to_prediction(probabilities, affine, plan, 1.0)
    assert [i.voxels for i in kept.instances.items] == [2, 8]
    assert int((kept.label_map.array > 0).sum()) == 10


def test_nothing_found(plan: Plan) -> None:
    p = np.zeros((3, 4, 4, 4), np.float32)
    p[0] = 1
    prediction = to_prediction(p, np.eye(4), plan, 0.0)
    assert not prediction.label_map.array.any()
    assert prediction.instances.items == ()
