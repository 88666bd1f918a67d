"""One MLflow run as a view of the files of one model: each part is written once, and again when it changed."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag

from flows.model_files import WEIGHTS, ModelFiles, digest_files
from flows.tracking_content import (
    closing_metrics,
    dataset_input,
    dataset_name,
    evaluation_metrics,
    flatten_params,
    provenance_tags,
    run_name,
    run_tags,
    summarise_markdown,
)
from flows.tracking_folds import sync_folds
from flows.tracking_parts import (
    Part,
    digest_json,
    log_dataset,
    log_history,
    log_metrics,
    log_params,
    sync_parts,
    to_milliseconds,
)
from flows.tracking_store import ensure_experiment, find_run

METRICS_TIME = "segtrail.metrics_time_ms"


def sync_run(client: MlflowClient, files: ModelFiles) -> str:
    """Makes the run of a model agree with its files.

    Args:
        client: The store.
        files: The model; parts whose files do not exist yet are left out.

    Returns:
        The run's id: the one in `run.json`, or of the run that replaces it.
    """
    run = _find_or_create(client, files)
    sync_parts(client, run, _parts(files))
    sync_folds(client, files, run.info.run_id)
    if (
        run.info.status != "FINISHED"
    ):  # MLflow was away when it ended: only a finished training has a `run.json`
        client.set_terminated(run.info.run_id, "FINISHED", to_milliseconds(files.load_run().get("finished")))
    return str(run.info.run_id)


def _find_or_create(client: MlflowClient, files: ModelFiles) -> Run:
    record, bundle = files.load_run(), files.load_bundle_record()
    experiment_id = ensure_experiment(client, dataset_name(bundle))
    run_id = str(record.get("run_id") or f"bundle-{record['bundle_sha256']}")
    run = find_run(client, experiment_id, run_id)
    if run is not None:
        return run
    started, finished = (to_milliseconds(record.get(key)) for key in ("started", "finished"))
    tags = run_tags(files.model, bundle.get("provenance", {}))
    run = client.create_run(
        experiment_id,
        start_time=started,
        tags={**tags, "recovered_from": run_id},
        run_name=run_name(files.model, started),
    )
    client.set_terminated(run.info.run_id, "FINISHED", finished)
    return client.get_run(run.info.run_id)


def _parts(files: ModelFiles) -> list[Part]:
    bundle = files.load_bundle_record()
    params = flatten_params(bundle.get("params", {}), bundle.get("plan", {}))
    digest = str(bundle.get("provenance", {}).get("data_digest", "unknown"))
    counts = count_sides(files.splits)
    own = [path for path in sorted(files.folder.iterdir()) if path.name != WEIGHTS]
    data = [files.plan, files.splits, files.cases, files.dataset]
    parts = [
        Part("params", digest_json(params), "", lambda c, r: log_params(c, r, params)),
        Part(
            "dataset",
            digest_json([digest, counts]),
            "",
            lambda c, r: log_dataset(c, r.info.run_id, dataset_input(dataset_name(bundle), digest, counts)),
        ),
        Part(
            "history",
            digest_files([files.folder / "history.csv"]),
            "",
            lambda c, r: log_history(c, r, files.folder / "history.csv"),
        ),
        Part("model", digest_files(own), "model", _uploader(own, "model")),
        Part("data", digest_files(data), "data", _uploader(data, "data")),
    ]
    if closing := closing_metrics(
        bundle.get("validation_scores", {}), to_milliseconds(files.load_run().get("finished")) or 0
    ):
        scores = bundle["validation_scores"]
        parts.append(
            Part("closing", digest_json(scores), "", lambda c, r: log_metrics(c, r.info.run_id, closing))
        )
    if files.evaluated:
        parts += _evaluation_parts(files)
    if files.provenance is not None:
        provenance = files.provenance
        parts.append(
            Part(
                "provenance",
                digest_json(provenance),
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
