"""What only a whole set shows: labels that lie where no other case has them, and cases that are copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprint import Fingerprint

FEWEST_CASES = 10  # below, a median deviation says too little
SPREAD_FLOOR = 0.02  # of the volume's edge: two voxels of 100 are no outlier, however alike the others are
MOST_OBJECTS = 2  # a case, in the median: a class with more (nuclei, vessels) has no place of its own
COMPANIONS = 0.1  # share of the set that makes a place legitimate: left and right organs, for example
QUANTILES = {0.5: 0.6745, 0.75: 1.1503}  # of the absolute deviation, in sigmas of a normal distribution


def find_position_outliers(fingerprints: Sequence[Fingerprint], limit: float) -> dict[str, str]:
    """Finds labels in the wrong place of their image, such as those shifted under a right header.

    For each class, the centre of its largest piece (as a share of the volume) is compared with the set's
    median, in units of the set's spread along each axis: the median absolute deviation or its third quartile
    (each scaled to a normal distribution's sigma), whichever is larger, and at least 0.02. With the median
    alone, one in a hundred sets of ten cases would lose a good one by chance. Sets whose objects lie anywhere
    are wide, and show no outlier. A place where a tenth of the set (and at
    least two more cases) lies is no outlier either.

    Args:
        fingerprints: Of all readable cases.
        limit: Largest distance from the median, in that unit.

    Returns:
        A sentence for each outlier, by case_id.
    """
    reasons: dict[str, tuple[float, str]] = {}
    for name in sorted({name for f in fingerprints for name in f.classes}):
        centres = {
            f.case_id: centre
            for f in fingerprints
            if name in f.classes and (centre := f.classes[name].centroid_fraction) is not None
        }
        counts = [f.classes[name].objects for f in fingerprints if f.case_id in centres]
        if len(centres) < FEWEST_CASES or np.median(counts) > MOST_OBJECTS:
            continue
        positions = np.array(list(centres.values()))
        median, scaled = _scale(positions)
        distances = np.linalg.norm(scaled, axis=1)
        for case_id, position, own, distance in zip(centres, positions, scaled, distances, strict=True):
            near = int((np.linalg.norm(scaled - own, axis=1) < limit / 2).sum()) - 1
            if distance <= limit or near >= max(2.0, COMPANIONS * len(centres)):
                continue
            reason = (
                f"{name} lies at {_text(position)} of the volume, {distance:.1f} robust deviations from the "
                f"set's median {_text(median)}, limit inspect.position_outlier = {limit:g}"
            )
            reasons[case_id] = max(reasons.get(case_id, (0.0, "")), (float(distance), reason))
    return {case_id: reason for case_id, (_, reason) in reasons.items()}


def find_copies(fingerprints: Sequence[Fingerprint]) -> dict[str, str]:
    """Finds cases whose image has the voxels of another one.

    Returns:
        The first case (by case_id) with these voxels, by the case_id of each copy.
    """
    first: dict[str, str] = {}
    copies = {}
    for fingerprint in sorted(fingerprints, key=lambda f: f.case_id):
        original = first.setdefault(fingerprint.image_sha256, fingerprint.case_id)
        if original != fingerprint.case_id:
            copies[fingerprint.case_id] = original
    return copies


def _scale(positions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median, and offsets from it in robust deviations."""
    median = np.median(positions, axis=0)
    offsets = positions - median
    scales = [np.quantile(np.abs(offsets), q, axis=0) / sigmas for q, sigmas in QUANTILES.items()]
    return median, offsets / np.maximum(np.max(scales, axis=0), SPREAD_FLOOR)


def _text(position: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.2f}" for value in position) + ")"
