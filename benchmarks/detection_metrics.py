"""Processor seconds of mask AP by Segtrail and by pycocotools, on the same perturbed DSB2018 predictions, in one run.

    .venv/bin/python benchmarks/detection_metrics.py [--data ../shared/data/dsb2018] [--repeats 3]

Both give AP and AR at IoU .50:.05:.95, two classes, four size ranges, at most 1000 detections an image. Segtrail
starts from instance maps, pycocotools from run lengths, whose encoding is timed by itself. Then the bootstrap:
2000 resamples of 50 images with 200 predictions each, at 10 thresholds.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from dsb_predictions import PredictedCase, build_case, evaluate_coco, pick_images, prepare_coco  # noqa: E402

from pipeline.detection import average_precision, average_recall, bootstrap_average_precision  # noqa: E402
from pipeline.instance_overlaps import mask_overlaps  # noqa: E402
from pipeline.intervals import draw_patients  # noqa: E402
from pipeline.matching import ALL_SIZES, IOU_50_95, SIZE_RANGES, Detections, Matches, match  # noqa: E402

SETS = {"60 images of 2 to 45 nuclei": (2, 45, 60), "14 images of 130 to 400 nuclei": (130, 400, 14)}
MAX_DETECTIONS = 1000


def measure(cases: list[PredictedCase]) -> NDArray[np.float64]:
    """Average precision (T, classes, sizes) from instance maps."""
    precision = []
    for label in (1, 2):
        detections = []
        for case in cases:
            rows, columns = (
                np.flatnonzero(v == label) for v in (case.prediction_labels, case.reference_labels)
            )
            measured = mask_overlaps(case.prediction, case.reference, rows, columns)
            detections.append(Detections(case.case_id, case.case_id, case.scores[rows], *measured))
        for size_range in (ALL_SIZES, *SIZE_RANGES.values()):
            matches = [match(d, IOU_50_95, MAX_DETECTIONS, size_range) for d in detections]
            precision.append(average_precision(matches))
            average_recall(matches)
    return np.array(precision).reshape(2, 4, -1).transpose(2, 0, 1)


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Of the processor: all of it runs in one thread."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def bootstrap_seconds(repeats: int) -> float:
    """Hits with a chance of one half, at random scores."""
    rng = np.random.default_rng(0)
    matches = []
    for _ in range(50):
        partners = np.where(rng.random((10, 200)) < 0.5, np.arange(200), -1)
        scores = np.sort(rng.random(200))[::-1]
        matches.append(Matches("", "", np.arange(200), scores, partners, partners < -1, 210))
    draws = draw_patients(50, 2000, seed=1)
    return median_seconds(lambda: bootstrap_average_precision(matches, draws), repeats)


def main() -> None:
    """Prints one table; stops when the two do not agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "dsb2018")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{'':<32}{'objects':>8}{'segtrail s':>12}{'pycocotools s':>15}{'encoding s':>12}{'ratio':>7}")
    for name, (fewest, most, count) in SETS.items():
        images = pick_images(options.data, fewest, most, count)
        cases = [build_case(image, seed) for seed, image in enumerate(images)]
        ours = median_seconds(lambda: measure(cases), options.repeats)  # noqa: B023
        encoding = median_seconds(lambda: prepare_coco(cases, "mask"), options.repeats)  # noqa: B023
        annotations = prepare_coco(cases, "mask")
        theirs = median_seconds(
            lambda: evaluate_coco(*annotations, "mask", IOU_50_95, [MAX_DETECTIONS]),  # noqa: B023
            options.repeats,
        )
        expected = evaluate_coco(*annotations, "mask", IOU_50_95, [MAX_DETECTIONS])["precision"][..., 0].mean(
            axis=1
        )
        np.testing.assert_allclose(measure(cases), expected, rtol=0, atol=1e-9)
        objects = sum(len(c.scores) - 1 for c in cases)
        print(f"{name:<32}{objects:>8}{ours:>12.2f}{theirs:>15.2f}{encoding:>12.2f}{theirs / ours:>7.1f}")
    print(f"2000 resamples of 50 images, 200 predictions each: {bootstrap_seconds(options.repeats):.1f} s")
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
