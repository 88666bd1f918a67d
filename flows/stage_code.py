"""The code a stage depends on, as `dvc.yaml` lists it."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import yaml

from pipeline.config import load_params

CODE = "scoring_code"  # in metrics.json
LAYOUT = "${inspect.layout}"  # of which one module of `pipeline/io/layouts` is listed


def scoring_code() -> str | None:
    """Digest of the code that predicts and scores, as DVC looks at it; None in a folder without `dvc.yaml`."""
    if not Path("dvc.yaml").is_file():
        return None
    return f"{code_digest('predict')}{code_digest('evaluate')}"


def code_digest(stage: str) -> str:
    """sha256 over the sources of a stage in `dvc.yaml`; `tests/test_stage_dependencies.py` keeps them complete.

    Args:
        stage: Name in `dvc.yaml`. In a folder without one it is not known what counts: each call gives a text that
            none has given before, so that nothing is taken for unchanged.
    """
    try:
        definition = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    except FileNotFoundError:
        return uuid.uuid4().hex
    digest = hashlib.sha256()
    layout = load_params().inspect.layout
    paths = (dep.replace(LAYOUT, layout) for dep in definition["deps"] if dep.endswith(".py"))
    for path in sorted(paths):
        digest.update(path.encode() + b"\0" + Path(path).read_bytes())
    return digest.hexdigest()
