"""What can be wrong with the voxels of one case, each check by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cases import Finding
from pipeline.config import InspectParams
from pipeline.grids import Grid, describe_difference
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import StoredImage, count_not_finite
from pipeline.volume import LabelMap

UNKNOWN_VALUE = "label_value_unknown"
HIGHEST_ID = 65535  # later stages store ids in 16 bits
SHOWN = 5  # ids that a reason lists
CT = "CT"  # name of a channel in HU
FEWEST_HU = 100.0  # between air, fat and water alone lie 1000
LOWEST_HU, HIGHEST_HU = -4096.0, 32767.0  # paddings reach to -3024, metal in extended HU to 30000
EIGHT_BITS = 255.0


def check_images(images: Mapping[str, StoredImage], colours: bool) -> list[Finding]:
    """Looks for voxels that are no numbers, and for channels without content.

    Args:
        images: By role, such as "image 0".
        colours: Whether channels are colours of one picture, of which some may be absent, but not all.
    """
    findings = []
    for role, image in images.items():
        bad = count_not_finite(image.array)
        if bad:
            what = f"{role}: {bad} of {image.array.size} voxels are NaN or Inf, limit 0"
            findings.append(Finding("not_finite", what, measured=f"{bad} voxels", limit="0"))
            continue
        constant = [channel.min() == channel.max() for channel in image.array]
        for index in np.flatnonzero(constant) if not colours or all(constant) else ():
            at = f"{role}, channel {index}" if len(image.array) > 1 else role
            value = image.array[index].flat[0]
            what = f"{at}: all voxels are {value:g}, expected at least two values"
            findings.append(Finding("constant_image", what, measured=f"{value:g}", limit="two values"))
    return findings


def check_channels(images: Sequence[StoredImage], facts: DatasetFacts) -> list[Finding]:
    """Compares the number of channels with the data set's."""
    count = sum(len(image.array) for image in images)
    if count == len(facts.channels):
        return []
    names = ", ".join(facts.channels)
    what = f"the image has {count} channel(s), dataset.json names {len(facts.channels)} ({names})"
    return [Finding("channel_count", what, measured=str(count), limit=str(len(facts.channels)))]


def compare_images(images: Mapping[str, StoredImage], params: InspectParams) -> list[Finding]:
    """Compares the grid of every image with that of the first, and the two forms of the first one's header."""
    if not images:
        return []
    (first_role, first_image), *others = images.items()
    first = Grid(first_image.array.shape[1:], first_image.affine)
    limit = params.affine_tolerance_mm
    text = f"inspect.affine_tolerance_mm = {limit:g}"
    findings = []
    for role, image in others:
        difference = describe_difference(first, Grid(image.array.shape[1:], image.affine), limit)
        if difference:
            what = f"{role} against {first_role}: {difference}, limit {text}"
            findings.append(Finding("geometry_mismatch", what, limit=text))
    conflict = first_image.form_conflict_mm
    if conflict > limit:
        measured = f"{conflict:.3g} mm"
        what = f"{first_role}: sform and qform differ by {measured}, the sform is used"
        findings.append(Finding("form_conflict", what, fatal=False, measured=measured, limit=text))
    return findings


def check_value_range(images: Mapping[str, StoredImage], facts: DatasetFacts) -> list[Finding]:
    """Looks for CT that is not in HU; of other modalities no range is known.

    CT holds air, at -1000 HU: without any voxel below 0 it was windowed, or the scanner's offset of 1024 is still on
    it. A crop of an organ may be like that by right, so this is a remark. Padding (-2000, -3024) is no fault.
    """
    names = facts.channels
    channels = [(role, channel) for role, image in images.items() for channel in image.array]
    findings = []
    for name, (role, channel) in zip(names, channels, strict=False):
        if name.upper() != CT or count_not_finite(channel):
            continue
        low, high = float(channel.min()), float(channel.max())
        if high - low < FEWEST_HU:
            why = "a span too small for HU: normalised, or a label"
        elif low < LOWEST_HU or high > HIGHEST_HU:
            why = "beyond what HU can be: rescaling applied twice, or lost"
        elif low >= 0:
            why = (
                "nothing below 0: windowed to 8 bits"
                if high <= EIGHT_BITS
                else ("nothing below 0: the offset of 1024 not taken off, or windowed")
            )
        else:
            continue
        measured = f"{low:g} to {high:g}"
        what = f"{role}: values reach from {measured}, {why}; expected HU, with air near -1000"
        findings.append(
            Finding("value_range", what, fatal=False, measured=measured, limit="HU, air near -1000")
        )
    return findings


