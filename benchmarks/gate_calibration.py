"""How often the gate promotes a model that is just as good as the champion: never more often than it says.

Two real models are made from real labels: label maps voted by two disjoint halves of the training cases of MSD's
hippocampus, scored by Dice on cases that neither has seen. Their differences, patient by patient, are made those of
equally good models in two ways: `swapped` flips a coin for each patient which of the two is the challenger, `centred`
takes their mean away and keeps their skew. Test sets are drawn from these patients with replacement, and each goes
through the gate. Beside its share stand those of an uncorrected percentile interval and of Student's t.

    .venv/bin/python benchmarks/gate_calibration.py /path/to/Task04_Hippocampus
"""

from __future__ import annotations

import argparse
import functools
import math
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from pipeline import comparison
from pipeline.comparison import paired_gate
from pipeline.config import RegisterParams
from pipeline.scores import CaseScore

LABELS = {1: "anterior", 2: "posterior"}
TEST_SHARE = 0.4
SIZES = (10, 20, 40, 80)
STATED = 0.025
SEED = 20261127
Values = NDArray[np.float64]


def load_labels(folder: Path) -> list[NDArray[np.uint8]]:
    """Label maps, cut or padded about their middle to the median shape."""
    paths = sorted((folder / "labelsTr").glob("[!.]*.nii.gz"))
    volumes = [np.asarray(nibabel.load(path).dataobj).round().astype(np.uint8) for path in paths]
    shape = np.median([volume.shape for volume in volumes], axis=0).astype(int)
    return [fit(volume, shape) for volume in volumes]


def fit(volume: NDArray[np.uint8], shape: NDArray[np.int64]) -> NDArray[np.uint8]:
    factors = [wanted / size for wanted, size in zip(shape, volume.shape, strict=True)]
    return ndimage.zoom(volume, factors, order=0)


def vote(volumes: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The label that most of the cases have at each voxel: a model that knows where organs lie."""
    shares = np.stack([np.mean([v == label for v in volumes], axis=0) for label in range(max(LABELS) + 1)])
    return shares.argmax(axis=0).astype(np.uint8)


def dice(prediction: NDArray[np.uint8], reference: NDArray[np.uint8], label: int) -> float:
    p, r = prediction == label, reference == label
    total = int(p.sum() + r.sum())
    return 2.0 * int((p & r).sum()) / total if total else math.nan


def score_models(volumes: Sequence[NDArray[np.uint8]], seed: int) -> tuple[Values, Values]:
    """Dice of two models, each (test cases, labels)."""
    order = np.random.default_rng(seed).permutation(len(volumes))
    test = order[: round(TEST_SHARE * len(volumes))]
    halves = np.array_split(order[len(test) :], 2)
    models = [vote([volumes[i] for i in half]) for half in halves]
    first, second = (np.array([[dice(m, volumes[i], k) for k in LABELS] for i in test]) for m in models)
    return first, second


def to_scores(values: Values) -> list[CaseScore]:
    """Each case a patient of its own."""
    return [
        CaseScore(f"c{i}", f"c{i}", label, float(value), 9, 9)
        for i, row in enumerate(values)
        for label, value in zip(LABELS.values(), row, strict=True)
    ]


def draw_test_sets(
    first: Values, second: Values, cases: int, kind: str, repeats: int
) -> Iterator[tuple[Values, Values]]:
    """Dice of champion and challenger, equally good models, on so many test sets."""
    draw = np.random.default_rng([SEED, cases, len(kind)])
    centre = (second - first).mean(axis=0) if kind == "centred" else np.zeros(len(LABELS))
    for _ in range(repeats):
        chosen = draw.integers(len(first), size=cases)
        one, other = first[chosen], second[chosen] - centre
        # Each patient has a coin of his own, or the whole test set has one, so that skew counts to either side.
        swap = draw.random((cases if kind == "swapped" else 1, 1)) < 0.5
        yield np.where(swap, other, one), np.where(swap, one, other)


def compare(first: Values, second: Values, cases: int, kind: str, repeats: int) -> Values:
    """Per cent of test sets that promote: gate, uncorrected percentiles, Student's t."""
    params = RegisterParams(model_name="m", metric="test/dice", min_cases=3, margin=0.0, class_margin=1.0)
    draws = comparison.draw_patients(cases, comparison.SAMPLES, comparison.SEED)
    promoted = np.zeros(3)
    for champion, challenger in draw_test_sets(first, second, cases, kind, repeats):
        difference = (challenger - champion).mean(axis=1)
        low = np.percentile(draws @ difference / cases, 2.5)
        student = difference.mean() - stats.t.ppf(0.975, cases - 1) * difference.std(ddof=1) / math.sqrt(
            cases
        )
        gate = paired_gate(to_scores(challenger), to_scores(champion), params)
        promoted += gate.promote, low > 0, student > 0
    return 100 * promoted / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=2000)
    options = parser.parse_args()
    comparison.draw_patients = functools.cache(
        comparison.draw_patients
    )  # the same draws each time, made once
    first, second = score_models(load_labels(options.folder), SEED)
    difference = (second - first).mean(axis=1)
    print(f"{len(first)} patients; Dice {first.mean():.4f} and {second.mean():.4f}; their difference: "
          f"standard deviation {difference.std(ddof=1):.4f}, skewness {skewness(difference):+.2f}")  # fmt: skip
    error = 100 * 1.96 * math.sqrt(STATED * (1 - STATED) / options.repeats)
    print(
        f"promoted, in per cent of {options.repeats} test sets (stated: {100 * STATED} +- {error:.1f} by chance)"
    )
    print("patients  equal by   gate   uncorrected   t")
    for cases in SIZES:
        for kind in ("swapped", "centred"):
            gate, uncorrected, student = compare(first, second, cases, kind, options.repeats)
            print(f"{cases:8d}  {kind}  {gate:5.1f}  {uncorrected:12.1f}  {student:5.1f}", flush=True)
    print(f"{platform.machine()}, Python {platform.python_version()}")


def skewness(values: Values) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / values.std() ** 3)


if __name__ == "__main__":
    main()
