"""From class probabilities to a label map and its objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.plan import Plan
from pipeline.volume import Affine, Instance, Instances, LabelMap, Prediction, voxel_size_mm


def to_prediction(
    probabilities: NDArray[np.float32], affine: Affine, plan: Plan, min_component_mm3: float
) -> Prediction:
    """Takes the most probable class of each voxel and its connected components as instances.

    Args:
        probabilities: (classes, X, Y, Z).
        affine: (4, 4) of the grid.
        plan: Gives the values of the classes in the data set's own label maps.
        min_component_mm3: Smaller components (mm3; in 2D mm2) become background.

    Returns:
        Label map in the data set's label values; instances with ids by falling score, the mean probability
        of the object's class over its voxels.
    """
    winner = probabilities.argmax(axis=0).astype(np.uint8)
    voxel_size = voxel_size_mm(affine, winner.shape)
    labels = np.zeros(winner.shape, np.min_scalar_type(max(plan.label_values)))
    found: list[tuple[float, int, NDArray[Any], tuple[slice, ...]]] = []
    for index in range(1, len(plan.label_values)):
        components, count = ndimage.label(winner == index, np.ones((3, 3, 3)))
        boxes = ndimage.find_objects(components)
        for number in range(1, count + 1):
            box = boxes[number - 1]
            member = components[box] == number
            if member.sum() * voxel_size < min_component_mm3:
                continue
            labels[box][member] = plan.label_values[index]
            score = float(probabilities[index][box][member].mean())
            found.append((score, index, member, box))
    found.sort(key=lambda item: -item[0])
    return Prediction(LabelMap(labels, affine), _number(found, labels.shape, affine, plan))


def _number(
    found: list[tuple[float, int, NDArray[Any], tuple[slice, ...]]],
    shape: tuple[int, ...],
    affine: Affine,
    plan: Plan,
) -> Instances:
    ids = np.zeros(shape, np.min_scalar_type(max(len(found), 1)))
    items = []
    for number, (score, index, member, box) in enumerate(found, 1):
        ids[box][member] = number
        corner = np.array([part.start for part in box])
        centre = affine @ np.append(np.argwhere(member).mean(axis=0) + corner, 1.0)
        items.append(
            Instance(
                id=number,
                label=plan.label_values[index],
                score=score,
                voxels=int(member.sum()),
                centroid_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
                box_voxels=(tuple(p.start for p in box), tuple(p.stop for p in box)),
            )
        )
    return Instances(ids, affine, tuple(items))
