"""The folds of a cross-validation as runs below the run of their model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag

from flows.model_files import ModelFiles, digest_files, load_json
from flows.tracking_content import closing_metrics, dataset_name, flatten_params, run_tags
from flows.tracking_parts import Part, digest_json, log_history, log_metrics, log_params, sync_parts
from flows.tracking_store import ensure_experiment, find_run

FOLDS = "folds"
PARENT = "mlflow.parentRunId"


def fold_name(model: str, fold: int) -> str:
    """Name of the run of a fold."""
    return f"{model} fold {fold}"


def fold_tags(model: str, fold: int, parent_id: str | None, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Tags of the run of a fold."""
    parent = {} if parent_id is None else {PARENT: parent_id}
    return {**run_tags(model, provenance), "segtrail.fold": str(fold), **parent}


def fold_folders(files: ModelFiles) -> list[Path]:
    """Folder of the record of each fold, in order; none without cross-validation."""
    found = [path for path in (files.folder / FOLDS).glob("*") if path.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name))


def sync_folds(client: MlflowClient, files: ModelFiles, parent_id: str) -> None:
    """Makes the runs of all folds agree with the files of their model.

    Args:
        client: The store.
        files: The model.
        parent_id: Run of the model; runs of folds that stand elsewhere are moved below it.
    """
    folders = fold_folders(files)
    if not folders:
        return
    bundle = files.load_bundle_record()
    for folder in folders:
        record = load_json(folder / "result.json", f"train@{files.model}")
        run = _find_or_create(client, files.model, record, bundle, parent_id)
        if run.data.tags.get(PARENT) != parent_id:
            client.set_tag(run.info.run_id, PARENT, parent_id)
        sync_parts(client, run, _parts(folder, record, bundle))
        if run.info.status != "FINISHED":
            client.set_terminated(run.info.run_id, "FINISHED", _milliseconds(record, "finished"))


def _find_or_create(
    client: MlflowClient, model: str, record: Mapping[str, Any], bundle: Mapping[str, Any], parent_id: str
) -> Run:
    experiment_id = ensure_experiment(client, dataset_name(bundle))
    run_id = str(record.get("run_id") or f"bundle-{record['bundle_sha256']}")
    run = find_run(client, experiment_id, run_id)
    if run is not None:
        return run
    fold = int(record["fold"])
    tags = fold_tags(model, fold, parent_id, bundle.get("provenance", {}))
    run = client.create_run(
        experiment_id,
        start_time=_milliseconds(record, "started"),
        tags={**tags, "recovered_from": run_id},
        run_name=fold_name(model, fold),
    )
    client.set_terminated(run.info.run_id, "FINISHED", _milliseconds(record, "finished"))
    return client.get_run(run.info.run_id)


def _milliseconds(record: Mapping[str, Any], key: str) -> int:
    return round(1000 * float(record[key]))


def _parts(folder: Path, record: Mapping[str, Any], bundle: Mapping[str, Any]) -> list[Part]:
    params = flatten_params({**bundle.get("params", {}), "seed": record["seed"]}, bundle.get("plan", {}))
    history = folder / "history.csv"
    return [
        Part("params", digest_json(params), "", lambda c, r: log_params(c, r, params)),
        Part("history", digest_files([history]), "", lambda c, r: log_history(c, r, history)),
        Part("result", digest_json(record), "", lambda c, r: log_result(c, r.info.run_id, record)),
    ]


def log_result(client: MlflowClient, run_id: str, record: Mapping[str, Any]) -> None:
    """Logs what the closing validation of a fold gave.

    Args:
        client: The store.
        run_id: Run of the fold.
        record: `result.json` of the fold.
    """
    moment = _milliseconds(record, "finished")
    log_metrics(client, run_id, closing_metrics(record.get("validation_scores", {}), moment))
    cases = f"{record['training_cases']} training and {record['validation_cases']} validation cases"
    note = f"Fold {record['fold']}: {cases}, weights of epoch {record['best_epoch']}."
    client.log_batch(run_id, tags=[RunTag("mlflow.note.content", note)])
