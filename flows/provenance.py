"""Where a model comes from: commit, data, lock file and packages. Knows no MLflow, imports nothing heavy."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import load_params

UNKNOWN = "unknown"
LOCK = Path("dvc.lock")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same result, ten times faster
RAW = Path("data/raw")
# What a bundle needs to be loaded and to predict.
SERVING_PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "monai", "numpy", "scipy", "scikit-image", "nibabel"),
    *("SimpleITK", "pandas", "matplotlib", "pillow", "pydantic", "pyyaml", "safetensors"),
)
WORKFLOW_PACKAGES = ("dvc", "prefect", "mlflow")


def collect_provenance(model: str | None = None) -> dict[str, Any]:
    """Everything that says where a result comes from.

    Args:
        model: Its train, predict and evaluate stages count into `dvc_lock_sha256` too. None while a model
            is being trained: the lock file then still holds those of the training before.
    """
    return {
        **collect_digests(model),
        "git_commit": git_commit(),
        "git_dirty": git_dirty(),
        "python": platform.python_version(),
        "packages": package_versions((*SERVING_PACKAGES, *WORKFLOW_PACKAGES)),
    }


def collect_digests(model: str | None = None) -> dict[str, str]:
    """The part of `collect_provenance` that DVC knows: data set, hash of its files, digest of the lock file."""
    dataset = load_params().inspect.dataset
    return {
        "dataset": dataset,
        "data_digest": data_digest(dataset),
        "dvc_lock_sha256": lock_digest(dataset, model),
    }


def user_name() -> str:
    """Who works here; the number of the user where it has no name, as in many containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


def git_commit() -> str:
    """The commit of the working copy, "unknown" outside Git."""
    return _git("rev-parse", "HEAD") or UNKNOWN


def git_dirty() -> bool:
    """Whether tracked files differ from the commit; `dvc.lock` does so during every run and is left out."""
    return bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){LOCK}"))


def _git(*arguments: str) -> str:
    try:
        answer = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=True, encoding="utf-8"
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def data_digest(dataset: str) -> str:
    """DVC's hash of `data/raw/<dataset>`: what `inspect` last read, or what `dvc add` noted, or "unknown"."""
    path = (RAW / dataset).as_posix()
    dependencies = _locked_stages().get("inspect", {}).get("deps", [])
    pointer = _yaml(RAW / f"{dataset}.dvc").get("outs", [])
    outputs = [{**entry, "path": (RAW / str(entry.get("path"))).as_posix()} for entry in pointer]
    for entry in (*dependencies, *outputs):
        if entry.get("path") == path and entry.get("md5"):
            return str(entry["md5"])
    return UNKNOWN


def lock_digest(dataset: str, model: str | None = None) -> str:
    """sha256 over the entries of `dvc.lock` that a model rests on.

    Entries of `register`, `report`, other models and other data sets do not count: the digest of a model
    stays the same when they are written.
    """
    names = [f"phantom@{dataset}", "inspect", "split", "plan", "preprocess"]
    if model is not None:
        names += [f"{stage}@{model}" for stage in ("train", "predict", "evaluate")]
    stages = _locked_stages()
    entries = {name: stages[name] for name in names if name in stages}
    return canonical_sha256(entries) if entries else UNKNOWN


def canonical_sha256(value: Any) -> str:
    """sha256 of a value as JSON, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_locked(stage: str) -> bool:
    """Whether `dvc.lock` has an entry of a stage: it has run once, here or elsewhere."""
    return stage in _locked_stages()


def _locked_stages() -> dict[str, Any]:
    stages: dict[str, Any] = _yaml(LOCK).get("stages") or {}
    return stages


def _yaml(path: Path) -> dict[str, Any]:
    """Content of a file of DVC; empty when there is none or it cannot be read."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions by name; packages that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a GPU machine may hold the library alone
    return found


def serving_requirements() -> list[str]:
    """What must be installed to load a bundle, as `name==version`; local build tags are cut off."""
    versions = package_versions(SERVING_PACKAGES)
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]
