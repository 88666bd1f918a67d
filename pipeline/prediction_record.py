"""What stands in the JSON beside a prediction: how much of everything was found, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.plan import Plan
from pipeline.volume import Affine, Instance, Prediction, voxel_size_mm


def measure_prediction(prediction: Prediction, affine: Affine, plan: Plan) -> dict[str, Any]:
    """Volumes of labels, regions and instances (mm3, in 2D mm2), and how uncertain the model is.

    Args:
        prediction: On the source grid.
        affine: (4, 4) of this grid.
        plan: Names labels and regions.
    """
    shape = prediction.label_map.array.shape
    voxel = voxel_size_mm(affine, shape)
    size = "area_mm2" if shape[2] == 1 else "volume_mm3"
    counts = [int((prediction.label_map.array == value).sum()) for value in plan.label_values[1:]]
    voxels = dict(zip(plan.label_names[1:], counts, strict=True))
    parts = {region.name: [counts[i - 1] for i in region.labels] for region in plan.regions}
    labels = {name: {"voxels": n, size: round(n * voxel, 3)} for name, n in voxels.items()}
    regions = {name: {"voxels": sum(n), size: round(sum(n) * voxel, 3)} for name, n in parts.items()}
    names = dict(zip(plan.label_values, plan.label_names, strict=True))
    instances = [
        {
            "id": item.id,
            "label": names[item.label],
            "score": round(item.score, 6),
            "voxels": item.voxels,
            size: round(item.voxels * voxel, 3),
            "centroid_mm": [round(v, 3) for v in item.centroid_mm],
            "box_voxels": [list(corner) for corner in item.box_voxels],
        }
        for item in prediction.instances.items
    ]
    return {
        "labels": labels,
        **({"regions": regions} if regions else {}),
        "instances": instances,
        "uncertainty": measure_uncertainty(prediction.instances.items),
    }


def measure_uncertainty(items: Sequence[Instance]) -> float | None:
    """1 minus the mean score of the objects, each weighted by its voxels; None without an object.

    The score of a U-Net's object is the mean probability of its class, so that this is 1 minus the mean probability
    over the voxels of what was found.
    """
    voxels = sum(item.voxels for item in items)
    return round(1 - sum(item.score * item.voxels for item in items) / voxels, 6) if voxels else None
