"""What a run or version of MLflow holds, made from plain records: names, tags, params, metrics, text."""

from __future__ import annotations

import json
import math
import re
import socket
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

from flows.model_files import ModelFiles
from flows.provenance import user_name

LONGEST_PARAM = 6000
HEADLINES = (
    "dice",
    "reader_dice",
    "surface_dice",
    "hd95_mm",
    "mask_map_10_50",
    "mask_map_50",
    "mask_map_50_95",
    "ap_dsb_50",
    "cpm",
)


def dataset_name(bundle: Mapping[str, Any]) -> str:
    """Name of the data set a bundle was trained on: its experiment."""
    return str(bundle.get("provenance", {}).get("dataset") or bundle["plan"]["dataset"])


def run_name(model: str, milliseconds: int | None = None) -> str:
    """Such as `unet-20261121-0130` (UTC)."""
    seconds = time.time() if milliseconds is None else milliseconds / 1000
    return f"{model}-{datetime.fromtimestamp(seconds, UTC):%Y%m%d-%H%M}"


def run_tags(model: str, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Tags every run has; MLflow shows the first four as its source."""
    return {
        "mlflow.source.name": f"flows.train {model}",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": str(provenance.get("git_commit", "unknown")),
        "mlflow.user": user_name(),
        "segtrail.model": model,
        "segtrail.host": socket.gethostname(),
        **provenance_tags(provenance),
    }


def provenance_tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Provenance as tags; packages are in the artifact `provenance.json`."""
    keys = ("dataset", "data_digest", "dvc_lock_sha256", "git_commit", "git_dirty", "python", "started_from")
    tags = {f"segtrail.{key}": str(provenance[key])[:LONGEST_PARAM] for key in keys if key in provenance}
    parents = provenance.get("parents")
    return tags | {"segtrail.parents": " ".join(parents)} if parents else tags


def flatten_params(train: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, str]:
    """Params of a run: those of `train.<model>`, and `plan.<key>` for what the plan decided for its network."""
    decided = {key: value for key, value in plan.items() if key not in ("reasons", "alternatives")}
    return {key: value[:LONGEST_PARAM] for key, value in _flatten({**train, "plan": decided}, "")}


def _flatten(values: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = legal_name(f"{prefix}{key}")
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def legal_name(name: str) -> str:
    """A name of a metric or param that MLflow accepts: other characters become `_`."""
    return re.sub(r"[^/\w.\- :]", "_", name)


def epoch_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of a row of `history.csv`.

    Such as `train/loss`, `validation/dice` and `validation/<class>/dice`; of Mask R-CNN the parts of the loss
    (`train/loss_mask`) and `validation/mask_map_10_50`.
    """
    found = {}
    for column, text in row.items():
        if column == "epoch" or text in ("", None):
            continue
        name = column
        if column.startswith("validation_dice_"):
            name = f"validation/{column.removeprefix('validation_dice_')}/dice"
        elif column.startswith(("train_", "validation_")):
            name = column.replace("_", "/", 1)
        elif column in ("minutes", "seconds"):
            name = {"minutes": "time/minutes", "seconds": "time/epoch_seconds"}[column]
        value = float(text)
        if math.isfinite(value):
            found[legal_name(name)] = value
    return found


def dataset_input(dataset: str, digest: str, counts: Mapping[str, int]) -> DatasetInput:
    """The data set as MLflow knows it; nothing is read.

    Args:
        dataset: Folder below `data/raw`.
        digest: DVC's hash of the folder.
        counts: Number of cases a side of the split.
    """
    entity = Dataset(
        name=dataset,
        digest=digest[:36],
        source_type="local",
        source=json.dumps({"uri": f"data/raw/{dataset}"}),
        profile=json.dumps({"cases": counts}) if counts else None,
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


def evaluation_metrics(files: ModelFiles, milliseconds: int, model_id: str | None = None) -> list[Metric]:
    """The numbers of `metrics.json` as MLflow metrics.

    Args:
        files: An evaluated model.
        milliseconds: Time of the metrics; a later one wins where MLflow shows a single value.
        model_id: Attaches them to a logged model too.
    """
    numbers = files.load_metrics()["metrics"]
    found = {legal_name(name): value for name, value in numbers.items() if value is not None}
    return [Metric(name, float(value), milliseconds, 0, model_id=model_id) for name, value in found.items()]


def closing_metrics(scores: Mapping[str, float | None], milliseconds: int) -> list[Metric]:
    """The closing validation as MLflow metrics, such as `closing_validation/<class>/dice`.

    Args:
        scores: `validation_scores` of a bundle; those without a value are left out.
        milliseconds: When it ended.
    """
    found = {legal_name(f"closing_validation/{name}"): value for name, value in scores.items()}
    return [Metric(name, value, milliseconds, 0) for name, value in found.items() if value is not None]


def summarise_markdown(files: ModelFiles) -> str:
    """Headline numbers of a model as a Markdown table: the description of runs and versions.

    Overlaps are means over cases, numbers of objects are pooled over them.
    """
    record = files.load_metrics()
    metrics: dict[str, float | None] = record["metrics"]
    size = f"{record.get('n_cases', '?')} test cases of {record.get('n_patients', '?')} patients"
    reference = record.get("protocol", {}).get("reference")
    lines = [
        f"**{files.model}** on **{record.get('dataset', '')}**: {size}.",
        *(["", f"Reference: {reference}"] if reference else []),
        "",
        "| metric | value | 95 % interval | n |",
        "|---|---|---|---|",
    ]
    for name, value in metrics.items():
        low, high, n = (metrics.get(f"{name}_{end}") for end in ("ci_low", "ci_high", "n"))
        headline = name.rsplit("/", 1)[-1] in HEADLINES
        if headline and value is not None and low is not None and high is not None:
            lines.append(f"| {name} | {value:.4f} | {low:.4f} to {high:.4f} | {n or 0:.0f} |")
    return "\n".join(lines)
