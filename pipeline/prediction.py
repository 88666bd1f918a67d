"""One case from image files to prediction files; the stage, the command and the served model all go here."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.allocation import keep_freed_memory
from pipeline.bundle import Bundle
from pipeline.config import PredictParams
from pipeline.errors import SegtrailError
from pipeline.inference import SMALLER, is_out_of_memory, predict_classes, predict_previous
from pipeline.inference_memory import (
    GB,
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
from pipeline.memory_limits import limit_bytes
from pipeline.models.cascade import Cascade
from pipeline.models.maskrcnn import MaskRCNN
from pipeline.overlays import draw_overlay
from pipeline.plan import Plan
from pipeline.postprocessing import build_prediction, to_prediction
from pipeline.prediction_record import measure_prediction
from pipeline.preprocessing import prepare_volume, target_shape
from pipeline.volume import LabelMap, Prediction, Volume, spacing_mm, to_canonical
from pipeline.windows import Setting

EFFECT = {"kind", "label", "minimum_mm3"}  # of a rule: what the record of a prediction says of it
LOGGER = logging.getLogger("segtrail")
STATIONS = 3  # reading, computing, writing: as many cases are in flight at most


@dataclass
class _Case:
    """A case that has been read.

    Attributes:
        volume: As read.
        image: What a U-Net sees, on the plan's grid; empty once it was taken.
        settings: How its windows may be run, the first one preferred.
        low: What the first network of a cascade sees; empty where there is none, and once it was taken.
    """

    volume: Volume
    image: torch.Tensor
    settings: list[Setting]
    low: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def take_image(self) -> torch.Tensor:
        """The image, which ends with whoever takes it: the objects are found without it."""
        image, self.image = self.image, torch.empty(0)
        return image

    def take_low(self) -> torch.Tensor:
        """The same for `low`."""
        low, self.low = self.low, torch.empty(0)
        return low


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


def _limit_memory(wanted_gb: float, further_networks: int) -> Memory:
    """`predict.memory_gb`, or what the machine or its container allows where that is less."""
    memory = Memory(wanted_gb, further_networks, limit_bytes())
    if memory.of_machine:
        allowed = memory.limit_bytes / GB
        LOGGER.info(
            "predict.memory_gb is %g, but this machine or container allows %.1f GB", wanted_gb, allowed
        )
    return memory


def _build_network(bundle: Bundle, device: torch.device) -> torch.nn.Module:
    try:
        return bundle.build(device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fix = "free memory there, name another device (--devices), or predict on the CPU (--devices cpu)"
        raise SegtrailError(
            f"the network does not fit into the memory of {device}", str(bundle.folder), fix
        ) from error


class Predictor:
    """A bundle ready to predict.

    Threads may share it: one case is read while one is computed and one is written, each at its own station,
    as far as `predict.memory_gb` allows.

    Args:
        bundle: The model.
        params: Section `predict`.
        device: Where the network runs.
        identity: Name and version of the model, written beside each prediction.

    Raises:
        SegtrailError: The network does not fit into the memory of the device.
    """

    def __init__(
        self, bundle: Bundle, params: PredictParams, device: torch.device, identity: dict[str, Any]
    ) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        self.plan = bundle.metadata.plan
        self.low_plan = bundle.metadata.low_plan
        self.params = params
        self.rules = bundle.metadata.postprocessing if params.postprocessing == "learned" else ()
        self.device = device
        self.identity = {**identity, "bundle_sha256": bundle.sha256}
        self.network = _build_network(bundle, device)
        # Only views that the network has been trained on help.
        flipped = bundle.metadata.params.get("augmentation", {}).get("flip_axes", ())
        self.mirror_axes = "".join(axis for axis in flipped if axis in params.mirror.replace("none", ""))
        self._memory = _limit_memory(params.memory_gb, bundle.further_bytes)
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
            fix = f"free memory, or lower predict.memory_gb to what is free, or {SMALLER}"
            raise SegtrailError("memory ran out", where, fix) from error
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
        low = None
        if self.low_plan is not None:
            low = self.low_plan, _measure_case(volume, self.low_plan).plan_shape
        settings, peak = choose_settings(
            size, self.plan, self.params.overlap, self.device, self._memory, where, low
        )
        hold(peak)
        case = _Case(volume, prepare_volume(volume, self.plan, where), settings)
        if self.low_plan is not None:
            case.low = prepare_volume(volume, self.low_plan, where)
        return case

    def _compute(self, case: _Case, where: str) -> Prediction:
        volume = case.volume
        if isinstance(self.network, MaskRCNN):
            ids, classes, scores = predict_objects(
                self.network, volume, self.plan, self.params, self.device, where
            )
            score = self.params.label_score
            return build_prediction(ids, classes, scores, volume.affine, self.plan, self.params, score)
        network, previous = self.network, None
        if isinstance(network, Cascade) and self.low_plan is not None:
            previous = predict_previous(
                network.low, case.take_low(), tuple(case.image.shape[1:]), self.low_plan,
                self.params.overlap, self.mirror_axes, case.settings, where,
            )  # fmt: skip
            network = network.full
        found = predict_classes(
            network, case.take_image(), (volume.array.shape[1:], volume.affine), self.plan,
            self.params.overlap, self.mirror_axes, case.settings, where, previous,
        )  # fmt: skip
        return to_prediction(
            found.winner, found.probability, volume.affine, self.plan, self.params, self.rules
        )

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
            "postprocessing": [rule.model_dump(include=EFFECT, exclude_defaults=True) for rule in self.rules],
            **measure_prediction(prediction, volume.affine, self.plan),
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
