"""One MLflow run as a view of the files of one model: each part is written once, and again when it changed."""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from flows.model_files import WEIGHTS, ModelFiles, digest_files
from flows.tracking_content import (
    dataset_input,
    dataset_name,
    epoch_metrics,
    evaluation_metrics,
    flatten_params,
    provenance_tags,
    run_name,
    run_tags,
    summarise_markdown,
)
from flows.tracking_store import ensure_experiment, find_run, local_path

BATCH = 100
METRIC_BATCH = 1000
METRICS_TIME = "segtrail.metrics_time_ms"


@dataclass(frozen=True)
class Part:
    """A part of a run that is synced on its own.

    Attributes:
        name: Of the tag `segtrail.<name>_sha256`.
        digest: Of the files behind it.
        folder: Artifact folder it fills, "" for none.
        write: Brings it into the run.
    """

    name: str
    digest: str
    folder: str
    write: Callable[[MlflowClient, Run], None]

    @property
    def tag(self) -> str:
        """Tag that holds the digest."""
        return f"segtrail.{self.name}_sha256"


def sync_run(client: MlflowClient, files: ModelFiles) -> str:
    """Makes the run of a model agree with its files.

    Args:
        client: The store.
        files: The model; parts whose files do not exist yet are left out.

    Returns:
        The run's id: the one in `run.json`, or of the run that replaces it.
    """
    run = _find_or_create(client, files)
    root = local_path(run.info.artifact_uri)
    for part in _parts(files):
        gone = bool(part.folder) and root is not None and not (root / part.folder).is_dir()
        if run.data.tags.get(part.tag) != part.digest or gone:
            if part.folder:
                repository = get_artifact_repository(run.info.artifact_uri)
                repository.delete_artifacts(part.folder)  # type: ignore[no-untyped-call]
            part.write(client, run)
            client.set_tag(run.info.run_id, part.tag, part.digest)
    if (
        run.info.status != "FINISHED"
    ):  # MLflow was away when it ended: only a finished training has a `run.json`
        client.set_terminated(run.info.run_id, "FINISHED", _milliseconds(files.load_run().get("finished")))
    return str(run.info.run_id)


def _find_or_create(client: MlflowClient, files: ModelFiles) -> Run:
    record, bundle = files.load_run(), files.load_bundle_record()
    experiment_id = ensure_experiment(client, dataset_name(bundle))
    run_id = str(record.get("run_id") or f"bundle-{record['bundle_sha256']}")
    run = find_run(client, experiment_id, run_id)
    if run is not None:
        return run
    started, finished = (_milliseconds(record.get(key)) for key in ("started", "finished"))
    tags = run_tags(files.model, bundle.get("provenance", {}))
    run = client.create_run(
        experiment_id,
        start_time=started,
        tags={**tags, "recovered_from": run_id},
        run_name=run_name(files.model, started),
    )
    client.set_terminated(run.info.run_id, "FINISHED", finished)
    return client.get_run(run.info.run_id)


def _milliseconds(iso: Any) -> int | None:
    """Milliseconds since 1970, None when it is no time."""
    try:
        return round(datetime.fromisoformat(str(iso)).timestamp() * 1000)
    except ValueError:
        return None


def log_metrics(client: MlflowClient, run_id: str, metrics: Sequence[Metric]) -> None:
    """Logs any number of metrics in batches."""
    for start in range(0, len(metrics), METRIC_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + METRIC_BATCH])


def log_params(client: MlflowClient, run: Run, params: Mapping[str, str]) -> None:
    """Logs the params a run does not have yet; MLflow refuses to change one."""
    new = [Param(key, value) for key, value in params.items() if key not in run.data.params]
    for start in range(0, len(new), BATCH):
        client.log_batch(run.info.run_id, params=new[start : start + BATCH])


