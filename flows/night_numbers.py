"""The numbers of a night that a person compares: champion and challenger on the test set, and their difference."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flows.archive import version_folder
from flows.model_files import load_json
from pipeline.errors import SegtrailError
from pipeline.report_files import finite
from pipeline.report_metrics import MetricFormat, metric_format, split_name
from pipeline.report_tables import DASH, format_number

Record = Mapping[str, Any]
SHORT = 12  # characters of a sha256 that stand for a version without a number
FINE_DIGITS = 4  # of a difference


@dataclass(frozen=True)
class Score:
    """A number with its 95 % interval; None where it is not known.

    Attributes:
        n: Test cases behind it.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
        label: A class or region; "" for the number that decides.
        difference: Paired over the test cases, positive when the challenger is better.
    """

    label: str
    champion: Score
    challenger: Score
    difference: Score


@dataclass(frozen=True)
class Comparison:
    """Champion before the night against the challenger of the night.

    Attributes:
        name: Of the registered model.
        metric: Such as "test/dice".
        champion, challenger: Version such as "v6", or the first 12 characters of a bundle's sha256; "" for none.
        rows: The number that decides first, then every class, where there is more than one.
    """

    name: str
    metric: str
    champion: str
    challenger: str
    rows: tuple[Row, ...]

    @property
    def shown(self) -> MetricFormat:
        """How the metric is written."""
        return metric_format(self.metric)

    def value(self, score: Score) -> str:
        """Such as "0.912 (0.893 to 0.927, n = 26)"."""
        text = self.shown.text(score.value)
        if score.value is None:
            return text
        about = [] if score.low is None or score.high is None else [self.interval(score)]
        about += [] if score.n is None else [f"n = {score.n}"]
        unit = f" {self.shown.unit}" if self.shown.unit else ""
        return text + unit + (f" ({', '.join(about)})" if about else "")

    def interval(self, score: Score) -> str:
        """Such as "0.893 to 0.927"; a dash where there is none."""
        if score.low is None or score.high is None:
            return DASH
        return f"{self.shown.text(score.low)} to {self.shown.text(score.high)}"

    def change(self, value: float | None, digits: int = FINE_DIGITS) -> str:
        """A difference with its sign, such as "+0.0081"; a dash for None."""
        if value is None:
            return DASH
        number = value * self.shown.factor
        return ("+" if number > 0 else "") + format_number(number, digits)

    def change_interval(self, score: Score) -> str:
        """Such as "+0.0031 to +0.0130"; a dash where there is none."""
        if score.low is None or score.high is None:
            return DASH
        return f"{self.change(score.low)} to {self.change(score.high)}"


def compare(night: Record) -> Comparison | None:
    """The comparison of a night; None of a night that decided nothing."""
    decision = night.get("decision")
    if not decision:
        return None
    name, metric = str(decision["name"]), str(decision["metric"])
    challenger, champion = decision.get("challenger"), decision.get("champion_before")
    if night["state"] == "kept" or challenger == champion:  # a decision of an earlier night still stands
        challenger, champion = None, decision.get("champion_after")
    scores = {sha256: load_metrics(name, sha256) for sha256 in (champion, challenger) if sha256}
    numbers = decision.get("numbers") or {}
    labels = _labels(metric, numbers, scores.get(challenger) or scores.get(champion) or {})
    return Comparison(
        name=name,
        metric=metric,
        champion=version_name(night, champion),
        challenger=version_name(night, challenger),
        rows=tuple(
            Row(
                label=label,
                champion=_score(scores.get(champion, {}), _key(metric, label)),
                challenger=_score(scores.get(challenger, {}), _key(metric, label)),
                difference=_difference(numbers, label) if challenger else Score(),
            )
            for label in ("", *labels)
        ),
    )


def version_name(night: Record, sha256: str | None) -> str:
    """MLflow's number of a version, such as "v7"; without one the start of its sha256; "" for none."""
    if not sha256:
        return ""
    number = (night.get("version_numbers") or {}).get(sha256)
    return f"v{number}" if number else str(sha256)[:SHORT]


def load_metrics(name: str, sha256: str) -> Record:
    """The flat metrics of an archived version; empty when the archive lacks it."""
    try:
        return dict(
            load_json(version_folder(name, sha256) / "metrics" / "metrics.json", "register")["metrics"]
        )
    except (SegtrailError, KeyError):
        return {}


def load_score(name: str, sha256: str | None, metric: str) -> Score:
    """Score of an archived version; without a value when there is none."""
    return _score(load_metrics(name, sha256), metric) if sha256 else Score()


def version_page(night: Record) -> str:
    """Address of the page in MLflow that shows the version the night was about; "" when there is none.

    MLflow without a server of its own is looked at through `segtrail ui`, whose first port is 5000.
    """
    decision = night.get("decision") or {}
    version = (night.get("version_numbers") or {}).get(
        decision.get("challenger") or decision.get("champion_after")
    )
    if not version:
        return ""
    address, server = os.environ.get("MLFLOW_TRACKING_URI", ""), "http://127.0.0.1:5000"
    if address.startswith(("http://", "https://")):
        parts = urlsplit(address)  # its user and password stay here
        server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    return f"{server}/#/models/{decision['name']}/versions/{version}"


def _key(metric: str, label: str) -> str:
    split, _, column = split_name(metric)
    return f"{split}/{label}/{column}" if label else metric


def _labels(metric: str, numbers: Record, metrics: Record) -> list[str]:
    """Classes or regions of the comparison; none when there is a single one."""
    split, _, column = split_name(metric)
    pattern = re.compile(rf"{re.escape(split)}/([^/]+)/{re.escape(column)}")
    compared = [key.removesuffix("/improvement") for key in numbers if key.endswith("/improvement")]
    labels = compared or [match[1] for key in metrics if (match := pattern.fullmatch(key))]
    return labels if len(labels) > 1 else []


def _score(metrics: Record, key: str) -> Score:
    value, low, high, n = (finite(metrics.get(key + end)) for end in ("", "_ci_low", "_ci_high", "_n"))
    return Score(value, low, high, None if n is None else round(n))


def _difference(numbers: Record, label: str) -> Score:
    key = f"{label}/improvement" if label else "improvement"
    value, low, high = (finite(numbers.get(key + end)) for end in ("", "_ci_low", "_ci_high"))
    n = None if label else finite(numbers.get("n_cases"))
    return Score(value, low, high, None if n is None else round(n))
