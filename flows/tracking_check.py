"""Whether MLflow still shows what the files say, asked in a second; `flows.tracking_registry` mends what differs."""

from __future__ import annotations

from mlflow import MlflowClient

from flows.archive import list_names, list_versions
from flows.decision import load_decision
from flows.tracking_registry import ALIASES, is_whole, known_versions
from flows.tracking_store import find_dead_runs, open_client, store_exists, tolerate


def find_difference() -> str:
    """Compares versions, served models and aliases of all registered models, and looks for runs that died.

    Metrics and tags are not compared: each `dvc repro` brings them in line.

    Returns:
        What differs, for a person; "" when nothing does, and when MLflow cannot be asked (a warning says so).
    """
    names = list_names()
    if names and not store_exists():
        return "there is no MLflow store"
    if not names:
        return ""
    with tolerate("comparing it with the files"):
        client = open_client()
        if dead := find_dead_runs(client):
            return f"{len(dead)} MLflow runs say RUNNING though their process is gone"
        return "; ".join(text for name in names if (text := _compare(client, name)))
    return ""


def _compare(client: MlflowClient, name: str) -> str:
    known, decision = known_versions(client, name), load_decision(name)
    whole = {sha256: str(version.version) for sha256, (version, logged) in known.items() if is_whole(logged)}
    missing = {version.bundle_sha256 for version in list_versions(name)} - whole.keys()
    if missing:
        return f"MLflow lacks {len(missing)} of the versions of {name}"
    aliases = {alias: str(n) for alias, n in client.get_registered_model(name).aliases.items()}
    wrong = [
        f"{name}@{a}" for a, key in ALIASES.items() if aliases.get(a) != whole.get(decision.get(key) or "")
    ]
    return f"MLflow has another {' and '.join(wrong)}" if wrong else ""