def check_labels(label: LabelMap, facts: DatasetFacts) -> list[Finding]:
    """Looks for values that the data set does not know, and for a label without foreground or without any voxel
    that somebody labelled.
    """
    counts: Counter[int] = Counter()
    for plane in np.moveaxis(label.array, -1, 0):  # sorting small planes beats sorting the volume
        values, voxels = np.unique(plane, return_counts=True)
        counts.update(dict(zip(values.tolist(), voxels.tolist(), strict=True)))
    known = {*facts.labels.values(), *(() if facts.ignore is None else (facts.ignore,))}
    unknown = [f"{value} ({count} voxels)" for value, count in sorted(counts.items()) if value not in known]
    if unknown:
        legal = ", ".join(map(str, sorted(known)))
        what = f"label: value {', '.join(unknown)}; known are {legal}"
        return [Finding(UNKNOWN_VALUE, what, measured=", ".join(unknown), limit=legal)]
    if set(counts) == {facts.ignore}:
        what = f"label: every voxel has the ignore value {facts.ignore}"
        return [Finding("nothing_labelled", what, measured="0 voxels", limit="1 voxel")]
    if set(counts) <= {0, facts.ignore}:
        return [Finding("empty_label", "label: no voxel is foreground", False, "0 voxels", "1 voxel")]
    return []


def check_instances(instances: NDArray[np.integer[Any]], label: NDArray[np.integer[Any]]) -> list[Finding]:
    """Compares an instance map with the label map of the same shape.

    Returns:
        Fatal: ids below 0 or above 65535. Remarks: objects without any foreground, objects of more than one
        class, and voxels of objects that are background in the label map.
    """
    low, high = int(instances.min(initial=0)), int(instances.max(initial=0))
    if low < 0 or high > HIGHEST_ID:
        what = f"instances: ids reach from {low} to {high}, limit 0 to {HIGHEST_ID}; number them 1, 2, 3 ..."
        return [Finding("instance_ids", what, measured=f"{low} to {high}", limit=f"0 to {HIGHEST_ID}")]
    inside = instances.T > 0  # transposed: NIfTI stores X fastest, so the walk through memory is straight
    ids, values = instances.T[inside].astype(np.int64), label.T[inside]
    classes, index = np.unique(values, return_inverse=True)
    joint = np.bincount(ids * len(classes) + index, minlength=(high + 1) * len(classes))
    counts = joint.reshape(high + 1, len(classes))
    foreground = counts[:, classes > 0]
    used = counts.any(axis=1)
    findings = []
    without = np.flatnonzero(used & ~foreground.any(axis=1))
    if without.size:
        what = f"instances: {len(without)} of {used.sum()} objects lie on background alone: {_list(without)}"
        findings.append(Finding("instance_without_class", what, fatal=False))
    mixed = np.flatnonzero((foreground > 0).sum(axis=1) > 1)
    if mixed.size:
        what = f"instances: {len(mixed)} of {used.sum()} objects have several classes: {_list(mixed)}; "
        what += "the most frequent counts"
        findings.append(Finding("instance_of_two_classes", what, fatal=False))
    outside = int((values == 0).sum())
    if outside:
        what = f"instances: {outside} of {len(values)} voxels of objects are background in the label"
        findings.append(Finding("instance_outside_label", what, fatal=False))
    return findings


def _list(ids: NDArray[np.integer[Any]]) -> str:
    text = "id " + ", ".join(map(str, ids[:SHOWN].tolist()))
    return text + (" ..." if len(ids) > SHOWN else "")
