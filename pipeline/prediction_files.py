"""Predictions read back from the files that every model writes: label map, instance map and records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SegtrailError
from pipeline.instances import find_boxes
from pipeline.io.images import load_label_map
from pipeline.volume import Instance, Instances, Prediction


@dataclass(frozen=True)
class PredictionFiles:
    """Files of the prediction of one case.

    Attributes:
        labels: Label map.
        instances: Instance map, ids 1..n.
        record: JSON with a record of each instance.
    """

    case_id: str
    labels: Path
    instances: Path
    record: Path


def find_predictions(folder: Path, suffixes: Mapping[str, str], fix: str) -> dict[str, PredictionFiles]:
    """Finds the files of every case, pictures and volumes alike.

    Args:
        folder: Of one model.
        suffixes: Suffix of a case's maps (see `pipeline.io.images.prediction_suffix`), by case id.
        fix: Command that writes them, for the error.

    Raises:
        SegtrailError: Cases have no prediction, or a part of one; all are named.
    """
    found = {}
    for case_id, suffix in suffixes.items():
        maps = [folder / f"{case_id}_{part}{suffix}" for part in ("labels", "instances")]
        found[case_id] = PredictionFiles(case_id, maps[0], maps[1], folder / f"{case_id}.json")
    missing = [
        case_id
        for case_id, files in found.items()
        if not all(path.is_file() for path in (files.labels, files.instances, files.record))
    ]
    if missing:
        raise SegtrailError(
            f"{len(missing)} of {len(suffixes)} test cases have no prediction (label map, instance map and "
            f"record): {', '.join(missing)}",
            str(folder),
            fix,
        )
    return found


def load_prediction(files: PredictionFiles, labels: Mapping[str, int]) -> Prediction:
    """Reads one prediction.

    Args:
        files: Of the case.
        labels: Value of each foreground class, by name.

    Returns:
        Label map and instances, with the classes as values of the label map.

    Raises:
        SegtrailError: A file cannot be read, names an unknown class, or the files do not agree.
    """
    label_map, ids = load_label_map(files.labels), load_label_map(files.instances)
    if ids.array.shape != label_map.array.shape:
        raise _damaged(
            files, f"the label map has shape {label_map.array.shape}, the instances {ids.array.shape}"
        )
    items = _items(files, labels)
    present = [number for number, box in enumerate(find_boxes(ids.array), 1) if box is not None]
    known = sorted(item.id for item in items)
    if known != present:
        differ = sorted(set(known) ^ set(present))[:5]
        raise _damaged(files, f"the instance map and its record differ in the objects {differ}")
    return Prediction(label_map, Instances(ids.array, ids.affine, items))


def load_record(files: PredictionFiles) -> dict[str, Any]:
    """The record of a prediction (`pipeline.prediction_record`), with the settings it was made with.

    Raises:
        SegtrailError: It cannot be read.
    """
    try:
        record: dict[str, Any] = dict(json.loads(files.record.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise _damaged(files, f"the record cannot be read: {error!r}") from error
    return record


def _items(files: PredictionFiles, labels: Mapping[str, int]) -> tuple[Instance, ...]:
    try:
        entries = json.loads(files.record.read_text(encoding="utf-8"))["instances"]
        unknown = sorted({str(entry["label"]) for entry in entries} - set(labels))
        if unknown:
            raise _damaged(files, f"it names the classes {unknown}, expected some of {list(labels)}")
        return tuple(_item(entry, labels) for entry in entries)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(files, f"the record of the objects cannot be read: {error!r}") from error


def _item(entry: Mapping[str, Any], labels: Mapping[str, int]) -> Instance:
    x, y, z = (float(v) for v in entry["centroid_mm"])
    first, last = (tuple(int(v) for v in corner) for corner in entry["box_voxels"])
    return Instance(
        id=int(entry["id"]),
        label=labels[entry["label"]],
        score=float(entry["score"]),
        voxels=int(entry["voxels"]),
        centroid_mm=(x, y, z),
        box_voxels=(first, last),
    )


def _damaged(files: PredictionFiles, problem: str) -> SegtrailError:
    return SegtrailError(problem, f"case {files.case_id} ({files.record})", "dvc repro --force predict")


def in_label_map(prediction: Prediction) -> NDArray[np.bool_]:
    """Which instances stand in the label map: at least half of their voxels have their class there.

    A model may report objects that it does not trust enough to put them into the label map.

    Returns:
        One entry an instance, in the order of `prediction.instances.items`.
    """
    ids, items = prediction.instances.array, prediction.instances.items
    classes = np.zeros(int(ids.max(initial=0)) + 1, dtype=np.int64)
    classes[[item.id for item in items]] = [item.label for item in items]
    inside = ids > 0
    members = ids[inside]
    right = prediction.label_map.array[inside] == classes[members]
    voxels, agreeing = np.bincount(members), np.bincount(members, weights=right)
    numbers = [item.id for item in items]
    kept: NDArray[np.bool_] = 2 * agreeing[numbers] >= voxels[numbers]
    return kept
