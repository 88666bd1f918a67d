"""MLflow's model registry as a view of the archive: every version, its tags, and the aliases."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from flows.archive import SHORT, Version, list_names, list_versions, load_version, version_folder
from flows.audit import Record
from flows.decision import load_decision
from flows.provenance import UNKNOWN
from flows.tracking_content import (
    dataset_name,
    evaluation_metrics,
    flatten_params,
    legal_name,
    provenance_tags,
    summarise_markdown,
)
from flows.tracking_parts import log_metrics
from flows.tracking_run import METRICS_TIME, sync_run
from flows.tracking_store import (
    MISSING,
    ensure_experiment,
    find_dead_runs,
    get_logged_model,
    local_path,
    open_client,
    store_exists,
    tolerate,
)
from pipeline.errors import SegtrailError, unknown_name

LOGGER = logging.getLogger("segtrail")
SHA256 = "segtrail.bundle_sha256"
SERVED = "segtrail.served_sha256"
ALIASES = {
    "challenger": "challenger",
    "champion": "champion_after",
}  # alias: key of the decision; last moved last


def reconcile() -> dict[str, str]:
    """Makes MLflow agree with the archive: runs, versions, tags, then aliases, the champion last.

    Returns:
        Number of the MLflow version by bundle sha256; empty when MLflow cannot be reached.
    """
    numbers: dict[str, str] = {}
    with tolerate("bringing the registry up to date"):
        client = open_client()
        for run in find_dead_runs(client):  # first: a store that is away is asked once, not once a name
            client.set_terminated(run.info.run_id, "KILLED")
        for name in list_names():
            with tolerate(f"bringing {name} up to date"):
                numbers |= _reconcile_model(client, name)
    return numbers


def _reconcile_model(client: MlflowClient, name: str) -> dict[str, str]:
    versions, decision = list_versions(name), load_decision(name)
    _ensure_registered_model(client, name)
    known = known_versions(client, name)
    numbers = {}
    for version in versions:
        run_id = sync_run(client, version.files)
        if version.bundle_sha256 in known:
            registered, logged = known[version.bundle_sha256]
            _refresh(client, version, registered, logged, run_id)
            _set_tags(client, registered, _version_tags(version, decision))
        else:
            registered = _register(client, version, run_id, _version_tags(version, decision))
        numbers[version.bundle_sha256] = str(registered.version)
    _set_aliases(client, name, decision, numbers)
    return numbers


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        client.create_registered_model(name, description="Versions and aliases follow data/registry.")


def _search_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Versions that `register` has made, oldest first; none when the name is unknown."""
    found = client.search_model_versions(f"name = '{name}'", max_results=10_000)
    return sorted((v for v in found if SHA256 in v.tags), key=lambda version: int(version.version))


def known_versions(client: MlflowClient, name: str) -> dict[str, tuple[ModelVersion, LoggedModel]]:
    """The version of each bundle that can be loaded, with its logged model, by sha256.

    Of several with one bundle the oldest: the one that people have noted down. A version whose logged model
    has been deleted counts as not registered.
    """
    known: dict[str, tuple[ModelVersion, LoggedModel]] = {}
    for version in _search_versions(client, name):
        if version.tags[SHA256] not in known:
            logged = get_logged_model(client, str(version.source).removeprefix("models:/"))
            if logged is not None:
                known[version.tags[SHA256]] = (version, logged)
    return known


def _register(client: MlflowClient, version: Version, run_id: str, tags: dict[str, str]) -> ModelVersion:
    """Creates a version, from the logged model of an earlier one if that is still there."""
    bundle = version.files.load_bundle_record()
    experiment_id = ensure_experiment(client, dataset_name(bundle))
    logged = _find_logged_model(client, experiment_id, version.bundle_sha256)
    if logged is None:
        logged = client.create_logged_model(
            experiment_id,
            name=version.model,
            source_run_id=run_id,
            tags={SHA256: version.bundle_sha256},
            params=flatten_params(bundle.get("params", {}), bundle.get("plan", {})),
            model_type="segmentation",
        )
        _upload(client, logged, version, run_id)
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    _log_model_metrics(client, logged, version, run_id)
    return client.create_model_version(
        version.name,
        source=f"models:/{logged.model_id}",
        run_id=run_id,
        tags={**tags, SHA256: version.bundle_sha256, SERVED: _served_digest(version)},
        description=summarise_markdown(version.files),
        model_id=logged.model_id,
    )


def _find_logged_model(client: MlflowClient, experiment_id: str, sha256: str) -> LoggedModel | None:
    found = client.search_logged_models([experiment_id], f"tags.`{SHA256}` = '{sha256}'", max_results=10)
    return next((model for model in found if str(model.status) == "READY" and is_whole(model)), None)


def is_whole(model: LoggedModel) -> bool:
    folder = local_path(model.artifact_location)
    return folder is None or (folder / "MLmodel").is_file()


