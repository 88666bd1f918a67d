"""Every registered version as plain files below `data/registry/versions`, enough to rebuild MLflow from.

The archive is an output of the stage `register` that DVC keeps (`persist: true`). Files are copied, never
linked: an archived version must not change when somebody edits `data/models`. DVC stores equal files once.
"""

from __future__ import annotations

import filecmp
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.environment import STATE
from flows.model_files import WEIGHTS, ModelFiles, load_json, save_json
from flows.provenance import UNKNOWN, collect_digests, collect_provenance
from pipeline.drift_features import FINGERPRINTS
from pipeline.errors import SegtrailError

REGISTRY = Path("data/registry")
VERSIONS = REGISTRY / "versions"
DECISION = "decision.json"  # of each name, beside its versions
LOCK = STATE / "register.lock"  # one process at a time writes archive, decision and aliases
SHORT = 12  # characters of the sha256 that name a version's folder


@dataclass(frozen=True)
class Version:
    """An archived version.

    Attributes:
        name: Name of the registered model.
        bundle_sha256: Of the bundle.
        model: Name of the model, as in `params.models` when it was trained.
        created: When its training finished (ISO 8601); versions are numbered in this order.
        predict: Section `predict` it was scored with.
        files: Where its files lie.
    """

    name: str
    bundle_sha256: str
    model: str
    created: str
    predict: dict[str, Any]
    files: ModelFiles


def version_folder(name: str, bundle_sha256: str) -> Path:
    """Where a version is archived."""
    return VERSIONS / name / bundle_sha256[:SHORT]


def archive_model(name: str, files: ModelFiles, predict: dict[str, Any]) -> str:
    """Copies a model into the archive, or brings the copy up to date; writes nothing when all is equal.

    Args:
        name: Name of the registered model.
        files: The model, trained and evaluated.
        predict: Section `predict` of the params.

    Returns:
        sha256 of its bundle.

    Raises:
        SegtrailError: The bundle is not the one that the training wrote.
    """
    run = files.load_run()
    bundle_sha256 = str(run["bundle_sha256"])
    _check_digest(files.folder / "bundle.json", bundle_sha256, files.model)
    folder = version_folder(name, bundle_sha256)
    record = {
        "name": name,
        "model": files.model,
        "bundle_sha256": bundle_sha256,
        "created": str(run.get("finished", "")),
        "predict": predict,
    }
    if (folder / "version.json").is_file():
        record["created"] = load_json(folder / "version.json", "register")["created"]
        if _is_current(folder, files, record):
            return bundle_sha256
    _check_digest(files.folder / WEIGHTS, str(files.load_bundle_record()["weights_sha256"]), files.model)
    _write_version(folder, files, record)
    return bundle_sha256


def _check_digest(path: Path, expected: str, model: str) -> None:
    with path.open("rb") as stream:
        seen = hashlib.file_digest(stream, "sha256").hexdigest()
    if seen != expected:
        raise SegtrailError(
            f"the sha256 is {seen[:SHORT]}..., expected {expected[:SHORT]}...: the training did not write this file",
            str(path),
            f"restore it (dvc checkout {path.parent}) or train again (dvc repro --force train@{model})",
        )


def _sources(files: ModelFiles) -> dict[str, Path]:
    """Source of each archived file, by its place in the archive."""
    found = {
        "plan.json": files.plan,
        "splits.csv": files.splits,
        "cases.csv": files.cases,
        "dataset.json": files.dataset,
    }
    if files.fingerprints.is_file():
        found[FINGERPRINTS] = files.fingerprints
    for place, folder in (("model", files.folder), ("metrics", files.metrics)):
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        found |= {f"{place}/{path.relative_to(folder).as_posix()}": path for path in paths}
    return found


def _is_current(folder: Path, files: ModelFiles, record: dict[str, Any]) -> bool:
    """Whether the copy equals its sources. Weights are compared by size: the folder is named by their sha256."""
    sources = _sources(files)
    own = {"version.json", "provenance.json"}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if present != sources.keys() | own or load_json(folder / "version.json", "register") != record:
        return False
    known = load_json(folder / "provenance.json", "register")
    if any(digest not in (UNKNOWN, known.get(key)) for key, digest in collect_digests(files.model).items()):
        return False
    return all(
        filecmp.cmp(source, folder / place, shallow=False)
        if not place.endswith(WEIGHTS)
        else source.stat().st_size == (folder / place).stat().st_size
        for place, source in sources.items()
    )


def _write_version(folder: Path, files: ModelFiles, record: dict[str, Any]) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for place, source in _sources(files).items():
        target = temporary / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    save_json(record, temporary / "version.json")
    save_json(_provenance(files), temporary / "provenance.json")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def _provenance(files: ModelFiles) -> dict[str, Any]:
    """Code and packages of the training, as the bundle says; hashes as the lock file says after evaluation."""
    trained = files.load_bundle_record().get("provenance", {})
    known = {key: value for key, value in collect_digests(files.model).items() if value != UNKNOWN}
    return {**collect_provenance(files.model), **trained, **known}


def load_version(folder: Path) -> Version:
    """Reads an archived version.

    Raises:
        SegtrailError: The archive lacks it.
    """
    if not (folder / "version.json").is_file():
        raise SegtrailError(
            "the archive lacks a registered version",
            str(folder),
            "dvc checkout data/registry, then dvc repro",
        )
    record = load_json(folder / "version.json", "register")
    return Version(
        **record,
        files=ModelFiles(
            model=record["model"],
            folder=folder / "model",
            metrics=folder / "metrics",
            plan=folder / "plan.json",
            splits=folder / "splits.csv",
            cases=folder / "cases.csv",
            dataset=folder / "dataset.json",
            fingerprints=folder / FINGERPRINTS,
            provenance=load_json(folder / "provenance.json", "register"),
        ),
    )


def check_version(version: Version) -> None:
    """Checks that bundle and weights of an archived version are the ones that its training wrote.

    Raises:
        SegtrailError: They are not.
    """
    folder = version.files.folder
    weights = str(version.files.load_bundle_record()["weights_sha256"])
    for path, expected in ((folder / "bundle.json", version.bundle_sha256), (folder / WEIGHTS, weights)):
        _check_digest(path, expected, version.model)


def list_versions(name: str) -> list[Version]:
    """All archived versions of a registered model, oldest first."""
    folders = (path.parent for path in (VERSIONS / name).glob("[!.]*/version.json"))
    return sorted((load_version(folder) for folder in folders), key=lambda v: (v.created, v.bundle_sha256))


def list_names() -> list[str]:
    """Names of all registered models."""
    return sorted(path.name for path in VERSIONS.glob("[!.]*") if path.is_dir())


def remove_leftovers() -> None:
    """Deletes what a killed run left half-copied."""
    for path in VERSIONS.glob("*/.*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
