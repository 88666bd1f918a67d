"""Label map and instances of known probabilities."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from pipeline.config import PredictParams
from pipeline.inference_memory import OBJECTS
from pipeline.plan import ChannelNormalization, Plan
from pipeline.postprocessing import build_prediction, to_prediction
from pipeline.postprocessing_rules import Kind, Rule


def settings(min_component_mm3: float = 0.0, min_score: float = 0.0) -> PredictParams:
    return PredictParams(
        overlap=0.5, mirror="none", memory_gb=6.0,
        postprocessing="learned", min_component_mm3=min_component_mm3, min_score=min_score,
        label_score=0.5, duplicate_iou=0.5, link_iou=0.3,
    )  # fmt: skip


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


def winners(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return p.argmax(axis=0).astype(np.uint8), p.max(axis=0)


def test_values_are_those_of_the_data_set(plan: Plan, probabilities: np.ndarray) -> None:  # type: ignore[type-arg]
    prediction = to_prediction(*winners(probabilities), np.eye(4), plan, settings())
    values, counts = np.unique(prediction.label_map.array, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {0: 501, 2: 9, 4: 2}


def test_ids_fall_with_the_score(plan: Plan, probabilities: np.ndarray) -> None:  # type: ignore[type-arg]
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [10, 20, 30]
    instances = to_prediction(*winners(probabilities), affine, plan, settings()).instances
    assert [(i.id, i.label, i.voxels) for i in instances.items] == [(1, 2, 1), (2, 4, 2), (3, 2, 8)]
    assert [i.score for i in instances.items] == pytest.approx([0.9, 0.8, 0.6])
    # Centre of voxels (5, 5, 4) and (5, 5, 5): (5, 5, 4.5) voxels.
    assert instances.items[1].centroid_mm == pytest.approx((20.0, 35.0, 48.0))
    assert instances.items[1].box_voxels == ((5, 5, 4), (6, 6, 6))
    assert instances.array[7, 7, 7] == 1


def test_small_components_go_by_volume_in_mm3(plan: Plan, probabilities: np.ndarray) -> None:  # type: ignore[type-arg]
    # Voxels of 0.5 mm3: 8, 2 and 1 voxels are 4, 1 and 0.5 mm3.
    affine = np.diag([0.5, 1.0, 1.0, 1.0])
    kept = to_prediction(*winners(probabilities), affine, plan, settings(min_component_mm3=1.0))
    assert [i.voxels for i in kept.instances.items] == [2, 8]
    assert int((kept.label_map.array > 0).sum()) == 10


def test_nothing_found(plan: Plan) -> None:
    p = np.zeros((3, 4, 4, 4), np.float32)
    p[0] = 1
    prediction = to_prediction(*winners(p), np.eye(4), plan, settings())
    assert not prediction.label_map.array.any()
    assert prediction.instances.items == ()


@pytest.fixture
def painted() -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Four objects side by side on one slice; nothing is left of the third."""
    ids = np.zeros((8, 4, 1), np.int32)
    ids[0:2, 0:2, 0] = 1
    ids[2:4, 0:1, 0] = 2
    ids[6:8, 0:3, 0] = 4
    return ids


CLASSES, SCORES = np.array([2, 1, 1, 1]), np.array([0.4, 0.7, 0.9, 0.04])


def test_doubtful_objects_are_listed_but_are_not_in_the_label_map(plan: Plan, painted: np.ndarray) -> None:  # type: ignore[type-arg]
    prediction = build_prediction(painted, CLASSES, SCORES, np.eye(4), plan, settings(min_score=0.05), 0.5)
    # Object 2 (edema, 0.7) comes first, then object 1 (core, 0.4); object 4 is below min_score.
    assert [(i.id, i.label, i.score, i.voxels) for i in prediction.instances.items] == [
        (1, 2, 0.7, 2),
        (2, 4, 0.4, 4),
    ]
    assert prediction.instances.items[0].box_voxels == ((2, 0, 0), (4, 1, 1))
    ids, labels = prediction.instances.array, prediction.label_map.array
    assert (ids[2, 0, 0], ids[0, 0, 0], ids[7, 2, 0], ids[5, 0, 0]) == (1, 2, 0, 0)
    assert (labels[2, 0, 0], labels[0, 0, 0], labels[7, 2, 0]) == (2, 0, 0)
    assert int((labels > 0).sum()) == 2


