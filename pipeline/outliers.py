"""What only a whole set shows: labels, volumes and intensities that no other case has, and cases that are copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.cases import Finding
from pipeline.fingerprint import ChannelStatistics, Fingerprint

FEWEST_CASES = 10  # below, a median deviation says too little
SPREAD_FLOOR = 0.02  # of the volume's edge: two voxels of 100 are no outlier, however alike the others are
MOST_OBJECTS = 2  # a case, in the median: a class with more (nuclei, vessels) has no place of its own
COMPANIONS = 0.1  # share of the set that makes a place legitimate: left and right organs, for example
VALUE_COMPANIONS = (
    0.02  # share of the set (and at least two cases) that makes a volume or intensity legitimate
)
VALUE_FLOOR = 0.05  # of the natural logarithm of a volume or intensity: 5 % apart is no spread
HU_FLOOR = 10.0  # where values reach below 0, as HU do
CT = "CT"  # name of a channel in HU; what other channels measure differs from scanner to scanner by scale and offset
ABSOLUTE: Mapping[str, Callable[[ChannelStatistics], float]] = {
    "median": lambda channel: channel.median,
    "99.5th percentile": lambda channel: channel.p99_5,
    "standard deviation": lambda channel: channel.std,
}
RELATIVE: Mapping[str, Callable[[ChannelStatistics], float]] = {
    "asymmetry (99.5th percentile - median) / (median - 0.5th)": lambda channel: _ratio(
        channel.p99_5 - channel.median, channel.median - channel.p00_5
    ),
    "concentration (standard deviation / (99.5th - 0.5th percentile))": lambda channel: _ratio(
        channel.std, channel.p99_5 - channel.p00_5
    ),
}
QUANTILES = {0.5: 0.6745, 0.75: 1.1503}  # of the absolute deviation, in sigmas of a normal distribution


def find_position_outliers(fingerprints: Sequence[Fingerprint], limit: float) -> dict[str, Finding]:
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
        What is wrong with each outlier, by case_id.
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
            if distance <= limit:
                continue
            near = int((np.linalg.norm(scaled - own, axis=1) < limit / 2).sum()) - 1
            if near >= max(2.0, COMPANIONS * len(centres)):
                continue
            reason = (
                f"{name} lies at {_text(position)} of the volume, {distance:.1f} robust deviations from the "
                f"set's median {_text(median)}, limit inspect.position_outlier = {limit:g}"
            )
            reasons[case_id] = max(reasons.get(case_id, (0.0, "")), (float(distance), reason))
    text = f"inspect.position_outlier = {limit:g}"
    return {
        case_id: Finding("label_position", reason, measured=f"{distance:.1f} robust deviations", limit=text)
        for case_id, (distance, reason) in reasons.items()
    }


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


def find_value_outliers(
    fingerprints: Sequence[Fingerprint], limit: float, names: Sequence[str] = ()
) -> Iterator[tuple[str, list[Finding]]]:
    """Finds cases whose volume of a class, or intensities, are far from those of all others.

    Of CT the median, the 99.5th percentile and the standard deviation of the foreground are compared; of other
    channels, whose scale and offset mean nothing, two numbers that neither changes. A value is compared with the
    set's median in the unit of `find_position_outliers`, on a logarithmic scale where all values are above 0. A
    case near two others (and near 2 % of the set) is no outlier.

    False alarms beyond 6 such deviations, counted in draws (tests/pipeline/test_value_outliers.py): of normal and
    log-normal values one case in 4,000 in sets of ten and none of 88,000 in sets of 220; of values with the
    heavy tails of a Student's t of 3 degrees one case in 250. None of the 220 hippocampi is one, nor of 244
    microscopy images.

    Args:
        fingerprints: Of all readable cases.
        limit: Largest distance from the median.
        names: Of the channels; one called CT is in HU.

    Yields:
        A case_id and what is remarkable about it.
    """
    for name in sorted({name for f in fingerprints for name in f.classes}):
        volumes = {f.case_id: f.classes[name].volume_mm3 for f in fingerprints if name in f.classes}
        present = {case_id: volume for case_id, volume in volumes.items() if volume > 0}
        text = f"the volume of {name}"
        yield from _judge(present, text, " mm3", "volume_outlier", limit)
    # Without foreground the intensities are those of all voxels, which compare with nothing.
    labelled = [f for f in fingerprints if any(found.voxels for found in f.classes.values())]
    fingerprints = labelled or fingerprints
    channels = max((len(f.intensity) for f in fingerprints), default=0)
    for index in range(channels):
        records = {f.case_id: f.intensity[index] for f in fingerprints if len(f.intensity) > index}
        absolute = index < len(names) and names[index].upper() == CT
        for name, of in (ABSOLUTE if absolute else RELATIVE).items():
            values = {case_id: of(channel) for case_id, channel in records.items()}
            values = {case_id: value for case_id, value in values.items() if math.isfinite(value)}
            text = f"the {name} of the intensities in channel {index}"
            yield from _judge(values, text, "", "intensity_outlier", limit)


def _judge(
    values: Mapping[str, float], name: str, unit: str, code: str, limit: float
) -> Iterator[tuple[str, list[Finding]]]:
    if len(values) < FEWEST_CASES:
        return
    raw = np.array(list(values.values()))
    positive = bool((raw > 0).all())
    numbers = np.log(raw) if positive else raw
    median = float(np.median(numbers))
    offsets = numbers - median
    spread = max(float(np.quantile(np.abs(offsets), q)) / sigmas for q, sigmas in QUANTILES.items())
    scaled = offsets / max(spread, VALUE_FLOOR if positive else HU_FLOOR)
    middle = math.exp(median) if positive else median
    for case_id, own, value in zip(values, scaled, raw, strict=True):
        if abs(own) <= limit:
            continue
        near = int((np.abs(scaled - own) < limit / 2).sum()) - 1
        if near >= max(2.0, VALUE_COMPANIONS * len(values)):
            continue
        reason = (
            f"{name} is {value:.4g}{unit}, {abs(own):.1f} robust deviations from the set's median "
            f"{middle:.4g}{unit}, limit inspect.value_outlier = {limit:g}"
        )
        text = f"set's median {middle:.4g}{unit}, inspect.value_outlier = {limit:g}"
        yield case_id, [Finding(code, reason, False, f"{value:.4g}{unit}", text)]


def _ratio(value: float, unit: float) -> float:
    return value / unit if unit > 0 else math.nan


def describe_copies(
    fingerprints: Sequence[Fingerprint], patients: Mapping[str, str]
) -> Iterator[tuple[str, list[Finding]]]:
    """What is wrong with copies: a remark, and another one where the original belongs to another patient.

    Args:
        fingerprints: Of the cases that may be copies.
        patients: The patient_id of each case.

    Yields:
        A case_id and its remarks.
    """
    for case_id, original in find_copies(fingerprints).items():
        reason = f"the image has the same voxels as {original}"
        findings = [Finding(f"duplicate_of:{original}", reason, False, original, "an image of its own")]
        if patients[case_id] != patients[original]:
            what = (
                f"one patient under two ids: the image of patient_id {patients[case_id]!r} is that of "
                f"{patients[original]!r} ({original})"
            )
            findings.append(Finding("same_patient", what, False, patients[case_id], patients[original]))
        yield case_id, findings


def _scale(positions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median, and offsets from it in robust deviations."""
    median = np.median(positions, axis=0)
    offsets = positions - median
    scales = [np.quantile(np.abs(offsets), q, axis=0) / sigmas for q, sigmas in QUANTILES.items()]
    return median, offsets / np.maximum(np.max(scales, axis=0), SPREAD_FLOOR)


def _text(position: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.2f}" for value in position) + ")"
