"""The code a stage depends on, as `dvc.yaml` lists it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml


def code_digest(stage: str) -> str:
    """sha256 over the sources that `dvc.yaml` names for a stage; `tests/test_architecture.py` keeps them complete.

    Args:
        stage: Name in `dvc.yaml`.
    """
    definition = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    digest = hashlib.sha256()
    for path in sorted(dep for dep in definition["deps"] if dep.endswith(".py")):
        digest.update(path.encode() + b"\0" + Path(path).read_bytes())
    return digest.hexdigest()
