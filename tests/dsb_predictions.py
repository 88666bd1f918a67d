"""Real DSB2018 reference masks with made-up predictions, as instance maps and as COCO annotations."""

from __future__ import annotations

import contextlib
import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Ids = NDArray[np.int32]
Box = tuple[slice, ...]


@dataclass(frozen=True)
class PredictedCase:
    """Instance maps (X, Y, Z = 1) of one image; class and score by id (entry 0 is the background)."""

    case_id: str
    reference: Ids
    prediction: Ids
    reference_labels: NDArray[np.intp]
    prediction_labels: NDArray[np.intp]
    scores: NDArray[np.float64]


def pick_images(folder: Path, fewest: int, most: int, count: int) -> list[Path]:
    """Folders of images with so many nuclei, spread evenly over the sorted list of kinds and ids."""
    with (folder / "image_types.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if fewest <= int(row["n_nuclei"]) <= most]
    rows.sort(key=lambda row: (row["type"], row["image_id"]))
    chosen = np.linspace(0, len(rows) - 1, count).round().astype(int)
    return [folder / "stage1_train" / rows[i]["image_id"] for i in chosen]


def build_case(image: Path, seed: int) -> PredictedCase:
    """Reads the masks of an image and makes up a prediction: objects of two classes, scores with many ties."""
    rng = np.random.default_rng(seed)
    reference = read_reference(image)
    labels = np.append(0, rng.integers(1, 3, reference.max()))
    prediction, sources = perturb(reference, rng)
    mistaken = rng.random(len(sources)) < 0.1
    prediction_labels = np.where(mistaken, 3 - labels[sources], labels[sources])
    scores = rng.integers(0, 20, len(sources)) / 20
    return PredictedCase(image.name, reference, prediction, labels, prediction_labels, scores)


def read_reference(image: Path) -> Ids:
    """Paints the masks of one image onto one map; ids are renumbered without gaps."""
    masks = [np.asarray(Image.open(path)).T > 0 for path in sorted((image / "masks").iterdir())]
    ids = np.zeros((*masks[0].shape, 1), dtype=np.int32)
    for value, mask in enumerate(masks, 1):
        ids[mask, 0] = value
    return np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.int32)


def perturb(reference: Ids, rng: np.random.Generator) -> tuple[Ids, NDArray[np.intp]]:
    """Shifts, grows, shrinks, splits, merges, drops and adds objects.

    Returns:
        The new map, and the reference id that each new id comes from (entry 0 is the background).
    """
    painted = np.zeros_like(reference)
    sources = [0]
    boxes = ndimage.find_objects(reference)
    for value, box in enumerate(boxes, 1):
        kind = rng.choice(["keep", "shift", "grow", "shrink", "split", "merge", "drop", "add"])
        region = _padded(box, reference.shape)
        mask = reference[region] == value
        if kind == "shift":
            mask = np.roll(mask, rng.integers(-4, 5, 2), axis=(0, 1))
        elif kind == "grow":
            mask = ndimage.binary_dilation(mask, iterations=int(rng.integers(1, 4)))
        elif kind == "shrink":
            mask = ndimage.binary_erosion(mask, iterations=int(rng.integers(1, 3)))
        elif kind == "merge" and value < len(boxes):
            painted[reference == value + 1] = len(sources)
        elif kind == "add":
            x, y = (rng.integers(0, size) for size in reference.shape[:2])
            painted[x : x + 12, y : y + 9] = len(sources)
            sources.append(value)
        if kind != "drop":
            painted[region][mask] = len(sources)
            sources.append(value)
        if kind == "split":
            half = painted[region][mask.shape[0] // 2 :]
            half[mask[mask.shape[0] // 2 :]] = len(sources)
            sources.append(value)
    kept, ids = np.unique(np.append(0, painted), return_inverse=True)  # later objects may hide earlier ones
    return ids[1:].reshape(painted.shape).astype(np.int32), np.array(sources)[kept]


def _padded(box: Box, shape: tuple[int, ...], margin: int = 5) -> Box:
    return tuple(
        slice(max(0, s.start - margin), min(size, s.stop + margin))
        for s, size in zip(box, shape, strict=True)
    )


def boxes_of(ids: Ids) -> NDArray[np.int64]:
    """Half-open boxes (n, 2, 2) in X and Y of the ids 1..n."""
    found = [[[s.start for s in box[:2]], [s.stop for s in box[:2]]] for box in ndimage.find_objects(ids)]
    return np.array(found, dtype=np.int64).reshape(-1, 2, 2)


def coco_annotations(
    ids: Ids, labels: NDArray[np.intp], image_id: int, kind: str, scores: NDArray[np.float64] | None = None
) -> list[dict[str, Any]]:
    """Annotations (with scores: results) of one map, `kind` is mask or box. Axis X stands for COCO's rows."""
    from pycocotools import mask as coco_mask

    annotations = []
    for value, (low, high) in enumerate(boxes_of(ids), 1):
        size = high - low
        area = int((ids == value).sum()) if kind == "mask" else int(size.prod())
        annotation: dict[str, Any] = {"image_id": image_id, "category_id": int(labels[value])}
        if kind == "mask":
            annotation["segmentation"] = coco_mask.encode(
                np.asfortranarray(ids[..., 0] == value, dtype=np.uint8)
            )
        else:
            annotation["bbox"] = [float(v) for v in (*low, *size)]
        if scores is None:
            annotation |= {"area": area, "iscrowd": 0, "bbox": [float(v) for v in (*low, *size)]}
        else:
            annotation["score"] = float(scores[value])
        annotations.append(annotation)
    return annotations


def prepare_coco(cases: list[PredictedCase], kind: str) -> tuple[Any, Any]:
    """References and results of all cases as pycocotools' data sets."""
    from pycocotools.coco import COCO

    references, results = [], []
    for index, case in enumerate(cases, 1):
        references += coco_annotations(case.reference, case.reference_labels, index, kind)
        results += coco_annotations(case.prediction, case.prediction_labels, index, kind, case.scores)
    images = [
        {"id": i, "height": c.reference.shape[0], "width": c.reference.shape[1]}
        for i, c in enumerate(cases, 1)
    ]
    truth = COCO()
    truth.dataset = {
        "images": images,
        "annotations": [{**a, "id": i} for i, a in enumerate(references, 1)],
        "categories": [{"id": 1}, {"id": 2}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        return truth, truth.loadRes(results)


def evaluate_coco(
    truth: Any, found: Any, kind: str, thresholds: NDArray[np.float64], max_detections: list[int]
) -> dict[str, NDArray[np.float64]]:
    """pycocotools' `precision` (T, 101, classes, sizes, M), `recall` (T, classes, sizes, M) and `scores`."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, found, "segm" if kind == "mask" else "bbox")
        evaluation.params.iouThrs = thresholds
        evaluation.params.maxDets = max_detections
        evaluation.evaluate()
        evaluation.accumulate()
    names = ("precision", "recall", "scores")
    return {n: np.where(evaluation.eval[n] == -1, np.nan, evaluation.eval[n]) for n in names}
