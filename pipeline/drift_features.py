"""What of a case is compared to find drift, as a table that stays when the case is gone: one row a case."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import SegtrailError
from pipeline.fingerprint import Fingerprint

FINGERPRINTS = "fingerprints.csv"  # of `data/inspected`, and of an archived version
PREDICTED = "predicted.csv"  # of `data/metrics/<model>`: of the test cases, as the model sees them
WHOLE = "_whole"  # ends the name of an intensity that was measured over all voxels
DIGITS = 6  # significant ones that are kept: equal spacings of differently rounded headers stay equal

Features = dict[str, float | None]


def fingerprint_features(fingerprint: Fingerprint, channels: Sequence[str]) -> Features:
    """Spacing in mm along R, A, S (x, y, z), mean and deviation of each channel, volume of each class in mm3.

    Intensities are those of the labelled voxels. Of a case where nothing is labelled they are those of all voxels,
    which is another feature: the two cannot be compared.

    Args:
        fingerprint: With or without samples.
        channels: Names, in the order of the data set; one alone is not named.
    """
    features: Features = {
        f"spacing_{axis}_mm": value for axis, value in zip("xyz", fingerprint.spacing_mm, strict=True)
    }
    basis = "" if any(one.voxels for one in fingerprint.classes.values()) else WHOLE
    for name, channel in zip(channels, fingerprint.intensity, strict=True):
        own = f"_{name}" if len(channels) > 1 else ""
        features |= {
            f"intensity_mean{own}{basis}": channel.mean,
            f"intensity_deviation{own}{basis}": channel.std,
        }
    return features | {f"volume_{name}_mm3": one.volume_mm3 for name, one in fingerprint.classes.items()}


def predicted_features(record: Mapping[str, Any]) -> Features:
    """Volume of each label in mm3 (2D: area in mm2) and the uncertainty of a model.

    Args:
        record: What `pipeline.prediction_record.measure_prediction` returned, or the JSON it stands in.
    """
    features: Features = {
        f"predicted_{name}_{size.partition('_')[2]}": value
        for name, sizes in record.get("labels", {}).items()
        for size, value in sizes.items()
        if size != "voxels"
    }
    return features | {"uncertainty": record.get("uncertainty")}


def save_features(rows: Mapping[str, Features], path: Path) -> None:
    """Writes the table as CSV, by case id; what is unknown is left empty."""
    names = list(dict.fromkeys(name for _, features in sorted(rows.items()) for name in features))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["case_id", *names])
        for case_id, features in sorted(rows.items()):
            writer.writerow([case_id, *(_cell(features.get(name)) for name in names)])


def _cell(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{DIGITS}g}"


def load_features(path: Path) -> dict[str, Features]:
    """Reads the table that `save_features` wrote, by case id.

    Raises:
        SegtrailError: The file is missing or is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return {
            row["case_id"]: {
                name: float(text) if text else None for name, text in row.items() if name != "case_id"
            }
            for row in rows
        }
    except FileNotFoundError as error:
        raise SegtrailError("the table of features is missing", str(path), "dvc repro") from error
    except (KeyError, TypeError, ValueError) as error:
        raise SegtrailError(f"this is no table of features: {error!r}", str(path), "dvc checkout") from error


def to_columns(rows: Mapping[str, Features]) -> dict[str, list[float | None]]:
    """Values of each feature, over the cases."""
    names = dict.fromkeys(name for features in rows.values() for name in features)
    return {name: [features.get(name) for features in rows.values()] for name in names}
