"""Which objects of one case were found, missed or invented: what an overlay shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.instance_overlaps import mask_overlaps
from pipeline.instances import find_boxes, instance_labels
from pipeline.matching import PICTURE_IOU, VOLUME_IOU, Detections, match
from pipeline.prediction_files import in_label_map
from pipeline.volume import LabelMap, Prediction

IdMap = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ObjectStates:
    """The objects of one side.

    Attributes:
        ids: (X, Y, Z) instance map.
        found: Ids with a partner on the other side.
        scores: By id; empty for a reference.
    """

    ids: IdMap
    found: frozenset[int]
    scores: Mapping[int, float] = field(default_factory=dict)

    @property
    def present(self) -> set[int]:
        """Ids that occur in the map."""
        return {number for number, box in enumerate(find_boxes(self.ids), 1) if box is not None}


def judge_objects(
    reference: LabelMap, reference_ids: IdMap, prediction: Prediction
) -> tuple[ObjectStates, ObjectStates]:
    """Pairs the objects that stand in the predicted label map with those of the reference.

    Pairs have one class and an intersection over union of at least 0.5 in pictures and 0.1 in volumes; the
    best score chooses first.

    Args:
        reference: Classes.
        reference_ids: (X, Y, Z) instance map on the same grid.
        prediction: On the same grid.

    Returns:
        The reference, and the prediction without the objects that its label map leaves out.
    """
    iou = PICTURE_IOU if reference_ids.shape[2] == 1 else VOLUME_IOU
    items = [i for i, keep in zip(prediction.instances.items, in_label_map(prediction), strict=True) if keep]
    classes = instance_labels(reference_ids, reference.array)
    shown = np.zeros(int(prediction.instances.array.max(initial=0)) + 1, prediction.instances.array.dtype)
    shown[[item.id for item in items]] = [item.id for item in items]
    predicted_ids = shown[prediction.instances.array]
    right, found = set[int](), set[int]()
    for value in np.unique(classes[classes > 0]).tolist():
        same = [item for item in items if item.label == value]
        keep = np.flatnonzero(classes == value)
        overlaps, *sizes = mask_overlaps(predicted_ids, reference_ids, [item.id for item in same], keep)
        scores = np.array([item.score for item in same], dtype=np.float64)
        matches = match(Detections("", "", scores, overlaps, *sizes), np.array([iou]), len(same))
        for index, partner in zip(matches.predictions.tolist(), matches.partners[0].tolist(), strict=True):
            if partner >= 0:
                right.add(same[index].id)
                found.add(int(keep[partner]))
    scores_by_id = {item.id: item.score for item in items}
    return ObjectStates(reference_ids, frozenset(found)), ObjectStates(
        predicted_ids, frozenset(right), scores_by_id
    )
