"""The files that belong to one trained model: where they lie now, or in the archive of versions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.drift_features import FINGERPRINTS
from pipeline.errors import SegtrailError, collect

DATA = Path("data")
WEIGHTS = "model.safetensors"
TRAINED = ("bundle.json", WEIGHTS, "history.csv", "run.json")
EVALUATED = ("metrics.json", "cases.csv")


@dataclass(frozen=True)
class ModelFiles:
    """One trained model and what it rests on.

    Attributes:
        model: Name, as in `params.models`.
        folder: Holds `bundle.json`, `model.safetensors`, `history.csv` and `run.json`.
        metrics: Holds `metrics.json`, `cases.csv`, `overlays/` and `plots/`; may not exist yet.
        plan: The plan.
        splits: The split of the cases.
        cases: The table of all cases.
        dataset: Facts of the data set.
        fingerprints: What of each case drift is found by; a version of before that was kept has none.
        provenance: See `flows.provenance`; None while the model has not been archived.
    """

    model: str
    folder: Path
    metrics: Path
    plan: Path
    splits: Path
    cases: Path
    dataset: Path
    fingerprints: Path
    provenance: dict[str, Any] | None = None

    @property
    def evaluated(self) -> bool:
        """Whether the model has been scored."""
        return (self.metrics / "metrics.json").is_file()

    def load_run(self) -> dict[str, Any]:
        """Content of `run.json`."""
        return load_json(self.folder / "run.json", f"train@{self.model}")

    def load_bundle_record(self) -> dict[str, Any]:
        """Content of `bundle.json`, without the weights."""
        return load_json(self.folder / "bundle.json", f"train@{self.model}")

    def load_metrics(self) -> dict[str, Any]:
        """Content of `metrics.json`."""
        return load_json(self.metrics / "metrics.json", f"evaluate@{self.model}")


def present_files(model: str) -> ModelFiles:
    """The files as the stages wrote them last."""
    return ModelFiles(
        model=model,
        folder=DATA / "models" / model,
        metrics=DATA / "metrics" / model,
        plan=DATA / "plan" / "plan.json",
        splits=DATA / "splits" / "splits.csv",
        cases=DATA / "inspected" / "cases.csv",
        dataset=DATA / "inspected" / "dataset.json",
        fingerprints=DATA / "inspected" / FINGERPRINTS,
    )


def check_present(models: Iterable[str]) -> None:
    """Checks that every model has been trained and evaluated.

    Raises:
        SegtrailError: Files are missing; all are listed.
    """
    errors = []
    for model in models:
        files = present_files(model)
        needed = {files.folder / name: f"train@{model}" for name in TRAINED}
        needed |= {files.metrics / name: f"evaluate@{model}" for name in EVALUATED}
        needed |= {
            files.plan: "plan",
            files.splits: "split",
            files.cases: "inspect",
            files.dataset: "inspect",
        }
        errors += [
            SegtrailError("a file is missing", str(path), f"dvc repro {stage}")
            for path, stage in needed.items()
            if not path.is_file()
        ]
    if errors:
        raise collect(errors)


def load_json(path: Path, stage: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: The file.
        stage: Stage that writes it, for the error.

    Raises:
        SegtrailError: It is missing or damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SegtrailError("a file is missing", str(path), f"dvc repro {stage}") from error
    except ValueError as error:
        raise SegtrailError(f"this is not JSON: {error}", str(path), f"dvc repro --force {stage}") from error
    if not isinstance(record, dict):
        raise SegtrailError(
            f"it holds a {type(record).__name__}, expected an object", str(path), f"dvc repro --force {stage}"
        )
    return record


def save_json(record: dict[str, Any], path: Path, durable: bool = False) -> None:
    """Writes a JSON object, whole or not at all; with `durable` it also survives a power cut from then on."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    temporary.replace(path)


def digest_files(paths: Iterable[Path]) -> str:
    """sha256 over names and bytes of the files that exist; folders count with everything below them."""
    total = hashlib.sha256()
    for path in paths:
        below = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in below:
            if file.is_file():
                name = file.relative_to(path.parent).as_posix()
                total.update(f"{name}\0{file.stat().st_size}\0".encode())
                total.update(file.read_bytes())
    return total.hexdigest()
