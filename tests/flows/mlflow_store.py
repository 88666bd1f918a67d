"""What tests do to a real MLflow store (SQLite)."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore
from mlflow.tracking._model_registry.utils import _get_store_registry
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache, _tracking_store_registry

PROJECT = Path(__file__).resolve().parents[2]


def create_template(database: Path) -> None:
    """Makes the database of an empty store."""
    MlflowClient(f"sqlite:///{database}").search_experiments()
    forget_stores()


def link_code(project: Path) -> None:
    """Gives a project the code that a served model takes along."""
    for name in ("pipeline", "flows"):
        (project / name).symlink_to(PROJECT / name)


def delete_store(project: Path, template: Path) -> None:
    """Deletes database and artifacts, as `rm -rf` does; the template saves the seconds of making a new one."""
    forget_stores()
    shutil.rmtree(project / ".segtrail" / "mlartifacts", ignore_errors=True)
    shutil.copy(template, project / ".segtrail" / "mlflow.db")


def forget_stores() -> None:
    """Drops MLflow's open databases and what it remembers of them, as a new process has none."""
    _artifact_repos_cache.clear()
    for store in (TrackingStore, RegistryStore):
        for engine in store._engine_map.values():
            engine.dispose()
        store._engine_map.clear()
    for registry in (_tracking_store_registry, _get_store_registry()):
        registry._get_store_with_resolved_uri.cache_clear()
