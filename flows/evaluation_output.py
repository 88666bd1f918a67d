"""What the stage `evaluate` shows beside its numbers: curves, overlays and the closing table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.cases import CaseRecord
from pipeline.config import EvaluateParams
from pipeline.detection_cases import ClassObjects
from pipeline.detection_curves import froc_points, precision_recall_points, save_froc, save_precision_recall
from pipeline.ignored_voxels import crop_prediction, find_ignored, hide_ignored
from pipeline.instances import find_instances
from pipeline.io.case_maps import load_instance_ids, load_reference
from pipeline.io.dataset import DatasetFacts
from pipeline.io.images import load_volume
from pipeline.object_overlays import draw_objects
from pipeline.object_states import judge_objects
from pipeline.overlays import draw_overlay, pick_cases
from pipeline.plots import draw_froc, draw_precision_recall
from pipeline.prediction_files import PredictionFiles, load_prediction
from pipeline.views import is_picture

BUSIEST = "busiest"
Points = list[tuple[float, float]]


def draw_curves(objects: Sequence[ClassObjects], params: EvaluateParams, folder: Path) -> None:
    """Writes the curves as tables and, below `plots`, as pictures; FROC of volumes alone."""
    several = len({one.label for one in objects}) > 1
    points = precision_recall_points(objects, params)
    save_precision_recall(points, folder / "precision_recall.csv")
    curves: dict[str, Points] = {}
    for point in points:
        name = f"{point.label}, IoU {point.iou:g}" if several else f"IoU {point.iou:g}"
        curves.setdefault(name, []).append((point.recall, point.precision))
    draw_precision_recall(curves, folder / "plots" / "precision_recall.png")
    if all(one.marks is None for one in objects):
        return
    corners = froc_points(objects, params)
    save_froc(corners, folder / "froc.csv")
    by_class: dict[str, Points] = {}
    for corner in corners:
        place = (corner.false_positives_per_scan, corner.sensitivity)
        by_class.setdefault(corner.label, []).append(place)
    draw_froc(by_class, folder / "plots" / "froc.png")


def draw_overlays(
    cases: Sequence[CaseRecord],
    predictions: Mapping[str, PredictionFiles],
    dice: Mapping[str, float],
    objects: Sequence[ClassObjects],
    facts: DatasetFacts,
    folder: Path,
) -> None:
    """Draws the best, the median and the worst case by mean Dice, and the one with most reference objects.

    The last one is the same case for every model. Of a volume there are two pictures: three planes through
    the largest object, and the slices with most objects.
    """
    folder.mkdir()
    by_id = {case.case_id: case for case in cases}
    for role, case_id in (pick_cases(dice) | _pick_busiest(objects)).items():
        case = by_id[case_id]
        volume = load_volume([Path(path) for path in case.images])
        reference = load_reference(case, volume.affine)
        prediction = load_prediction(predictions[case_id], facts.foreground)
        ignored = find_ignored(reference, facts.ignore)
        reference = hide_ignored({"label": reference}, ignored)["label"]
        title = f"{case_id}, {role} case" + (f", Dice {dice[case_id]:.3f}" if case_id in dice else "")
        ids = load_instance_ids(case, volume.affine)
        if ids is None:
            ids = find_instances(reference.array)
        states = judge_objects(reference, ids, crop_prediction(prediction, ignored))
        draw_objects(volume, *states, folder / f"objects_{role}_{case_id}.png", title)
        if not is_picture(volume) and role != BUSIEST:
            path = folder / f"{role}_{case_id}.png"
            draw_overlay(volume, prediction.label_map, reference, path, title, facts.foreground, ignored)


def _pick_busiest(objects: Sequence[ClassObjects]) -> dict[str, str]:
    """The case with most reference objects, the first by case id among equals; none without an object."""
    counts: dict[str, int] = {}
    for one in objects:
        counts[one.case_id] = counts.get(one.case_id, 0) + one.detections["mask"].overlaps.shape[1]
    most = max(counts.values(), default=0)
    return {BUSIEST: min(case_id for case_id, count in counts.items() if count == most)} if most else {}


def format_table(
    numbers: Mapping[str, float | None], labels: Sequence[str], regions: Sequence[str] = ()
) -> list[str]:
    """Lines of the closing table, by class: Dice, HD95 and average precision, of volumes also the CPM.

    Regions come first, with the means: those of overlaps are over regions, those of objects over classes.

    Args:
        numbers: From `summarise` and `summarise_detection`.
        labels: Names of the foreground classes.
        regions: Names of the overlapping regions, if there are any.
    """
    volumes = "test/cpm" in numbers
    columns = {"dice": "Dice", "hd95_mm": "HD95 mm"}
    columns |= (
        {"mask_map_10_50": "mask mAP .10:.50", "cpm": "CPM"} if volumes else {"mask_map_50": "mask mAP .50"}
    )
    rows = [("region or class" if regions else "class", *columns.values())]
    names = {name: f"test/{name}/" for name in regions or labels}
    if regions or len(labels) > 1:
        names["mean of regions" if regions else "mean of classes"] = "test/"
    names |= {name: f"test/{name}/" for name in labels}
    if "baseline_otsu_lung/dice" in numbers:
        names["otsu_lung baseline"] = "baseline_otsu_lung/"
    for name, prefix in names.items():
        rows.append((name, *(_cell(numbers, f"{prefix}{column}") for column in columns)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _cell(numbers: Mapping[str, float | None], key: str) -> str:
    """Value, 95 % interval and number of cases: "0.812 [0.700, 0.900] n=7"."""
    value, low, high, n = (numbers.get(key + end) for end in ("", "_ci_low", "_ci_high", "_n"))
    if value is None:
        return "-"
    digits = 2 if key.endswith("_mm") else 3
    interval = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{interval} n={n or 0:.0f}"