def _parts(files: ModelFiles) -> list[Part]:
    bundle = files.load_bundle_record()
    params = flatten_params(bundle.get("params", {}), bundle.get("plan", {}))
    digest = str(bundle.get("provenance", {}).get("data_digest", "unknown"))
    counts = count_sides(files.splits)
    own = [path for path in sorted(files.folder.iterdir()) if path.name != WEIGHTS]
    data = [files.plan, files.splits, files.cases, files.dataset]
    parts = [
        Part("params", _sha256(params), "", lambda c, r: log_params(c, r, params)),
        Part(
            "dataset",
            _sha256([digest, counts]),
            "",
            lambda c, r: c.log_inputs(r.info.run_id, [dataset_input(dataset_name(bundle), digest, counts)]),
        ),
        Part(
            "history",
            digest_files([files.folder / "history.csv"]),
            "",
            lambda c, r: _log_history(c, r, files),
        ),
        Part("model", digest_files(own), "model", _uploader(own, "model")),
        Part("data", digest_files(data), "data", _uploader(data, "data")),
    ]
    if files.evaluated:
        parts += _evaluation_parts(files)
    if files.provenance is not None:
        provenance = files.provenance
        parts.append(
            Part(
                "provenance",
                _sha256(provenance),
                "provenance",
                lambda c, r: _log_provenance(c, r, provenance),
            )
        )
    return parts


def _evaluation_parts(files: ModelFiles) -> list[Part]:
    tables = sorted(files.metrics.glob("*.csv"))
    numbers = [files.metrics / "metrics.json"]
    parts = [
        Part("metrics", digest_files(numbers), "metrics", lambda c, r: _log_evaluation(c, r, files)),
        Part("tables", digest_files(tables), "tables", lambda c, r: _log_tables(c, r, tables)),
    ]
    for name in ("overlays", "plots"):
        pictures = sorted((files.metrics / name).glob("*"))
        if pictures:
            parts.append(Part(name, digest_files(pictures), name, _uploader(pictures, name)))
    return parts


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def count_sides(splits: Path) -> dict[str, int]:
    """Number of cases on each side of the split."""
    with splits.open(newline="", encoding="utf-8") as stream:
        sides = [row["split"] for row in csv.DictReader(stream)]
    return {side: sides.count(side) for side in ("train", "validation", "test")}


def _uploader(paths: Sequence[Path], folder: str) -> Callable[[MlflowClient, Run], None]:
    def upload(client: MlflowClient, run: Run) -> None:
        for path in paths:
            if path.is_dir():
                client.log_artifacts(run.info.run_id, str(path), f"{folder}/{path.name}")
            else:
                client.log_artifact(run.info.run_id, str(path), folder)

    return upload


def _log_history(client: MlflowClient, run: Run, files: ModelFiles) -> None:
    """Logs the points of the curves that the run lacks, each at the time it was reached.

    Where the run holds another value, of an epoch that a resumed training has repeated, the new point gets a
    later time: MLflow shows the latest value of a step.
    """
    with (files.folder / "history.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    latest = {
        (key, point.step): point
        for key in {name for row in rows for name in epoch_metrics(row)} & run.data.metrics.keys()
        for point in sorted(client.get_metric_history(run.info.run_id, key), key=lambda p: p.timestamp)
    }
    missing = []
    for row in rows:
        epoch, moment = int(row["epoch"]), run.info.start_time + round(float(row["minutes"]) * 60_000)
        for name, value in epoch_metrics(row).items():
            known = latest.get((name, epoch))
            if known is None:
                missing.append(Metric(name, value, moment, epoch))
            elif known.value != value:
                missing.append(Metric(name, value, max(moment, known.timestamp + 1), epoch))
    log_metrics(client, run.info.run_id, missing)


def _log_evaluation(client: MlflowClient, run: Run, files: ModelFiles) -> None:
    """Logs every number of `metrics.json`; undefined ones (null) are left out."""
    now = round(time.time() * 1000)
    log_metrics(client, run.info.run_id, evaluation_metrics(files, now))
    client.log_artifact(run.info.run_id, str(files.metrics / "metrics.json"), "metrics")
    tags = [RunTag(METRICS_TIME, str(now)), RunTag("mlflow.note.content", summarise_markdown(files))]
    client.log_batch(run.info.run_id, tags=tags)


def _log_tables(client: MlflowClient, run: Run, tables: Sequence[Path]) -> None:
    """Logs each table twice: the CSV to download, and as a table that MLflow's pages show and compare."""
    import pandas as pd

    for path in tables:
        client.log_artifact(run.info.run_id, str(path), "tables")
        client.log_table(run.info.run_id, pd.read_csv(path), f"tables/{path.stem}.json")


def _log_provenance(client: MlflowClient, run: Run, provenance: Mapping[str, Any]) -> None:
    tags = [RunTag(key, value) for key, value in provenance_tags(provenance).items()]
    client.log_batch(run.info.run_id, tags=tags)
    client.log_dict(run.info.run_id, dict(provenance), "provenance/provenance.json")
