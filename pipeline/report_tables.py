"""Tables of the report on data, split and plan."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.cases import CaseRecord, usable_cases
from pipeline.report_inputs import ReportInputs

SIDES = ("train", "validation", "test")
DASH = "–"
KERNELS_REASON = (
    "3 along an axis; 1 while its voxels are twice as coarse as the finest"  # the plan states none
)
ALTERNATIVES = {
    "2d": "U-Net, 2d",
    "lowres": "U-Net, lowres",
    "residual": "Residual U-Net, full",
    "residual 2d": "Residual U-Net, 2d",
    "residual lowres": "Residual U-Net, lowres",
}  # of the plan, by `network` and `configuration` of a section of `train`
LARGEST_WHOLE = 1e9  # above, a float is shown by its power of ten


def format_number(value: float | None, digits: int = 0) -> str:
    """A number with thousands apart and a true minus sign; a dash for None."""
    if value is None:
        return DASH
    text = f"{value:,.{digits}f}".replace(",", "\u202f")
    if not text.strip("-0.\u202f"):
        text = text.lstrip("-")  # no "-0"
    return text.replace("-", "−")


def plain(value: Any) -> str:
    """A value of a JSON file as text: a dash for null, numbers with few digits."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and (value.is_integer() or 1000 <= abs(value) < LARGEST_WHOLE):
        return format_number(value)
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return str(value)


def moment(text: str) -> str:
    """A time of a JSON file (ISO 8601) for a person: "2026-11-20 22:19 UTC"; other text as it is."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text or DASH
    return (time.astimezone(UTC) if time.tzinfo else time).strftime("%Y-%m-%d %H:%M") + " UTC" * bool(
        time.tzinfo
    )


def spread(values: Iterable[float], digits: int = 0) -> str:
    """Text of a sample: "35 (29 to 43)", its median and range, or the one value it has."""
    numbers = sorted(values)
    if not numbers:
        return DASH
    low, middle, high = (
        format_number(v, digits) for v in (numbers[0], statistics.median(numbers), numbers[-1])
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def foreground(inputs: ReportInputs) -> dict[str, int]:
    """Foreground classes by their value in the label maps."""
    labels: Mapping[str, int] = inputs.facts.get("labels", {})
    return {name: value for name, value in sorted(labels.items(), key=lambda item: item[1]) if value != 0}


def geometry_rows(cases: Sequence[CaseRecord]) -> list[tuple[str, list[str]]]:
    """Shape, voxel size and extent along X, Y, Z of the usable cases."""
    usable = [c for c in usable_cases(cases) if len(c.shape) == 3 and len(c.spacing_mm) == 3]
    measures: list[tuple[str, int, Callable[[CaseRecord, int], float]]] = [
        ("Shape (voxels)", 0, lambda case, axis: case.shape[axis]),
        ("Voxel size (mm)", 2, lambda case, axis: case.spacing_mm[axis]),
        ("Extent (mm)", 0, lambda case, axis: case.shape[axis] * case.spacing_mm[axis]),
    ]
    return [
        (name, [spread((of(case, axis) for case in usable), digits) for axis in range(3)])
        for name, digits, of in measures
    ]


def class_rows(inputs: ReportInputs) -> list[tuple[str, int, str, str, str]]:
    """Name, value, cases with it, volume and components of each foreground class."""
    rows = []
    total = len(inputs.fingerprints)
    for name, value in foreground(inputs).items():
        records = [print_.get("classes", {}).get(name, {}) for print_ in inputs.fingerprints.values()]
        found = [record for record in records if record.get("voxels")]
        volumes = [float(record.get("volume_mm3", 0)) for record in found]
        large = bool(volumes) and statistics.median(volumes) >= 10_000
        volume = spread((v / 1000 for v in volumes), 1) if large else spread(volumes)
        unit = "mL" if large else "mm³"
        components = spread(float(record.get("components", 0)) for record in found)
        rows.append(
            (name, value, f"{len(found)} of {total}", f"{volume} {unit}" if found else DASH, components)
        )
    return rows


def intensity_rows(inputs: ReportInputs) -> list[tuple[str, list[str]]]:
    """Median over cases of foreground percentiles, one row a channel."""
    rows = []
    for index, channel in enumerate(inputs.facts.get("channels", [])):
        records = [p["intensity"][index] for p in inputs.fingerprints.values() if len(p["intensity"]) > index]
        keys = ("p00_5", "median", "p99_5", "std")
        values = [[float(r[key]) for r in records if key in r] for key in keys]
        rows.append((channel, [format_number(statistics.median(v), 1) if v else DASH for v in values]))
    return rows


def split_rows(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Cases, patients, share and presence of each class, for each side and in all."""
    patient = {case.case_id: case.patient_id for case in inputs.cases}
    rows = []
    for side in (*SIDES, "all"):
        members = [c for c, s in inputs.sides.items() if side in (s, "all")]
        holding = [
            sum(bool(_class_record(inputs, c, name).get("voxels")) for c in members)
            for name in foreground(inputs)
        ]
        rows.append(
            {
                "side": side,
                "cases": len(members),
                "patients": len({patient.get(c, c) for c in members}),
                "share": f"{100 * len(members) / max(len(inputs.sides), 1):.0f} %",
                "classes": holding,
            }
        )
    return rows


