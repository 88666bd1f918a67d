"""From instance maps to the names of `metrics.json`, on real DSB2018 masks, against pycocotools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.detection_cases import IOUS, ReferenceObjects, collect_objects
from pipeline.detection_evaluation import summarise_detection
from pipeline.volume import Instance, Instances, LabelMap, Prediction
from tests.detection_scenes import PARAMS
from tests.dsb_predictions import PredictedCase, build_case, evaluate_coco, pick_images, prepare_coco

LABELS = {"first": 1, "second": 2}
PARTS = {"map_50_95": slice(8, 18), "map_50": slice(8, 9), "map_75": slice(13, 14), "map_10_50": slice(0, 9)}


def collect(case: PredictedCase) -> list[object]:
    """What the stage would read: label maps, instance maps and records."""
    truth, found = (
        LabelMap(labels[ids].astype(np.uint8), np.eye(4))
        for labels, ids in (
            (case.reference_labels, case.reference),
            (case.prediction_labels, case.prediction),
        )
    )
    items = tuple(
        Instance(number, int(label), float(score), 1, (0.0, 0.0, 0.0), ((0,), (1,)))
        for number, (label, score) in enumerate(zip(case.prediction_labels, case.scores, strict=True))
        if number
    )
    prediction = Prediction(found, Instances(case.prediction, np.eye(4), items))
    reference = ReferenceObjects(truth, case.reference, [])
    return [*collect_objects(reference, prediction, LABELS, case.case_id, case.case_id, True)]


def official(cases: list[PredictedCase], kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (T, 101, classes, sizes, 2) and recall (T, classes, sizes, 2) at most 100 and 1000 detections.

    As in COCO's own annotation files, the area of a reference object is that of its mask, for boxes too.
    """
    truth, found = prepare_coco(cases, kind)
    areas = [int((case.reference == i).sum()) for case in cases for i in range(1, case.reference.max() + 1)]
    for annotation, area in zip(truth.dataset["annotations"], areas, strict=True):
        annotation["area"] = area
    result = evaluate_coco(truth, found, kind, IOUS, [100, 1000])
    return result["precision"], result["recall"]


@pytest.mark.parametrize("kind", ["mask", "box"])
def test_names_hold_the_numbers_of_pycocotools(shared_data: Path, kind: str) -> None:
    images = pick_images(shared_data / "dsb2018", 4, 45, 20)
    cases = [build_case(image, seed) for seed, image in enumerate(images)]
    objects = [one for case in cases for one in collect(case)]
    params = PARAMS.model_copy(update={"max_detections": 1000, "bootstrap_samples": 100})
    numbers = summarise_detection(objects, params)  # type: ignore[arg-type]
    precision, recall = official(cases, kind)
    for name, part in PARTS.items():
        for i, prefix in enumerate(["first/", "second/", ""]):
            classes = [i] if prefix else [0, 1]
            expected = precision[part][:, :, classes, 0, 1].mean()
            assert numbers[f"test/{prefix}{kind}_{name}"] == pytest.approx(expected, abs=1e-9)
        if name in ("map_50_95", "map_10_50"):
            for a, size in enumerate(("small", "medium"), 1):
                expected = precision[part][:, :, :, a, 1].mean()
                assert numbers[f"test/{kind}_{name}_{size}"] == pytest.approx(expected, abs=1e-9)
    assert numbers[f"test/{kind}_mar_100"] == pytest.approx(recall[8:, :, 0, 0].mean(), abs=1e-9)
    assert 0.05 < numbers[f"test/{kind}_map_50_95"] < 0.95  # type: ignore[operator]
