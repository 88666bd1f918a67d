"""Parts of an MLflow run, each a view of some files: written once, and again when the files changed."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from flows.tracking_content import epoch_metrics
from flows.tracking_store import local_path

BATCH = 100
METRIC_BATCH = 1000
ATTEMPTS = 5


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


def sync_parts(client: MlflowClient, run: Run, parts: Iterable[Part]) -> None:
    """Writes the parts whose files differ from what the run holds, or whose artifacts are gone."""
    root = local_path(run.info.artifact_uri)
    for part in parts:
        gone = bool(part.folder) and root is not None and not (root / part.folder).is_dir()
        if run.data.tags.get(part.tag) != part.digest or gone:
            if part.folder:
                repository = get_artifact_repository(run.info.artifact_uri)
                repository.delete_artifacts(part.folder)  # type: ignore[no-untyped-call]
            part.write(client, run)
            client.set_tag(run.info.run_id, part.tag, part.digest)


def to_milliseconds(iso: Any) -> int | None:
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


def log_dataset(client: MlflowClient, run_id: str, data: DatasetInput) -> None:
    """Notes the data set of a run.

    Of two processes that note a new data set at once both find it missing, and the database refuses the slower
    one; when it asks again, the data set is there.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            client.log_inputs(run_id, [data])
            return
        except MlflowException as error:
            if attempt == ATTEMPTS or "unique" not in str(error).lower():
                raise


def digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def log_history(client: MlflowClient, run: Run, path: Path) -> None:
    """Logs the points of the curves that the run lacks, each at the time it was reached.

    Where the run holds another value, of an epoch that a resumed training has repeated, the new point gets a
    later time: MLflow shows the latest value of a step.
    """
    with path.open(newline="", encoding="utf-8") as stream:
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
