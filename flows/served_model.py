"""The registered model as MLflow loads it ("models from code"): images in, files and volumes out.

This file is copied into each version and executed from there, beside a copy of `pipeline`; it must not
import `flows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class ServedModel(PythonModel):
    """Predicts image files with a bundle, through the same code as `segtrail predict`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Reads and checks the bundle.

        Args:
            context: Its artifact `bundle` is the bundle's folder.
        """
        from pipeline.bundle import load_bundle

        self.bundle = load_bundle(Path(context.artifacts["bundle"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Predicts one case a row.

        Args:
            context: Not used.
            model_input: Column `image`: path of the image file or of the folder of a DICOM series, those of
                several channels joined by `;`.
                Optional column `output`: folder for the results, `predictions` by default.
            params: Section `predict`, and `device`; defaults are those the version was scored with.

        Returns:
            case_id, label_map and instances (paths), and one volume in mm3 a class (2D: area in mm2).
        """
        from pipeline.config import PredictParams
        from pipeline.devices import choose_device
        from pipeline.io.images import image_stem
        from pipeline.prediction import Predictor

        settings = dict(params or {})
        device = choose_device(str(settings.pop("device", "auto")))
        name = self.bundle.metadata.model
        predictor = Predictor(self.bundle, PredictParams(**settings), device, {"name": name})
        rows = []
        for images, output in _cases(model_input):
            output.mkdir(parents=True, exist_ok=True)
            case_id = image_stem(images[0])
            rows.append(_to_row(predictor.predict_files(images, output, case_id), output))
        return pd.DataFrame(rows)


def _cases(model_input: pd.DataFrame) -> list[tuple[list[Path], Path]]:
    """Image files and output folder of each row."""
    from pipeline.errors import SegtrailError
    from pipeline.io.images import image_stem

    count = len(model_input)
    folders = model_input["output"] if "output" in model_input else [None] * count
    cases = [
        (
            [Path(part) for part in str(image).split(";")],
            Path(folder if isinstance(folder, str) else "predictions"),
        )
        for image, folder in zip(model_input["image"], folders, strict=True)
    ]
    targets = [output / image_stem(images[0]) for images, output in cases]
    if len(set(targets)) < count:
        twice = sorted({str(target) for target in targets if targets.count(target) > 1})
        raise SegtrailError(
            f"{len(twice)} results would be written twice: {', '.join(twice)}",
            "column output",
            "give images of one name different output folders",
        )
    return cases


def _to_row(record: Mapping[str, Any], output: Path) -> dict[str, Any]:
    from pipeline.io.images import prediction_suffix

    case_id, suffix = record["case_id"], prediction_suffix([Path(name) for name in record["input"]])
    row: dict[str, Any] = {
        "case_id": case_id,
        "label_map": str(output / f"{case_id}_labels{suffix}"),
        "instances": str(output / f"{case_id}_instances{suffix}"),
    }
    for name, measured in {**record["labels"], **record.get("regions", {})}.items():
        row |= {f"{size}_{name}": float(value) for size, value in measured.items() if size != "voxels"}
    return row


set_model(ServedModel())
