"""From what a network gives to the one thing every model returns: a label map and its scored objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.config import PredictParams
from pipeline.instances import describe_objects, find_instances, instance_labels
from pipeline.plan import Plan
from pipeline.volume import Affine, Instance, Instances, LabelMap, Prediction, voxel_size_mm


def to_prediction(
    probabilities: NDArray[np.float32], affine: Affine, plan: Plan, params: PredictParams
) -> Prediction:
    """Takes the most probable class of each voxel and its connected components as objects.

    Args:
        probabilities: (classes, X, Y, Z).
        affine: (4, 4) of the grid.
        plan: Gives the values of the classes in the data set's own label maps.
        params: Section `predict`: smaller components become background.

    Returns:
        Label map in the data set's label values; instances with ids by falling score, the mean probability
        of the object's class over its voxels.
    """
    winner = probabilities.argmax(axis=0).astype(np.uint8)
    ids = find_instances(winner)
    classes = instance_labels(ids, winner)[1:]
    scores = np.zeros(len(classes))
    for index in np.unique(classes):
        chosen = np.flatnonzero(classes == index)
        scores[chosen] = ndimage.mean(probabilities[index], ids, chosen + 1)
    return build_prediction(ids, classes, scores, affine, plan, params, label_score=0.0)


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
    voxels = np.bincount(ids.ravel(), minlength=len(classes) + 1)[1:]
    enough = voxels * voxel_size_mm(affine, ids.shape) >= max(params.min_component_mm3, 1e-9)
    listed = np.flatnonzero(enough & (scores >= params.min_score))
    order = listed[np.argsort(-scores[listed], kind="stable")]
    numbers = np.zeros(len(classes) + 1, np.min_scalar_type(max(len(order), 1)))
    numbers[order + 1] = np.arange(1, len(order) + 1)
    values = np.array(plan.label_values)[np.concatenate([[0], classes]).astype(int)]
    values = values.astype(np.min_scalar_type(max(plan.label_values)))
    painted = values[ids]  # background is value 0
    shown = np.concatenate([[True], enough & (scores >= label_score)])
    instances = numbers[ids]
    items = tuple(
        Instance(
            id=one.id,
            label=one.label,
            score=float(scores[order[one.id - 1]]),
            voxels=one.voxels,
            centroid_mm=one.centroid_mm,
            box_voxels=one.box_voxels,
        )
        for one in describe_objects(instances, painted, affine)
    )
    label_map = np.where(shown, values, 0).astype(values.dtype)[ids]
    return Prediction(LabelMap(label_map, affine), Instances(instances, affine, items))
