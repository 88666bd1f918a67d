"""How the report names, explains and rounds each metric."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.report_tables import format_number


@dataclass(frozen=True)
class MetricFormat:
    """How a metric is shown.

    Attributes:
        title: Name in words.
        meaning: One sentence for a reader who has not met it.
        unit: "" for a share of 1.
        digits: After the decimal point.
        factor: The shown number is the metric times this.
    """

    title: str
    meaning: str
    unit: str = ""
    digits: int = 3
    factor: float = 1.0

    def text(self, value: float | None) -> str:
        """The number with its digits, without the unit; a dash for None."""
        return format_number(None if value is None else value * self.factor, self.digits)


METRICS = {
    "dice": MetricFormat("Dice", "twice the common volume over the sum of both volumes; 1 is identical"),
    "reader_dice": MetricFormat(
        "Dice between readers",
        "mean of each two human readers, who never see what the model finds; the same for all models",
    ),
    "jaccard": MetricFormat("Jaccard", "common volume over the volume of both together"),
    "surface_dice": MetricFormat("Surface Dice", "share of both surfaces that lies within the tolerance"),
    "hd95_mm": MetricFormat("HD95", "95th percentile of the distances between the surfaces", "mm", 2),
    "assd_mm": MetricFormat("ASSD", "mean distance between the surfaces", "mm", 2),
    "precision": MetricFormat("Precision", "share of the predicted volume that is right"),
    "recall": MetricFormat("Recall", "share of the reference volume that was found (sensitivity)"),
    "f1": MetricFormat("F1", "harmonic mean of precision and recall; equal to Dice"),
    "specificity": MetricFormat(
        "Specificity", "share of the rest of the image that was left alone", digits=4
    ),
    "accuracy": MetricFormat("Accuracy", "share of all voxels that are right", digits=4),
    "volume_error_mm3": MetricFormat("Volume error", "predicted less reference volume", "mm³", 0),
    "relative_volume_error": MetricFormat(
        "Relative volume error", "the same as a share of the reference volume", "%", 1, 100.0
    ),
}

AP_MEANING = "average precision of {kind}: area under the precision-recall curve over all cases, {iou}"
AP_PARTS = {
    "map_50_95": ("mAP .50:.95", "mean over IoU .50:.05:.95 (COCO)"),
    "map_50": ("AP .50", "a hit from an IoU of .50"),
    "map_75": ("AP .75", "a hit from an IoU of .75"),
    "map_10_50": ("mAP .10:.50", "mean over IoU .10:.05:.50"),
}
KINDS = {"mask": "masks", "box": "boxes"}
SIZES = ("small", "medium", "large")


def _detection_formats() -> dict[str, MetricFormat]:
    found = {}
    for kind, plural in KINDS.items():
        for name, (title, iou) in AP_PARTS.items():
            meaning = AP_MEANING.format(kind=plural, iou=iou)
            found[f"{kind}_{name}"] = MetricFormat(f"{kind.capitalize()} {title}", meaning)
        meaning = f"share of the objects found by the 100 best {plural}, mean over IoU .50:.05:.95"
        found[f"{kind}_mar_100"] = MetricFormat(f"{kind.capitalize()} mAR 100", meaning)
    found["cpm"] = MetricFormat("CPM", "mean sensitivity at 1/8 to 8 false positives a scan (LUNA16)")
    rates = {"0125": "1/8", "025": "1/4", "05": "1/2", "1": "1", "2": "2", "4": "4", "8": "8"}
    for name, rate in rates.items():
        meaning = f"share of the nodules found at {rate} false positives a scan"
        found[f"froc_{name}"] = MetricFormat(f"Sensitivity at {rate} FP", meaning)
    for end, iou in (
        ("", "mean over IoU above .50:.05:.95"),
        ("_50", "IoU above .50"),
        ("_75", "IoU above .75"),
    ):
        meaning = f"TP / (TP + FP + FN) of the objects of a case, {iou} (Kaggle 2018)"
        found[f"ap_dsb{end}"] = MetricFormat("DSB score" + end.replace("_", " ."), meaning)
    found["panoptic_quality"] = MetricFormat("Panoptic quality", "segmentation times recognition quality")
    found["segmentation_quality"] = MetricFormat(
        "Segmentation quality", "mean IoU of the objects that were found"
    )
    found["recognition_quality"] = MetricFormat(
        "Recognition quality", "F1 of the objects at an IoU above .50"
    )
    return found


DETECTION = _detection_formats()


def metric_format(name: str) -> MetricFormat:
    """How a metric of `metrics.json` is shown; one that is not known here gets three digits."""
    name = name.rsplit("/", 1)[-1]
    return METRICS.get(name) or DETECTION.get(name) or MetricFormat(name, "")


def split_name(name: str) -> tuple[str, str, str]:
    """Parts of a flat metric name: split, class ("" for the mean over classes), metric."""
    head, *middle, metric = name.split("/")
    return head, "/".join(middle), metric
