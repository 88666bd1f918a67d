"""Objects of one case, by class, as the detection metrics need them; and the metrics of that case alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detection import average_precision, average_recall
from pipeline.froc import Marks, froc, sensitivity_at
from pipeline.instance_overlaps import box_overlaps, mask_overlaps
from pipeline.instances import find_boxes, find_instances, instance_labels
from pipeline.matching import IOU_10_50, IOU_50_95, Detections, match
from pipeline.objects import ObjectRow
from pipeline.panoptic import DSB_THRESHOLDS, PanopticQuality, dsb_ap, panoptic_quality
from pipeline.prediction_files import in_label_map
from pipeline.volume import Affine, Instance, LabelMap, Prediction, voxel_size_mm

Values = NDArray[np.float64]
IdMap = NDArray[np.integer[Any]]

IOUS: Values = np.concatenate([IOU_10_50, IOU_50_95[1:]])  # .10:.05:.95
KINDS = ("mask", "box")
RECALL_DETECTIONS = 100
# Names of average precision, each the mean over a part of `IOUS`.
AP_PARTS: Mapping[str, NDArray[np.intp]] = {
    "map_50_95": np.arange(8, 18),
    "map_50": np.array([8]),
    "map_75": np.array([13]),
    "map_10_50": np.arange(9),
}
FROC_NAMES = ("froc_0125", "froc_025", "froc_05", "froc_1", "froc_2", "froc_4", "froc_8")
PANOPTIC_NAMES = ("panoptic_quality", "segmentation_quality", "recognition_quality")
DSB_NAMES = ("ap_dsb", "ap_dsb_50", "ap_dsb_75")
COLUMNS = (
    *(f"{kind}_{name}" for kind in KINDS for name in (*AP_PARTS, "mar_100")),
    *DSB_NAMES,
    *PANOPTIC_NAMES,
)
VOLUME_COLUMNS = (*COLUMNS, "cpm", *FROC_NAMES)


@dataclass(frozen=True)
class ReferenceObjects:
    """The reference of one case.

    Attributes:
        label_map: Classes.
        ids: (X, Y, Z) instance map on the same grid; None = connected components of each class.
        rows: Rows of the case in the table of objects: centres, diameters and ignored findings for FROC.
    """

    label_map: LabelMap
    ids: IdMap | None
    rows: Sequence[ObjectRow]


@dataclass(frozen=True)
class ClassObjects:
    """One class of one case.

    Attributes:
        detections: Predicted and reference objects, by kind ("mask", "box").
        dsb: (10,) TP / (TP + FP + FN) at `DSB_THRESHOLDS`, of the objects in the predicted label map.
        panoptic: Of the same objects.
        marks: For FROC; None in a set of pictures.
    """

    case_id: str
    patient_id: str
    label: str
    detections: Mapping[str, Detections]
    dsb: Values
    panoptic: PanopticQuality
    marks: Marks | None


def collect_objects(
    reference: ReferenceObjects,
    prediction: Prediction,
    labels: Mapping[str, int],
    case_id: str,
    patient_id: str,
    flat: bool,
) -> list[ClassObjects]:
    """Compares the objects of one case, class by class.

    The size of an object, by which small and large ones are told apart, is that of its mask: pixels of a
    picture, in a volume the diameter in mm of the sphere of equal volume. As in COCO, a predicted box of a
    picture has the size of the box.

    Args:
        reference: Of the case.
        prediction: Masks of instances do not overlap.
        labels: Value of each foreground class, by name.
        case_id: Of the record.
        patient_id: Of the record.
        flat: Whether the set is one of pictures; a single slice among volumes is a volume too.

    Raises:
        SegtrailError: The maps do not have one shape.
    """
    truth = reference.label_map.array
    ids = find_instances(truth) if reference.ids is None else reference.ids
    classes = instance_labels(ids, truth)
    boxes = [_corners(part) for part in (find_boxes(ids), find_boxes(prediction.instances.array))]
    counted = in_label_map(prediction)
    found = []
    for name, value in labels.items():
        keep = [number for number in np.flatnonzero(classes == value).tolist() if number in boxes[0]]
        chosen = np.array([item.label == value for item in prediction.instances.items], dtype=np.bool_)
        items = [item for item, one in zip(prediction.instances.items, chosen, strict=True) if one]
        detections = _compare(
            ids, keep, prediction.instances.array, items, boxes, reference, case_id, patient_id, flat
        )
        overlaps = detections["mask"].overlaps[np.flatnonzero(counted[chosen])]
        rows = [row for row in reference.rows if row.label == name]
        found.append(
            ClassObjects(
                case_id=case_id,
                patient_id=patient_id,
                label=name,
                detections=detections,
                dsb=dsb_ap(overlaps, *overlaps.shape),
                panoptic=panoptic_quality(overlaps, *overlaps.shape),
                marks=None if flat else _marks(rows, items, case_id, patient_id),
            )
        )
    return found


def _corners(boxes: Sequence[tuple[slice, slice, slice] | None]) -> dict[int, list[list[int]]]:
    """Half-open boxes by id."""
    return {
        number: [[part.start for part in box], [part.stop for part in box]]
        for number, box in enumerate(boxes, 1)
        if box is not None
    }


def _compare(
    ids: IdMap,
    keep: Sequence[int],
    predicted_ids: IdMap,
    items: Sequence[Instance],
    boxes: Sequence[Mapping[int, list[list[int]]]],
    reference: ReferenceObjects,
    case_id: str,
    patient_id: str,
    flat: bool,
) -> dict[str, Detections]:
    """Overlaps of the masks and of the boxes of one class."""
    numbers = [item.id for item in items]
    scores = np.array([item.score for item in items], dtype=np.float64)
    masks, *voxels = mask_overlaps(predicted_ids, ids, numbers, keep)
    corners = [np.array([boxes[side][i] for i in some]) for side, some in ((1, numbers), (0, keep))]
    overlaps, box_pixels, _ = box_overlaps(*corners)
    if flat:
        sizes, reference_sizes, box_sizes = *voxels, box_pixels
    else:
        sizes, reference_sizes = (_diameters_mm(v, ids.shape, reference.label_map.affine) for v in voxels)
        box_sizes = sizes
    return {
        "mask": Detections(case_id, patient_id, scores, masks, sizes, reference_sizes),
        "box": Detections(case_id, patient_id, scores, overlaps, box_sizes, reference_sizes),
    }


def _diameters_mm(voxels: Values, shape: tuple[int, ...], affine: Affine) -> Values:
    """Of the spheres of the same volume."""
    return np.cbrt(6 / math.pi * voxels * voxel_size_mm(affine, shape))


def _marks(rows: Sequence[ObjectRow], items: Sequence[Instance], case_id: str, patient_id: str) -> Marks:
    """Centres of the predicted objects against the annotated centres and diameters."""
    sides = []
    for ignored in (False, True):
        some = [row for row in rows if row.ignored == ignored]
        sides.append(np.array([(r.x_mm, r.y_mm, r.z_mm) for r in some], dtype=np.float64).reshape(-1, 3))
        sides.append(np.array([row.diameter_mm for row in some], dtype=np.float64))
    positions = np.array([item.centroid_mm for item in items], dtype=np.float64).reshape(-1, 3)
    scores = np.array([item.score for item in items], dtype=np.float64)
    return Marks(case_id, patient_id, positions, scores, *sides)


def measure_case(one: ClassObjects, max_detections: int, max_marks: int) -> dict[str, float]:
    """Metrics of one class in one case alone, by the names of `COLUMNS` and, of a volume, `VOLUME_COLUMNS`.

    NaN where neither side has an object of the class. Where there is a false alarm alone, the metrics that
    know no score are 0, and those that rank by score NaN: they ask how far down the list the objects stand,
    and a single false alarm of the lowest score would count as much as missing everything.

    Args:
        one: From `collect_objects`.
        max_detections: Predicted objects that count, best first.
        max_marks: Marks that count in FROC.
    """
    numbers: dict[str, float] = {}
    for kind in KINDS:
        matches = [match(one.detections[kind], IOUS, max_detections)]
        few = [match(one.detections[kind], IOU_50_95, RECALL_DETECTIONS)]
        precision, recall = average_precision(matches), average_recall(few)
        numbers |= {f"{kind}_{name}": float(precision[part].mean()) for name, part in AP_PARTS.items()}
        numbers[f"{kind}_mar_100"] = float(recall.mean())
    numbers |= dict(zip(DSB_NAMES, dsb_scores(one.dsb), strict=True))
    quality = one.panoptic
    numbers |= dict(zip(PANOPTIC_NAMES, (quality.pq, quality.sq, quality.rq), strict=True))
    if one.marks is not None:
        sensitivity = sensitivity_at(froc([one.marks], max_marks))
        numbers |= {"cpm": float(sensitivity.mean())}
        numbers |= dict(zip(FROC_NAMES, sensitivity.tolist(), strict=True))
    return numbers


def dsb_scores(values: Values) -> tuple[float, float, float]:
    """Mean over the thresholds, and the values at .50 and .75."""
    at_75 = int(np.flatnonzero(DSB_THRESHOLDS == 0.75)[0])
    return float(values.mean()), float(values[0]), float(values[at_75])
