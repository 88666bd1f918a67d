"""Writes a bundle as an MLflow model from code: signature, requirements and code travel with it, no pickle."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
from mlflow import MlflowClient, pyfunc
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from flows.archive import Version
from flows.model_files import load_json
from flows.provenance import serving_requirements
from pipeline.config import load_params

MODEL_CODE = Path("flows/served_model.py")
LIBRARY = Path("pipeline")


def save_served_model(client: MlflowClient, logged: LoggedModel, version: Version, run_id: str) -> None:
    """Fills a logged model with a version, so that `mlflow.pyfunc.load_model` can load it anywhere.

    Args:
        client: The store.
        logged: The logged model to fill.
        version: What to serve.
        run_id: Run of its training.
    """
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model"
        pyfunc.save_model(
            str(target),
            mlflow_model=Model(
                artifact_path=version.model,
                model_uuid=logged.model_id,
                run_id=run_id,
                model_id=logged.model_id,
            ),
            python_model=str(MODEL_CODE),
            artifacts={"bundle": str(version.files.folder)},
            code_paths=[str(LIBRARY)],
            signature=build_signature(version),
            input_example=pd.DataFrame(
                {"image": ["case_0000.nii.gz;case_0001.nii.gz"], "output": ["predictions"]}
            ),
            pip_requirements=serving_requirements(),
            metadata={"name": version.name, "bundle_sha256": version.bundle_sha256},
        )
        _forget_folders(target / "MLmodel")
        client.log_model_artifacts(logged.model_id, str(target))


def _forget_folders(path: Path) -> None:
    """Leaves the name of the code file alone in `MLmodel`: MLflow notes where on this machine it came from."""
    saved = Model.load(path)
    saved.flavors[pyfunc.FLAVOR_NAME]["model_code_path"] = MODEL_CODE.name
    saved.save(path)


def build_signature(version: Version) -> ModelSignature:
    """Columns in and out, and the section `predict` as params with their defaults.

    Keys that are newer than the version have the value they have now, as in `segtrail predict`: the code that
    travels with it asks for all of them.
    """
    plan = load_json(version.files.plan, "plan")
    size = "area_mm2" if plan.get("dimensions") == 2 else "volume_mm3"
    text, number = DataType.string, DataType.double
    inputs = Schema([ColSpec(text, "image"), ColSpec(text, "output", required=False)])
    columns = [ColSpec(text, name) for name in ("case_id", "label_map", "instances")]
    regions = [region["name"] for region in plan.get("regions", [])]
    columns += [ColSpec(number, f"{size}_{name}") for name in [*plan["label_names"][1:], *regions]]
    kinds = {bool: DataType.boolean, float: number, int: DataType.long, str: text}
    settings = {**load_params().predict.model_dump(mode="json"), **version.predict, "device": "auto"}
    params = ParamSchema([ParamSpec(name, kinds[type(value)], value) for name, value in settings.items()])
    return ModelSignature(inputs, Schema([*columns]), params)
