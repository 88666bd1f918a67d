"""One case from image files to prediction files; the stage, the command and the served model all go here."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.bundle import Bundle
from pipeline.config import PredictParams
from pipeline.inference import predict_probabilities
from pipeline.instance_inference import predict_objects
from pipeline.io.images import COLOURS, load_volume, prediction_suffix, save_instance_map, save_label_map
from pipeline.models.maskrcnn import MaskRCNN
from pipeline.overlays import draw_overlay
from pipeline.postprocessing import build_prediction, to_prediction
from pipeline.volume import LabelMap, Prediction, Volume, voxel_size_mm


class Predictor:
    """A bundle ready to predict.

    Args:
        bundle: The model.
        params: Section `predict`.
        device: Where the network runs.
        identity: Name and version of the model, written beside each prediction.
    """

    def __init__(
        self, bundle: Bundle, params: PredictParams, device: torch.device, identity: dict[str, Any]
    ) -> None:
        self.plan = bundle.metadata.plan
        self.params = params
        self.device = device
        self.identity = {**identity, "bundle_sha256": bundle.sha256}
        self.network = bundle.build(device)
        # Only views that the network has been trained on help.
        flipped = bundle.metadata.params.get("augmentation", {}).get("flip_axes", ())
        self.mirror_axes = "".join(axis for axis in flipped if axis in params.mirror.replace("none", ""))

    def predict(self, volume: Volume, where: str) -> Prediction:
        """Label map and instances on the grid of `volume`.

        Args:
            volume: As read from disk.
            where: Case id and file, for errors.
        """
        if isinstance(self.network, MaskRCNN):
            ids, classes, scores = predict_objects(
                self.network, volume, self.plan, self.params, self.device, where
            )
            score = self.params.label_score
            return build_prediction(ids, classes, scores, volume.affine, self.plan, self.params, score)
        probabilities = predict_probabilities(
            self.network, volume, self.plan, self.params.overlap, self.mirror_axes, self.device, where
        )
        return to_prediction(probabilities, volume.affine, self.plan, self.params)

    def predict_files(
        self, images: Sequence[Path], output: Path, case_id: str, timed: bool = True
    ) -> dict[str, Any]:
        """Predicts one case and writes `<case_id>_labels.nii.gz`, `_instances.nii.gz`, `_overlay.png`, `.json`.

        For a picture (PNG, TIFF, JPEG) the labels are a PNG of 8 bits, the instances one of 16.

        Args:
            images: One file a channel, or one with all channels; a folder is a DICOM series. Where the model's
                channels are R, G, B, a grey picture is each of them.
            output: Existing folder.
            case_id: Stem of the written files.
            timed: Write the seconds; without them the same input gives the same bytes.

        Returns:
            The record that was written as JSON; it is written last.

        Raises:
            SegtrailError: The image cannot be read or does not fit the model, or a PNG cannot hold the labels
                (255 at most) or the instances (65535).
        """
        started = time.monotonic()
        (output / f"{case_id}.json").unlink(missing_ok=True)
        volume = self._load(images)
        prediction = self.predict(volume, f"{case_id} ({images[0]})")
        suffix = prediction_suffix(images)
        save_label_map(prediction.label_map, output / f"{case_id}_labels{suffix}", images[0])
        instances = LabelMap(prediction.instances.array, volume.affine)
        save_instance_map(instances, output / f"{case_id}_instances{suffix}", images[0])
        draw_overlay(volume, prediction.label_map, None, output / f"{case_id}_overlay.png", case_id)
        record = {
            "case_id": case_id,
            "input": [str(path) for path in images],
            "model": self.identity,
            "settings": self.params.model_dump(mode="json"),
            **self._measure(prediction, volume),
        }
        if timed:
            record["seconds"] = round(time.monotonic() - started, 3)
        (output / f"{case_id}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return record

    def _load(self, images: Sequence[Path]) -> Volume:
        volume = load_volume(images)
        grey = len(volume.array) == 1 and prediction_suffix(images) == ".png"
        if grey and self.plan.channels == COLOURS:
            return Volume(np.repeat(volume.array, len(COLOURS), axis=0), volume.affine)
        return volume

    def _measure(self, prediction: Prediction, volume: Volume) -> dict[str, Any]:
        """Volumes of labels and instances: mm3, in 2D mm2."""
        shape = prediction.label_map.array.shape
        voxel = voxel_size_mm(volume.affine, shape)
        size = "area_mm2" if shape[2] == 1 else "volume_mm3"
        labels = {}
        for name, value in zip(self.plan.label_names[1:], self.plan.label_values[1:], strict=True):
            voxels = int((prediction.label_map.array == value).sum())
            labels[name] = {"voxels": voxels, size: round(voxels * voxel, 3)}
        names = dict(zip(self.plan.label_values, self.plan.label_names, strict=True))
        instances = [
            {
                "id": item.id,
                "label": names[item.label],
                "score": round(item.score, 6),
                "voxels": item.voxels,
                size: round(item.voxels * voxel, 3),
                "centroid_mm": [round(v, 3) for v in item.centroid_mm],
                "box_voxels": [list(corner) for corner in item.box_voxels],
            }
            for item in prediction.instances.items
        ]
        return {"labels": labels, "instances": instances}