def _class_record(inputs: ReportInputs, case_id: str, label: str) -> Mapping[str, Any]:
    record: Mapping[str, Any] = inputs.fingerprints.get(case_id, {}).get("classes", {}).get(label, {})
    return record


def plan_rows(plan: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Title, key, value and reason of each decision of the plan."""
    reasons: Mapping[str, str] = {"kernels": KERNELS_REASON, **plan.get("reasons", {})}
    shown = {
        "dimensions": ("Network", f"{plan.get('dimensions', DASH)}D"),
        **dict(zip(("spacing_mm", "patch_size", "batch_size"), grid_facts(plan), strict=True)),
        "resampling": (
            "Resampling",
            {"linear": "trilinear", "cubic": "cubic convolution"}.get(plan.get("resampling", ""), DASH),
        ),
        "features": ("Feature maps", ", ".join(str(v) for v in plan.get("features", []))),
        "strides": ("Down-sampling", ", ".join("·".join(map(str, s)) for s in plan.get("strides", []))),
        "kernels": ("Kernels", ", ".join("·".join(map(str, k)) for k in plan.get("kernels", []))),
    }
    rows = [
        (title, key, value, reasons.get(key, DASH)) for key, (title, value) in shown.items() if key in plan
    ]
    for channel, entry in zip(plan.get("channels", []), plan.get("normalization", []), strict=False):
        key = f"normalization {channel}"
        reason = reasons.get(key, reasons.get("normalization", DASH))
        rows.append((f"Intensities, {channel}", "normalization", _normalization(entry), reason))
    names = plan.get("label_names", [])
    for region in plan.get("regions", []):
        classes, reason = [names[i] for i in region["labels"]], reasons.get(f"region {region['name']}", DASH)
        rows.append((f"Region {region['name']}", "regions", ", ".join(classes), reason))
    return rows + _alternative_rows(plan, reasons) + _detection_rows(plan.get("detection") or {}, reasons)


def _alternative_rows(plan: Mapping[str, Any], reasons: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """What may be trained in place of the plan's own network, and why another one may not."""
    planned: Mapping[str, Any] = plan.get("alternatives", {})
    rows = []
    for key, title in ALTERNATIVES.items():
        reason = reasons.get(key, DASH)
        if key in planned:
            grid = planned[key]
            value = f"{plain(grid.get('dimensions'))}D, {', '.join(text for _, text in grid_facts(grid))}"
            rows.append((title, key, value, reason))
        elif key in reasons:
            rows.append((title, key, "none", reason.removeprefix("none: ")))
    return rows


def grid_facts(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a network sees: name and text of voxel size, patch and batch of a plan, or of an alternative."""
    return [
        ("Voxel size", f"{joined(plan.get('spacing_mm', []), '.2f')} mm"),
        ("Patch", f"{joined(plan.get('patch_size', []))} voxels"),
        ("Batch", f"{plain(plan.get('batch_size'))} patches"),
    ]


def _detection_rows(
    detection: Mapping[str, Any], reasons: Mapping[str, str]
) -> list[tuple[str, str, str, str]]:
    """Decisions for Mask R-CNN; none where no case has an object."""
    if not detection:
        return []
    sizes = "; ".join(", ".join(f"{v:g}" for v in level) for level in detection.get("anchor_sizes", []))
    ratios = ", ".join(f"{v:.2g}" for v in detection.get("anchor_ratios", []))
    slices = detection.get("slices", 1)
    window = joined(detection.get("window", [])) + " pixels"
    window += f" of {slices} neighbouring slices" if slices > 1 else ""
    shown = {
        "detection_zoom": ("Mask R-CNN: zoom", f"{plain(detection.get('zoom'))} pixels a voxel"),
        "detection_window": ("Mask R-CNN: window", window),
        "anchor_sizes": ("Mask R-CNN: anchor edges", f"{sizes} pixels (pyramid levels apart by ;)"),
        "anchor_ratios": ("Mask R-CNN: anchor ratios", f"{ratios} (y over x)"),
        "detections": ("Mask R-CNN: objects", f"at most {plain(detection.get('detections'))} a window"),
    }
    return [(title, key, value, reasons.get(key, DASH)) for key, (title, value) in shown.items()]


def joined(values: Sequence[float], form: str = "") -> str:
    """Lengths along the axes: "80 × 64 × 40"."""
    return " × ".join(format(value, form) for value in values)


def _normalization(entry: Mapping[str, Any]) -> str:
    low, high, mean, std = (format_number(entry.get(key), 1) for key in ("low", "high", "mean", "std"))
    texts = {
        "ct": f"clipped to {low} to {high}, less {mean}, over {std}",
        "zscore": "mean 0 and deviation 1 in each case",
        "window": f"{low} to {high} becomes 0 to 1, clipped",
    }
    return texts.get(str(entry.get("scheme")), str(entry))