def test_the_label_map_may_be_surer_or_less_sure_than_the_list(plan: Plan, painted: np.ndarray) -> None:  # type: ignore[type-arg]
    everything = build_prediction(painted, CLASSES, SCORES, np.eye(4), plan, settings(min_score=0.5), 0.0)
    assert [i.label for i in everything.instances.items] == [2]
    values, counts = np.unique(everything.label_map.array, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {0: 20, 2: 8, 4: 4}


def test_small_objects_go_from_both_maps_by_mm2_of_an_image(plan: Plan, painted: np.ndarray) -> None:  # type: ignore[type-arg]
    # Pixels of 0.5 mm2 (the thickness of 7 mm does not count): 2, 1 and 3 mm2.
    affine = np.diag([0.5, 1.0, 7.0, 1.0])
    prediction = build_prediction(
        painted, CLASSES, SCORES, affine, plan, settings(min_component_mm3=1.5), 0.0
    )
    assert [i.voxels for i in prediction.instances.items] == [4, 6]
    assert not prediction.label_map.array[2:4].any()


def test_no_object_at_all(plan: Plan) -> None:
    nothing = np.zeros(0, np.int64), np.zeros(0)
    prediction = build_prediction(np.zeros((3, 3, 1), np.int32), *nothing, np.eye(4), plan, settings(), 0.5)
    assert prediction.instances.items == ()
    assert prediction.label_map.array.shape == (3, 3, 1)
    assert not prediction.label_map.array.any()


def test_more_objects_than_eight_bits_count(plan: Plan) -> None:
    ids = np.arange(1, 301, dtype=np.int32).reshape(300, 1, 1)
    scores = np.linspace(0.1, 0.9, 300)
    prediction = build_prediction(ids, np.ones(300, np.int64), scores, np.eye(4), plan, settings(), 0.5)
    # The last one has the best score.
    np.testing.assert_array_equal(prediction.instances.array.ravel(), np.arange(300, 0, -1))


def rule(kind: Kind, index: int, minimum_mm3: float = 0.0) -> Rule:
    return Rule(
        kind=kind, index=index, label="", minimum_mm3=minimum_mm3, dice_before=0, dice_after=1, classes={}, cases=9,
        cases_changed=9,
    )  # fmt: skip


def test_what_a_rule_removes_is_no_instance_either(plan: Plan, probabilities: np.ndarray) -> None:  # type: ignore[type-arg]
    winner, probability = winners(probabilities)
    rules = (rule("largest_component", 1),)
    prediction = to_prediction(winner, probability, np.eye(4), plan, settings(), rules)
    assert [(i.label, i.voxels) for i in prediction.instances.items] == [(4, 2), (2, 8)]
    assert prediction.label_map.array[7, 7, 7] == prediction.instances.array[7, 7, 7] == 0
    assert winner[7, 7, 7] == 1  # the input stays


def test_a_minimum_volume_counts_the_voxels_of_the_source(plan: Plan, probabilities: np.ndarray) -> None:  # type: ignore[type-arg]
    rules = (rule("minimum_volume", 1, 1.5),)
    kept = [
        len(to_prediction(*winners(probabilities), affine, plan, settings(), rules).instances.items)
        for affine in (np.diag([1.0, 1, 1, 1]), np.diag([2.0, 1, 1, 1]))
    ]
    assert kept == [2, 3]


def test_a_filled_hole_belongs_to_its_object_and_says_nothing_of_the_score(plan: Plan) -> None:
    p = np.zeros((3, 5, 5, 5), np.float32)
    p[1, 1:4, 1:4, 1:4] = 0.6
    p[1, 2, 2, 2] = 0.1  # background is surer here
    p[0] = 1 - p[1]
    (item,) = to_prediction(
        *winners(p), np.eye(4), plan, settings(), (rule("fill_holes", 1),)
    ).instances.items
    assert (item.voxels, item.score) == (27, pytest.approx(0.6))


def test_what_stood_in_a_filled_hole_says_nothing_of_its_object(plan: Plan) -> None:
    """A speck of core goes, and the hole that it leaves in the edema is filled: class and score stay the edema's."""
    p = np.zeros((3, 5, 5, 5), np.float32)
    p[1, 1:4, 1:4, 1:4] = 0.6
    p[:, 2, 2, 2] = 0, 0.05, 0.95
    p[0] = 1 - p[1] - p[2]
    rules = (rule("minimum_volume", 2, 2.0), rule("fill_holes", 1))
    (item,) = to_prediction(*winners(p), np.eye(4), plan, settings(), rules).instances.items
    assert (item.label, item.voxels, item.score) == (2, 27, pytest.approx(0.6))


def test_memory_of_finding_objects_is_what_the_estimate_says(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.instances.SLAB", 1 << 16)  # as small beside this map as SLAB is beside a CT
    winner = np.zeros((256, 256, 64), np.uint8, order="F")
    winner[10:-10, 10:-10, 10:-10] = 1
    winner[[0, -1], [0, -1], [0, -1]] = 1  # the box of the class is the whole image
    winner[100:110, 100:110, 30:35] = 0
    probability = np.full(winner.shape, 0.9, np.float32, order="F")
    rules = (rule("largest_foreground", 0), rule("minimum_volume", 1, 5), rule("fill_holes", 1))
    tracemalloc.start()
    to_prediction(winner, probability, np.eye(4), plan, settings(), rules)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak + winner.nbytes + probability.nbytes < OBJECTS * winner.size
