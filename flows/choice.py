"""Which of the models that are present challenges the champion.

Test cases that choose among many configurations flatter the chosen one. So among models that were validated by the
same metric the validation cases choose; only between kinds, whose validation metrics differ, `register.metric` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flows.archive import Version
from flows.model_files import ModelFiles
from pipeline.errors import unknown_name
from pipeline.scores import parse_metric, rank

Group = dict[str, Any]  # what validation said of models with one metric


def choose_challenger(
    present: Sequence[str], versions: Mapping[str, Version], metric: str, preferred: Sequence[str | None]
) -> tuple[str | None, list[Group]]:
    """The best of the models that compete, by a test metric.

    Args:
        present: Bundle sha256 of the models trained now, in the order of `params.models`.
        versions: By bundle sha256.
        metric: `register.metric`.
        preferred: Who wins among equals, the first one of them; otherwise the first that is present.

    Returns:
        Its sha256, None when no competitor has a value; and what validation said: a record for each validation
        metric with its `metric`, the `winner` (None where no model has a score) and the `scores`.
    """
    validation = _compare_validation(present, versions, preferred)
    beaten = {
        line["bundle_sha256"]
        for group in validation
        for line in group["scores"]
        if line["score"] is not None and line["bundle_sha256"] != group["winner"]
    }
    values = {s: metric_value(versions[s].files, metric) for s in present if s not in beaten}
    ranks = {sha256: rank(metric, value) for sha256, value in values.items() if value is not None}
    return _best(ranks, preferred), validation


def metric_value(files: ModelFiles, metric: str) -> float | None:
    """A metric of a scored model, None where it is undefined.

    Raises:
        SegtrailError: There is no such metric, or none that is known for each case (such as one by size).
    """
    metrics: dict[str, float | None] = files.load_metrics()["metrics"]
    parse_metric(metric)
    legal = [name for name in metrics if f"{name}_ci_low" in metrics and name.startswith("test/")]
    if metric not in legal:
        raise unknown_name("metric", metric, legal, "params.yaml: register.metric")
    return metrics[metric]


def validation_result(files: ModelFiles) -> tuple[str, float | None]:
    """Metric and score of a model on its validation cases; None when none was measured.

    Of a U-Net the score is that of the closing validation, of Mask R-CNN the one that chose its weights.
    """
    bundle = files.load_bundle_record()
    score = bundle.get("validation_score")
    known = float(score) if isinstance(score, int | float) and math.isfinite(score) else None
    return str(bundle.get("validation_metric", "")), known


def _compare_validation(
    present: Sequence[str], versions: Mapping[str, Version], preferred: Sequence[str | None]
) -> list[Group]:
    groups: dict[str, dict[str, float | None]] = {}
    for sha256 in present:
        metric, score = validation_result(versions[sha256].files)
        groups.setdefault(metric, {})[sha256] = score
    return [
        {
            "metric": metric,
            "winner": _best({s: score for s, score in scores.items() if score is not None}, preferred),
            "scores": [
                {"bundle_sha256": s, "model": versions[s].model, "score": score}
                for s, score in scores.items()
            ],
        }
        for metric, scores in groups.items()
    ]


def _best(values: Mapping[str, float], preferred: Sequence[str | None]) -> str | None:
    """The key of the largest value; among equals the first one preferred, then the first."""
    best = [key for key, value in values.items() if value == max(values.values())]
    return next((key for key in preferred if key in best), best[0] if best else None)
