"""One case from image files to prediction files; the stage, the command and the served model all go here."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.allocation import keep_freed_memory
from pipeline.bundle import Bundle
from pipeline.config import PredictParams
from pipeline.errors import SegtrailError
from pipeline.inference import SMALLER, is_out_of_memory, predict_classes
from pipeline.inference_memory import (
    UNREAD,
    CaseSize,
    Memory,
    choose_settings,
    object_bytes,
    writing_bytes,
)
from pipeline.instance_inference import predict_objects
from pipeline.io.images import COLOURS, load_volume, prediction_suffix, save_instance_map, save_label_map
from pipeline.io.sizes import unpacked_bytes
from pipeline.models.maskrcnn import MaskRCNN
from pipeline.overlays import draw_overlay
from pipeline.plan import Plan
from pipeline.postprocessing import build_prediction, to_prediction
from pipeline.preprocessing import prepare_volume, target_shape
from pipeline.volume import LabelMap, Prediction, Volume, spacing_mm, to_canonical, voxel_size_mm
from pipeline.windows import Setting

STATIONS = 3  # reading, computing, writing: as many cases are in flight at most


@dataclass
class _Case:
    """A case that has been read.

    Attributes:
        volume: As read.
        image: What a U-Net sees, on the plan's grid; empty once it was taken.
        settings: How its windows may be run, the first one preferred.
    """

    volume: Volume
    image: torch.Tensor
    settings: list[Setting]

    def take_image(self) -> torch.Tensor:
        """The image, which ends with whoever takes it: the objects are found without it."""
        image, self.image = self.image, torch.empty(0)
        return image


class _Stopwatch:
    """Adds up the seconds within its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.monotonic() - self.started


def _measure_case(volume: Volume, plan: Plan) -> CaseSize:
    array, affine = to_canonical(volume.array, volume.affine)
    shape = target_shape(array.shape, spacing_mm(affine), plan)
    return CaseSize(array.nbytes, math.prod(array.shape[1:]), shape)


class Predictor:
    """A bundle ready to predict.

    Threads may share it: one case is read while one is computed and one is written, each at its own station,
    as far as `predict.memory_gb` allows.

    Args:
        bundle: The model.
        params: Section `predict`.
        device: Where the network runs.
        identity: Name and version of the model, written beside each prediction.
    """

    def __init__(
        self, bundle: Bundle, params: PredictParams, device: torch.device, identity: dict[str, Any]
    ) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        self.plan = bundle.metadata.plan
        self.params = params
        self.device = device
        self.identity = {**identity, "bundle_sha256": bundle.sha256}
        self.network = bundle.build(device)
        # Only views that the network has been trained on help.
        flipped = bundle.metadata.params.get("augmentation", {}).get("flip_axes", ())
        self.mirror_axes = "".join(axis for axis in flipped if axis in params.mirror.replace("none", ""))
        self._memory = Memory(params.memory_gb)
        self._stations = [threading.Lock() for _ in range(STATIONS)]

    def predict(self, volume: Volume, where: str) -> Prediction:
        """Label map and instances on the grid of `volume`.

        Args:
            volume: As read from disk.
            where: Case id and file, for errors.
        """
        with self._memory.share() as hold:
            return self._compute(self._prepare(volume, where, hold), where)

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
            timed: Write the seconds of work; without them the same input gives the same bytes.

        Returns:
            The record that was written as JSON; it is written last.

        Raises:
            SegtrailError: The image cannot be read or does not fit the model, a PNG cannot hold the labels
                (255 at most) or the instances (65535), or there is too little memory.
        """
        (output / f"{case_id}.json").unlink(missing_ok=True)
        where = f"{case_id} ({images[0]})"
        try:
            record = self._predict_files(images, output, case_id, where, timed)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise SegtrailError("memory ran out", where, f"free memory, or {SMALLER}") from error
        (output / f"{case_id}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return record

    def _predict_files(
        self, images: Sequence[Path], output: Path, case_id: str, where: str, timed: bool
    ) -> dict[str, Any]:
        reading, computing, writing = self._stations
        seconds = _Stopwatch()
        with self._memory.share() as hold:
            with reading, seconds:
                hold(UNREAD * unpacked_bytes(images))
                case = self._prepare(self._load(images, where), where, hold)
            with computing, seconds:
                prediction = self._compute(case, where)
                volume = case.volume
                del case
            with writing, seconds:
                hold(writing_bytes(_measure_case(volume, self.plan)))
                record = self._write(prediction, volume, images, output, case_id)
        if timed:
            record["seconds"] = round(seconds.seconds, 3)
        return record

    def _prepare(self, volume: Volume, where: str, hold: Callable[[int], None]) -> _Case:
        """Takes memory for the whole case, then makes the image that the network sees."""
        size = _measure_case(volume, self.plan)
        if isinstance(self.network, MaskRCNN):
            hold(object_bytes(size) + 4 * len(self.plan.channels) * math.prod(size.plan_shape))
            return _Case(volume, torch.empty(0), [])
        settings, peak = choose_settings(
            size, self.plan, self.params.overlap, self.device, self._memory, where
        )
        hold(peak)
        return _Case(volume, prepare_volume(volume, self.plan, where), settings)

    def _compute(self, case: _Case, where: str) -> Prediction:
        volume = case.volume
        if isinstance(self.network, MaskRCNN):
            ids, classes, scores = predict_objects(
                self.network, volume, self.plan, self.params, self.device, where
            )
            score = self.params.label_score
            return build_prediction(ids, classes, scores, volume.affine, self.plan, self.params, score)
        found = predict_classes(
            self.network, case.take_image(), (volume.array.shape[1:], volume.affine), self.plan,
            self.params.overlap, self.mirror_axes, case.settings, where,
        )  # fmt: skip
        return to_prediction(found.winner, found.probability, volume.affine, self.plan, self.params)

    def _write(
        self, prediction: Prediction, volume: Volume, images: Sequence[Path], output: Path, case_id: str
    ) -> dict[str, Any]:
        """Writes all but the record."""
        suffix = prediction_suffix(images)
        save_label_map(prediction.label_map, output / f"{case_id}_labels{suffix}", images[0])
        instances = LabelMap(prediction.instances.array, volume.affine)
        save_instance_map(instances, output / f"{case_id}_instances{suffix}", images[0])
        draw_overlay(volume, prediction.label_map, None, output / f"{case_id}_overlay.png", case_id)
        return {
            "case_id": case_id,
            "input": [str(path) for path in images],
            "model": self.identity,
            "settings": self.params.model_dump(mode="json"),
            **self._measure(prediction, volume),
        }

    def _load(self, images: Sequence[Path], where: str) -> Volume:
        try:
            volume = load_volume(images)
        except MemoryError:
            raise SegtrailError("memory ran out while the image was read", where, "free memory") from None
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
