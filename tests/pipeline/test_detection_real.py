"""Average precision and recall on real DSB2018 masks with perturbed predictions, against pycocotools."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from dsb_predictions import PredictedCase, boxes_of, build_case, evaluate_coco, pick_images, prepare_coco
from numpy.typing import NDArray

from pipeline.detection import average_precision, average_recall, precision_recall_curve
from pipeline.instance_overlaps import box_overlaps, mask_overlaps
from pipeline.matching import ALL_SIZES, IOU_10_50, IOU_50_95, SIZE_RANGES, Detections, match

IOUS = np.concatenate([IOU_10_50[:-1], IOU_50_95])
PARTS = {"50_95": slice(8, 18), "50": slice(8, 9), "75": slice(13, 14), "10_50": slice(0, 9)}
SIZES = [ALL_SIZES, *SIZE_RANGES.values()]
MAX_DETECTIONS = [1, 10, 100, 1000]


@cache
def _cases(folder: Path, fewest: int, most: int, count: int) -> list[PredictedCase]:
    return [build_case(image, seed) for seed, image in enumerate(pick_images(folder, fewest, most, count))]


def _enlarge(case: PredictedCase) -> PredictedCase:
    """Three times as wide: nuclei of more than 1024 pixels become large ones of COCO."""
    reference, prediction = (
        np.kron(m, np.ones((3, 3, 1), np.int32)) for m in (case.reference, case.prediction)
    )
    return replace(case, reference=reference, prediction=prediction)


def _detections(cases: list[PredictedCase], kind: str, label: int) -> list[Detections]:
    result = []
    for case in cases:
        rows, columns = (
            np.flatnonzero(case.prediction_labels == label),
            np.flatnonzero(case.reference_labels == label),
        )
        if kind == "mask":
            measured = mask_overlaps(case.prediction, case.reference, rows, columns)
        else:
            measured = box_overlaps(
                boxes_of(case.prediction)[rows - 1], boxes_of(case.reference)[columns - 1]
            )
        result.append(Detections(case.case_id, case.case_id, case.scores[rows], *measured))
    return result


def _assert_equals_pycocotools(cases: list[PredictedCase], kind: str) -> NDArray[np.float64]:
    """Compares every class, threshold, size and limit; returns the average precisions (T, classes, sizes, M)."""
    theirs = evaluate_coco(*prepare_coco(cases, kind), kind, IOUS, MAX_DETECTIONS)
    shape = theirs["recall"].shape
    precision, recall = np.empty(shape), np.empty(shape)
    for k, label in enumerate((1, 2)):
        detections = _detections(cases, kind, label)
        for a, size_range in enumerate(SIZES):
            for m, most in enumerate(MAX_DETECTIONS):
                matches = [match(d, IOUS, most, size_range) for d in detections]
                precision[:, k, a, m] = average_precision(matches)
                recall[:, k, a, m] = average_recall(matches)
    np.testing.assert_allclose(precision, theirs["precision"].mean(axis=1), rtol=0, atol=1e-9)
    np.testing.assert_allclose(recall, theirs["recall"], rtol=0, atol=1e-9)
    for part in PARTS.values():  # the official mean, over thresholds, recalls and classes at once
        ours = precision[part, :, 0, 3].mean()
        assert ours == pytest.approx(theirs["precision"][part, :, :, 0, 3].mean(), abs=1e-9)
    return precision


@pytest.fixture
def folder(shared_data: Path) -> Path:
    return shared_data / "dsb2018"


@pytest.mark.parametrize("kind", ["mask", "box"])
def test_sixty_images_equal_pycocotools(folder: Path, kind: str) -> None:
    cases = _cases(folder, 2, 45, 60)
    assert len({c.case_id for c in cases}) == 60
    precision = _assert_equals_pycocotools(cases, kind)
    # The perturbed predictions are neither perfect nor useless, and the limit of detections matters.
    assert (precision[8, :, 0, 3] > 0.2).all() and (precision[8, :, 0, 3] < 0.8).all()
    assert (precision[8, :, 0, 1] < precision[8, :, 0, 3] - 0.01).all()


@pytest.mark.parametrize("kind", ["mask", "box"])
def test_large_objects_equal_pycocotools(folder: Path, kind: str) -> None:
    cases = [_enlarge(case) for case in _cases(folder, 4, 25, 12)]
    precision = _assert_equals_pycocotools(cases, kind)
    assert not np.isnan(precision[:, :, 1:]).any()  # every size occurs


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask", "box"])
def test_hundreds_of_objects_equal_pycocotools(folder: Path, kind: str) -> None:
    cases = _cases(folder, 130, 400, 14)
    assert max(len(c.scores) for c in cases) > 300
    precision = _assert_equals_pycocotools(cases, kind)
    assert (precision[8, :, 0, 3] - precision[8, :, 0, 2] > 0.001).any()  # 100 detections are too few here


def test_curves_equal_pycocotools(folder: Path) -> None:
    cases, thresholds = _cases(folder, 4, 25, 20), np.array([0.1, 0.5, 0.75])
    theirs = evaluate_coco(*prepare_coco(cases, "mask"), "mask", thresholds, [100])
    for k, label in enumerate((1, 2)):
        matches = [match(d, thresholds, 100) for d in _detections(cases, "mask", label)]
        for t in range(3):
            _, precision, score = precision_recall_curve(matches, t)
            np.testing.assert_allclose(precision, theirs["precision"][t, :, k, 0, 0], rtol=0, atol=1e-9)
            # At recall 0 pycocotools gives the best score of all, here it is that of the first hit.
            np.testing.assert_array_equal(np.nan_to_num(score)[1:], theirs["scores"][t, 1:, k, 0, 0])


def test_masks_that_overlap_equal_pycocotools(folder: Path) -> None:
    """A list of masks need not be a map: the overlaps come from run lengths, the rest is the same."""
    from pycocotools import mask as coco_mask
    from scipy.sparse import csr_array

    cases = _cases(folder, 4, 25, 20)
    truth, found = prepare_coco(cases, "mask")
    for annotation in found.anns.values():  # each prediction grows over its neighbours
        grown = coco_mask.decode(annotation["segmentation"])
        grown[3:] |= grown[:-3]
        grown[:, 3:] |= grown[:, :-3]
        annotation["segmentation"] = coco_mask.encode(np.asfortranarray(grown))
        annotation["area"] = float(grown.sum())
    theirs = evaluate_coco(truth, found, "mask", IOUS, [1000])
    for k, label in enumerate((1, 2)):
        matches, most_at_once = [], 0
        for image in range(1, len(cases) + 1):
            rows = found.loadAnns(found.getAnnIds(imgIds=image, catIds=label))
            columns = truth.loadAnns(truth.getAnnIds(imgIds=image, catIds=label))
            masks = [[a["segmentation"] for a in anns] for anns in (rows, columns)]
            table = (
                coco_mask.iou(*masks, [0] * len(columns))
                if rows and columns
                else np.zeros((len(rows), len(columns)))
            )
            most_at_once = max(most_at_once, *(table > 0.3).sum(axis=0), 0)
            sizes, reference_sizes = (
                np.array([a["area"] for a in anns], dtype=float) for anns in (rows, columns)
            )
            scores = np.array([a["score"] for a in rows], dtype=float)
            one = Detections(str(image), str(image), scores, csr_array(table), sizes, reference_sizes)
            matches.append(match(one, IOUS, 1000))
        assert most_at_once > 1
        np.testing.assert_allclose(
            average_precision(matches), theirs["precision"][:, :, k, 0, 0].mean(axis=1), rtol=0, atol=1e-9
        )
