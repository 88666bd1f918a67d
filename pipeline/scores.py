"""One metric of every test case and class or region, and which of two values is the better one."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SegtrailError, unknown_name

IDENTITY = ("case_id", "patient_id", "label", "reference_voxels", "prediction_voxels", "kind", "reader_dice")

# Metrics of objects that walk down a list ranked by score, and those that know no score.
RANKED = re.compile(
    r"(mask|box)_(map_(50_95|50|75|10_50)(_(small|medium|large))?|mar_100)|cpm|froc_(0125|025|05|[1248])"
)
SCORELESS = re.compile(r"ap_dsb(_50|_75)?|(panoptic|segmentation|recognition)_quality")


@dataclass(frozen=True)
class CaseScore:
    """One metric of one class or region in one test case.

    Attributes:
        value: NaN where the metric is undefined.
        reference_voxels: Size of the class or region in the reference.
        prediction_voxels: Its size in the prediction.
    """

    case_id: str
    patient_id: str
    label: str
    value: float
    reference_voxels: int
    prediction_voxels: int


def parse_metric(name: str) -> tuple[str, str]:
    """Class or region ("" for the mean) and column of a name such as `test/dice` or `test/<class>/dice`.

    Raises:
        SegtrailError: It is not a metric of the test cases.
    """
    split, *label, column = name.split("/")
    if split != "test" or not column:
        raise SegtrailError(
            f"register.metric is {name!r}, expected test/<metric> or test/<class>/<metric>",
            "params.yaml: register.metric",
            "name a metric of the test cases, such as test/dice",
        )
    return "/".join(label), column


def is_ranked(metric: str) -> bool:
    """Whether a metric takes objects ranked by score; of a case without an object to be found it is undefined."""
    return RANKED.fullmatch(metric.rsplit("/", 1)[-1]) is not None


def is_detection(metric: str) -> bool:
    """Whether a metric is about objects, also one of objects of one size."""
    return is_ranked(metric) or SCORELESS.fullmatch(metric.rsplit("/", 1)[-1]) is not None


def lower_is_better(metric: str) -> bool:
    """Whether a metric is a distance or an error; an error is compared by its size."""
    return metric.endswith("_mm") or is_error(metric)


def is_error(metric: str) -> bool:
    """Whether a metric is a signed error, best at 0."""
    return "error" in metric.rsplit("/", 1)[-1]


def rank(metric: str, value: float) -> float:
    """A number that is larger for the better value."""
    size = abs(value) if is_error(metric) else value
    return -size if lower_is_better(metric) else size


def load_scores(path: Path, metric: str) -> list[CaseScore]:
    """Reads one metric of a `cases.csv` of `data/metrics`: of all regions where overlaps have any, else classes.

    A class that the metric itself names is read beside the regions.

    Args:
        path: The table.
        metric: Name as in `register.metric`.

    Raises:
        SegtrailError: The file is missing, or has no such metric.
    """
    label, column = parse_metric(metric)
    rows, columns = _read_table(path)
    if column not in columns or column in IDENTITY:
        legal = [f"test/{name}" for name in columns if name not in IDENTITY]
        raise unknown_name("metric", metric, legal, "params.yaml: register.metric")
    regions = _regions(rows)
    wanted = set() if is_detection(column) else regions.keys()
    return [
        CaseScore(
            case_id=row["case_id"],
            patient_id=row["patient_id"],
            label=row["label"],
            value=float(row[column] or "nan"),
            reference_voxels=int(row["reference_voxels"]),
            prediction_voxels=int(row["prediction_voxels"]),
        )
        for row in rows
        if (row["label"] in {*wanted, label} if wanted else row["label"] not in regions)
    ]


def has_metric(path: Path, metric: str) -> bool:
    """Whether `load_scores` finds a metric in a table."""
    column = parse_metric(metric)[1]
    return column not in IDENTITY and column in _read_table(path)[1]


def scored_labels(path: Path, metric: str) -> tuple[str, tuple[str, ...]]:
    """What `load_scores` gives a metric of: "regions" or "classes", and their names.

    Args:
        path, metric: See `load_scores`; the table may lack the metric.
    """
    rows, _ = _read_table(path)
    regions = _regions(rows)
    if regions and not is_detection(metric):
        return "regions", tuple(regions)
    return "classes", tuple(dict.fromkeys(row["label"] for row in rows if row["label"] not in regions))


def _regions(rows: Iterable[Mapping[str, str]]) -> dict[str, None]:
    """Names of the regions, in their order."""
    return dict.fromkeys(row["label"] for row in rows if row.get("kind") == "region")


def _read_table(path: Path) -> tuple[list[dict[str, str]], Sequence[str]]:
    """Rows and column names."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            return list(reader), reader.fieldnames or []
    except FileNotFoundError as error:
        raise SegtrailError("the table of case metrics is missing", str(path), "dvc repro") from error
