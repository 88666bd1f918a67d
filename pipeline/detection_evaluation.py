"""Detection metrics of a whole test set: pooled over cases, with intervals, by class and by object size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.config import EvaluateParams
from pipeline.detection import (
    average_precision,
    average_recall,
    bootstrap_average_precision,
    bootstrap_average_recall,
)
from pipeline.detection_cases import (
    AP_PARTS,
    DSB_NAMES,
    FROC_NAMES,
    IOUS,
    KINDS,
    PANOPTIC_NAMES,
    RECALL_DETECTIONS,
    ClassObjects,
    dsb_scores,
    measure_case,
)
from pipeline.froc import Marks, bootstrap_sensitivity, froc, sensitivity_at
from pipeline.intervals import draw_patients, mean_over_classes, name_estimate, to_estimate
from pipeline.matching import IOU_50_95, SIZE_RANGES, Detections, match

Values = NDArray[np.float64]
# A metric of one class: its value, those of the resamples (samples,), and in which cases (cases,) it is defined.
Pooled = dict[str, tuple[float, Values, NDArray[np.bool_]]]

# Diameters in mm. Below 6 mm no routine follow-up of a solid nodule is advised (Fleischner Society, 2017).
VOLUME_SIZES = {"small": (0.0, 6.0), "medium": (6.0, 10.0), "large": (10.0, math.inf)}
SIZE_METRICS = ("map_50_95", "map_10_50")


def measure_cases(
    objects: Sequence[ClassObjects], params: EvaluateParams
) -> dict[tuple[str, str], dict[str, float]]:
    """Metrics of each case and class alone, by case id and class; see `measure_case`."""
    return {
        (one.case_id, one.label): measure_case(one, params.max_detections, params.max_marks)
        for one in objects
    }


def summarise_detection(
    objects: Sequence[ClassObjects], params: EvaluateParams, split: str = "test"
) -> dict[str, float | None]:
    """Pooled detection metrics, as one flat record.

    `<split>/<class>/<metric>` is taken over all cases at once (the Kaggle score: the mean over cases), and
    `<split>/<metric>` is the mean over the classes that have one. Beside each stand `_ci_low` and `_ci_high`
    (percentile bootstrap over patients, all metrics see the same draws) and `_n`, the cases in which this
    metric is defined, as `measure_case` says; with fewer than two patients among them there is no interval.
    Numbers by object size have none of these.

    Args:
        objects: Of every case and class.
        params: Resamples and their seed, limits of detections and marks.
        split: First part of the names.
    """
    labels = list(dict.fromkeys(one.label for one in objects))
    by_label = {label: [one for one in objects if one.label == label] for label in labels}
    cases = list(dict.fromkeys((one.case_id, one.patient_id) for one in objects))
    patients = {patient: i for i, patient in enumerate(sorted({patient for _, patient in cases}))}
    owner = np.array([patients[patient] for _, patient in cases], dtype=np.intp)
    draws = draw_patients(len(patients), params.bootstrap_samples, params.seed)[:, owner]
    pooled = [_pool(by_label[label], draws, params) for label in labels]
    numbers: dict[str, float | None] = {}
    for name in pooled[0] if pooled else ():
        values = np.array([one[name][0] for one in pooled])
        resampled, defined = (np.stack([one[name][i] for one in pooled], axis=1) for i in (1, 2))
        columns = [("", float(mean_over_classes(values)), mean_over_classes(resampled), defined.any(axis=1))]
        columns += [(f"{n}/", values[i], resampled[:, i], defined[:, i]) for i, n in enumerate(labels)]
        for prefix, value, spread, here in columns:
            count = len(np.unique(owner[here]))
            estimate = to_estimate(value, spread, int(here.sum()), count)
            numbers |= name_estimate(f"{split}/{prefix}{name}", estimate)
    return numbers | _summarise_sizes(by_label, params, split)


def _pool(objects: Sequence[ClassObjects], draws: Values, params: EvaluateParams) -> Pooled:
    """All metrics of one class, over all cases and in each resample."""
    found: Pooled = {}
    for kind in KINDS:
        matches = [match(one.detections[kind], IOUS, params.max_detections) for one in objects]
        few = [match(one.detections[kind], IOU_50_95, RECALL_DETECTIONS) for one in objects]
        there = np.array([one.references > 0 for one in matches])
        precision, resampled = average_precision(matches), bootstrap_average_precision(matches, draws)
        for name, part in AP_PARTS.items():
            found[f"{kind}_{name}"] = float(precision[part].mean()), resampled[:, part].mean(axis=1), there
        recall = float(average_recall(few).mean())
        found[f"{kind}_mar_100"] = recall, bootstrap_average_recall(few, draws).mean(axis=1), there
    found |= _pool_dsb(objects, draws) | _pool_panoptic(objects, draws)
    marks = [one.marks for one in objects if one.marks is not None]
    return found | _pool_froc(marks, draws, params.max_marks) if marks else found


def _pool_dsb(objects: Sequence[ClassObjects], draws: Values) -> Pooled:
    scores = np.array([dsb_scores(one.dsb) for one in objects])
    defined = ~np.isnan(scores)
    every = np.vstack([np.ones((1, len(objects))), draws])
    means = _divide(every @ np.where(defined, scores, 0), every @ defined.astype(np.float64))
    return {name: (float(means[0, i]), means[1:, i], defined[:, i]) for i, name in enumerate(DSB_NAMES)}


def _pool_panoptic(objects: Sequence[ClassObjects], draws: Values) -> Pooled:
    """From sums over cases, as Kirillov et al. define it."""
    parts = [one.panoptic for one in objects]
    sums = np.array([[p.sq * p.tp if p.tp else 0.0, p.tp, p.fp, p.fn] for p in parts], dtype=np.float64)
    overlap, tp, fp, fn = (np.vstack([np.ones((1, len(objects))), draws]) @ sums).T
    weight = tp + fp / 2 + fn / 2
    quality = (
        _divide(overlap, weight),
        np.where(weight > 0, _divide(overlap, tp, 0.0), np.nan),
        _divide(tp, weight),
    )
    defined = ~np.isnan([p.pq for p in parts])
    return {
        name: (float(values[0]), values[1:], defined)
        for name, values in zip(PANOPTIC_NAMES, quality, strict=True)
    }


def _pool_froc(marks: Sequence[Marks], draws: Values, max_marks: int) -> Pooled:
    values, resampled = sensitivity_at(froc(marks, max_marks)), bootstrap_sensitivity(marks, draws, max_marks)
    there = np.array([len(one.nodules_mm) > 0 for one in marks])
    found = {name: (float(values[i]), resampled[:, i], there) for i, name in enumerate(FROC_NAMES)}
    return {"cpm": (float(values.mean()), resampled.mean(axis=1), there), **found}


def _divide(part: Values, whole: Values, otherwise: float = math.nan) -> Values:
    out: Values = np.full(np.shape(part), otherwise)
    np.divide(part, whole, out=out, where=whole > 0)
    return out


def is_flat(objects: Sequence[ClassObjects]) -> bool:
    """Whether the cases are pictures: then sizes are pixels, and there is no FROC."""
    return all(one.marks is None for one in objects)


def size_ranges(objects: Sequence[ClassObjects]) -> Mapping[str, tuple[float, float]]:
    """Smallest and largest size of each range: pixels of pictures, diameters in mm in volumes."""
    return SIZE_RANGES if is_flat(objects) else VOLUME_SIZES


def _summarise_sizes(
    by_label: Mapping[str, Sequence[ClassObjects]], params: EvaluateParams, split: str
) -> dict[str, float | None]:
    """Average precision by size of the objects, by class and as the mean over classes."""
    numbers: dict[str, float | None] = {}
    flat = is_flat([one for objects in by_label.values() for one in objects])
    for size, limits in (SIZE_RANGES if flat else VOLUME_SIZES).items():
        for kind in KINDS:
            values = []
            for objects in by_label.values():
                matches = [match(o.detections[kind], IOUS, params.max_detections, limits) for o in objects]
                values.append(average_precision(matches))
            for name in SIZE_METRICS:
                parts = np.array([value[AP_PARTS[name]].mean() for value in values])
                names = [f"{label}/" for label in by_label]
                for prefix, value in zip(["", *names], [mean_over_classes(parts), *parts], strict=True):
                    key = f"{split}/{prefix}{kind}_{name}_{size}"
                    numbers[key] = None if math.isnan(value) else float(value)
    return numbers


def count_objects(objects: Sequence[ClassObjects]) -> dict[str, dict[str, int]]:
    """Objects behind the numbers, by class: predicted ones, those of the reference, and these by size."""
    ranges = size_ranges(objects)
    counts: dict[str, dict[str, int]] = {}
    for one in objects:
        masks: Detections = one.detections["mask"]
        here = counts.setdefault(one.label, dict.fromkeys(("predicted", "reference", *ranges), 0))
        here["predicted"] += len(masks.scores)
        here["reference"] += len(masks.reference_sizes)
        for size, (low, high) in ranges.items():
            within = (masks.reference_sizes >= low) & (masks.reference_sizes <= high)
            here[size] += int(within.sum())
    return counts


def describe_detection(
    objects: Sequence[ClassObjects], params: EvaluateParams, settings: Mapping[str, object]
) -> dict[str, str]:
    """Says how the numbers of `summarise_detection` come about; stands beside them in `metrics.json`.

    Args:
        objects: Of every case and class.
        params: Limits.
        settings: Section `predict` with which the predictions were made.
    """
    flat = is_flat(objects)
    least, sure = (settings.get(key, "unknown") for key in ("min_score", "label_score"))
    sizes = (
        "pixels of the mask (of a predicted box: of the box), limits 32^2 and 96^2, as COCO"
        if flat
        else "diameter of the sphere of the mask's volume, for boxes too: below 6 mm, 6 to 10 mm, above"
    )
    text = {
        "objects": "instance maps of the references, else connected components (26 neighbours) of each class; "
        f"predicted masks do not overlap; predicted objects with a score of at least {least}",
        "average_precision": "COCO: greedy matching by score in each "
        f"{'image' if flat else 'volume, in 3D'}, all cases pooled, precision at 101 recalls; the name ends in "
        "the IoU in percent: 50_95 is the mean over .50:.05:.95, 10_50 over .10:.05:.50; mask = IoU of the "
        f"masks, box = of their boxes; at most {params.max_detections} objects a case and class "
        f"(mar_100: {RECALL_DETECTIONS}, mean recall over .50:.05:.95)",
        "object_size": f"small, medium, large: {sizes}",
        "scoreless": f"ap_dsb (Kaggle 2018: TP / (TP + FP + FN) a case, IoU above .50:.05:.95, mean over cases) and "
        "panoptic quality (Kirillov 2019, IoU above .5, pooled) take the objects that stand in the label map "
        f"(Mask R-CNN: score of at least {sure})",
        "case_columns": "cases.csv holds the metrics of each case alone, for paired comparison; the pooled ones "
        "rank the models. A case without a reference object of the class has no average precision, recall or "
        "FROC of its own and is left out of the pairs; its false alarms count in the pooled numbers",
    }
    if flat:
        text["unit"] = "a picture file has no physical size: in it 1 mm stands for 1 pixel"
    else:
        text["froc"] = (
            "LUNA16: a mark is an object's centre of gravity with its score; a hit lies within half the diameter of "
            "an annotated centre, the best of several counts; ignored findings count neither way (to average "
            f"precision, which needs masks, they do not exist); at most {params.max_marks} marks a case; "
            "sensitivity at 1/8, 1/4, 1/2, 1, 2, 4, 8 false positives a case, cpm is the mean of the seven"
        )
    return text