def _refresh(
    client: MlflowClient, version: Version, registered: ModelVersion, logged: LoggedModel, run_id: str
) -> None:
    """Restores lost artifacts of a version and follows new scores and settings."""
    if not is_whole(logged) or registered.tags.get(SERVED) != _served_digest(version):
        _upload(client, logged, version, run_id)
        client.set_model_version_tag(version.name, registered.version, SERVED, _served_digest(version))
    description = summarise_markdown(version.files)
    if registered.description != description:
        client.update_model_version(version.name, registered.version, description)
    _log_model_metrics(client, logged, version, run_id)


def _served_digest(version: Version) -> str:
    """What a served version depends on beside its bundle."""
    return json.dumps(version.predict, sort_keys=True)


def _upload(client: MlflowClient, logged: LoggedModel, version: Version, run_id: str) -> None:
    from flows.tracking_served import save_served_model

    save_served_model(client, logged, version, run_id)


def _log_model_metrics(client: MlflowClient, logged: LoggedModel, version: Version, run_id: str) -> None:
    """Attaches the run's test metrics to the logged model, each moment once: MLflow refuses a second time."""
    moment = int(client.get_run(run_id).data.tags.get(METRICS_TIME, "0"))
    present = {(m.key, m.timestamp) for m in logged.metrics or []}
    wanted = evaluation_metrics(version.files, moment, logged.model_id)
    log_metrics(client, run_id, [m for m in wanted if (m.key, m.timestamp) not in present])


def _version_tags(version: Version, decision: Record) -> dict[str, str]:
    tags = {"segtrail.model": version.model, **provenance_tags(version.files.provenance or {})}
    lines: list[Record] = decision.get("versions", [])
    line = next((v for v in lines if v["bundle_sha256"] == version.bundle_sha256), {})
    if line.get("value") is not None:
        tags[f"segtrail.{legal_name(line['metric'])}"] = f"{line['value']:.4f}"
    if line.get("gate"):
        tags |= {"segtrail.gate": line["gate"], "segtrail.gate_reasons": "; ".join(line["gate_reasons"])}
    if line.get("hand"):
        tags["segtrail.hand"] = line["hand"]
    return tags


def _set_tags(client: MlflowClient, registered: ModelVersion, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        if registered.tags.get(key) != value:
            client.set_model_version_tag(registered.name, registered.version, key, value)


def _set_aliases(client: MlflowClient, name: str, decision: Record, numbers: Mapping[str, str]) -> None:
    current = {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}
    for alias, key in ALIASES.items():
        number = numbers.get(decision.get(key) or "")
        if number is None and alias in current:
            client.delete_registered_model_alias(name, alias)
        elif number is not None and current.get(alias) != number:
            client.set_registered_model_alias(name, alias, number)
            came = f"from version {current[alias]} to" if alias in current else "to"
            LOGGER.info("MLflow: %s@%s moved %s version %s", name, alias, came, number)


def find_bundle(name: str, version: str) -> tuple[Path, str, dict[str, Any]]:
    """The bundle behind a version, and how to predict with it.

    Args:
        name, version: See `find_version`.

    Returns:
        The bundle's folder, the number of the version ("unknown" when MLflow has none for it), and the section
        `predict` it was scored with.

    Raises:
        SegtrailError: There is no such model, alias or version.
    """
    found, number = find_version(name, version)
    return found.files.folder, number, found.predict


def find_version(name: str, version: str) -> tuple[Version, str]:
    """The version behind `NAME@ALIAS`, `NAME@NUMBER` or `NAME@SHA256`.

    All but numbers are looked up in the files, so that they also work where the archive alone is (`dvc pull`).
    Nothing is created in MLflow.

    Args:
        name: Registered model.
        version: "champion", "challenger", the number of a version in MLflow, or the first 8 or more characters
            of a bundle's sha256.

    Returns:
        The version, and its number in MLflow ("unknown" when MLflow has none for it).

    Raises:
        SegtrailError: There is no such model, alias or version.
    """
    place = f"{name}@{version}"
    if name not in list_names():
        raise unknown_name("registered model", name, list_names() or ["(none yet: dvc repro)"], place)
    numbers, current = find_numbers(name)
    number = version.removeprefix("v")
    alike = [
        v.bundle_sha256
        for v in list_versions(name)
        if len(version) >= 8 and v.bundle_sha256.startswith(version)
    ]
    if version in ALIASES:
        sha256 = load_decision(name).get(ALIASES[version])
        if sha256 is None:
            raise SegtrailError(f"{name} has no {version}", place, "dvc repro register")
    elif number in numbers:
        return load_version(version_folder(name, numbers[number])), number
    elif len(alike) == 1:
        sha256 = alike[0]
    else:
        known = [v.bundle_sha256[:SHORT] for v in list_versions(name)]
        raise unknown_name("version", version, [*ALIASES, *numbers, *known], place)
    return load_version(version_folder(name, sha256)), current.get(sha256, UNKNOWN)


def find_numbers(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """MLflow's versions of a model, without creating a store: sha256 by number, and number by sha256."""
    numbers: dict[str, str] = {}
    current: dict[str, str] = {}
    if store_exists():
        with tolerate("looking up a version"):
            client = open_client()
            numbers = {str(found.version): found.tags[SHA256] for found in _search_versions(client, name)}
            known = known_versions(client, name)
            current = {sha256: str(found.version) for sha256, (found, _) in known.items()}
    return numbers, current
