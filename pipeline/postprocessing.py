"""From what a network gives to the one thing every model returns: a label map and its scored objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import PredictParams
from pipeline.instances import IntegerMap, find_boxes, find_instances, instance_voxels, z_slabs
from pipeline.plan import Plan
from pipeline.postprocessing_rules import Rule, apply_rules
from pipeline.volume import Affine, Instance, Instances, LabelMap, Prediction, voxel_size_mm

Place = tuple[tuple[float, float, float], tuple[tuple[int, ...], tuple[int, ...]]]


def to_prediction(
    winner: NDArray[np.uint8],
    probability: NDArray[np.float32],
    affine: Affine,
    plan: Plan,
    params: PredictParams,
    rules: Sequence[Rule] = (),
) -> Prediction:
    """Makes the connected components of each class objects.

    Args:
        winner: (X, Y, Z) network index of the most probable class.
        probability: (X, Y, Z) of that class. A component is of one class, so its score needs no other.
        affine: (4, 4) of the grid.
        plan: Gives the values of the classes in the data set's own label maps.
        params: Section `predict`: smaller components become background.
        rules: What the model has learned; they come first.

    Returns:
        Label map in the data set's label values; instances with ids by falling score, the mean probability
        of the object's class over its voxels, those of filled holes left out: the network saw another class
        there, background or what an earlier rule took away.
    """
    cleaned = apply_rules(winner, rules, voxel_size_mm(affine, winner.shape)) if rules else winner
    ids = find_instances(cleaned)
    count = int(ids.max(initial=0))
    classes, voxels, sums = np.zeros(count, np.int64), np.zeros(count), np.zeros(count)
    for part in z_slabs(ids.shape):
        inside = (ids[part] > 0) & (winner[part] == cleaned[part])
        objects = ids[part][inside].astype(np.intp) - 1
        classes[objects] = winner[part][inside]
        voxels += np.bincount(objects, minlength=count)
        sums += np.bincount(objects, weights=probability[part][inside], minlength=count)
    del cleaned  # before further maps are made
    return build_prediction(ids, classes, sums / np.maximum(voxels, 1), affine, plan, params, label_score=0.0)


def build_prediction(
    ids: NDArray[np.integer[Any]],
    classes: NDArray[np.integer[Any]],
    scores: NDArray[np.float64],
    affine: Affine,
    plan: Plan,
    params: PredictParams,
    label_score: float,
) -> Prediction:
    """Makes the prediction of painted objects.

    Args:
        ids: (X, Y, Z) from 1; 0 is background. An object may have lost all its voxels.
        classes: (n,) network class index of each id.
        scores: (n,) 0 to 1.
        affine: (4, 4) of the grid.
        plan: Gives the values of the classes in the data set's own label maps.
        params: Section `predict`: smaller objects become background, those with a lower score are not listed.
        label_score: Objects with at least this score make the label map.
    """
    voxels = instance_voxels(ids, len(classes))
    enough = voxels * voxel_size_mm(affine, ids.shape) >= max(params.min_component_mm3, 1e-9)
    listed = np.flatnonzero(enough & (scores >= params.min_score))
    order = listed[np.argsort(-scores[listed], kind="stable")]
    numbers = np.zeros(len(classes) + 1, np.min_scalar_type(max(len(order), 1)))
    numbers[order + 1] = np.arange(1, len(order) + 1)
    values = np.array(plan.label_values)[np.concatenate([[0], classes]).astype(int)]
    values = values.astype(np.min_scalar_type(max(plan.label_values)))
    instances = _look_up(numbers, ids)
    labels, counts = values[order + 1], voxels[order]
    items = tuple(
        Instance(
            id=number,
            label=int(labels[number - 1]),
            score=float(scores[order[number - 1]]),
            voxels=int(counts[number - 1]),
            centroid_mm=centroid,
            box_voxels=box,
        )
        for number, (centroid, box) in enumerate(_place_objects(instances, counts, affine), 1)
    )
    shown = np.concatenate([[True], enough & (scores >= label_score)])
    label_map = _look_up(np.where(shown, values, 0).astype(values.dtype), ids)
    return Prediction(LabelMap(label_map, affine), Instances(instances, affine, items))


def _place_objects(instances: IntegerMap, voxels: NDArray[np.int64], affine: Affine) -> Iterator[Place]:
    """World centre of gravity and half-open box of each of the ids 1..n, all of which occur."""
    sums = np.zeros((len(voxels), 3))
    for part in z_slabs(instances.shape):
        places = np.nonzero(instances[part])
        ids = instances[part][places].astype(np.intp) - 1
        first = (0, 0, part[2].start)
        for axis in range(3):
            sums[:, axis] += np.bincount(ids, weights=places[axis] + first[axis], minlength=len(voxels))
    centres = sums / voxels[:, None] @ affine[:3, :3].T + affine[:3, 3]
    for centre, box in zip(centres.tolist(), find_boxes(instances), strict=True):
        if box is None:
            raise ValueError("an id without a voxel")
        yield tuple(centre), (tuple(p.start for p in box), tuple(p.stop for p in box))


def _look_up(table: NDArray[Any], ids: IntegerMap) -> NDArray[Any]:
    """`table[ids]`, X fastest in memory."""
    found = np.empty(ids.shape, table.dtype, order="F")
    for part in z_slabs(ids.shape):
        found[part] = table[ids[part]]
    return found
