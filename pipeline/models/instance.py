"""Lightning module of instance segmentation: Mask R-CNN on windows, validated by the AP of whole cases."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augmentation import apply_augmentation
from pipeline.config import PredictParams
from pipeline.detection import average_precision
from pipeline.instance_inference import find_objects
from pipeline.instance_overlaps import mask_overlaps
from pipeline.matching import ALL_SIZES, IOU_10_50, Detections, match
from pipeline.models.backbones import load_backbone_weights
from pipeline.models.base import TrainedModule
from pipeline.models.maskrcnn import LOSSES, MaskRCNN, WindowObjects
from pipeline.models.networks import build_network
from pipeline.plan import Plan
from pipeline.slices import require_detection, window_scale
from pipeline.train_params import InstanceTrainParams

# How validation predicts; the test cases are predicted with section `predict`.
VALIDATION = PredictParams(
    overlap=0.25,
    mirror="none",
    memory_gb=10_000,
    postprocessing="none",
    min_component_mm3=0,
    min_score=0.05,
    label_score=0.5,
    duplicate_iou=0.5,
    link_iou=0.3,
)
VALIDATION_DETECTIONS = 1000


def instance_arguments(plan: Plan, params: InstanceTrainParams) -> dict[str, Any]:
    """Arguments of the network of a plan with a detection part; see `InstanceModule`."""
    detection = require_detection(plan)
    pretrained = params.backbone_weights != "none"
    return {
        "channels": detection.slices * len(plan.channels),
        "classes": len(plan.label_names),
        "backbone": params.backbone,
        "pyramid_channels": params.pyramid_channels,
        "head_channels": params.head_channels,
        "anchor_sizes": [list(level) for level in detection.anchor_sizes],
        "anchor_ratios": list(detection.anchor_ratios),
        "proposals": params.proposals,
        "detections": detection.detections,
        "window": list(detection.window),
        "frozen_norm": pretrained,
        "trainable_layers": params.trainable_layers if pretrained else 5,
    }


class InstanceModule(TrainedModule):
    """Trains Mask R-CNN on windows of slices.

    Args:
        model: Name of the model, for errors.
        plan: The data set's plan, with its detection part.
        params: `train.<model>`.

    Raises:
        SegtrailError: The plan has no detection part, or pre-trained weights cannot be had.
    """

    monitor: ClassVar[str] = "validation_mask_map_10_50"
    monitor_title: ClassVar[str] = "mask_map_10_50"
    network: MaskRCNN

    def __init__(self, model: str, plan: Plan, params: InstanceTrainParams) -> None:
        detection = require_detection(plan)
        arguments = instance_arguments(plan, params)
        super().__init__(build_network(params.network, **arguments), arguments, plan, params)
        if params.backbone_weights != "none":
            state = load_backbone_weights(
                params.backbone_weights, params.backbone_sha256, params.backbone, f"train.{model}"
            )
            unit_range = all(how.scheme == "window" for how in plan.normalization)
            where = f"params.yaml: train.{model}.backbone_weights"
            self.network.backbone.load_pretrained(state, where, unit_range)
        self.detection = detection
        self.warmup_steps = params.warmup_steps
        self.validated: list[list[Detections]] = []

    def history_columns(self) -> list[str]:
        """The five losses, and AP over the validation cases."""
        losses = [f"train_{name}" for name in LOSSES.values()]
        return [*losses, "validation_mask_map_10_50", "validation_mask_map_50"]

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augments training batches on the training device; boxes and masks follow from the moved ids."""
        if not self.training or "step" not in batch:
            return batch
        padding = torch.tensor([how.padding for how in self.plan.normalization]).repeat(self.detection.slices)
        scale_x, scale_y = window_scale(self.detection)
        spacing = (self.plan.spacing_mm[0] / scale_x, self.plan.spacing_mm[1] / scale_y, 1.0)
        image, ids = apply_augmentation(
            batch["image"][..., None],
            batch["instances"][..., None],
            padding,
            spacing,
            self.draw(batch, flat=True),
        )
        return {**batch, "image": image[..., 0], "instances": ids[..., 0]}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Sum of the five losses of one batch; each is logged."""
        self.set_learning_rate()
        # Regions are sampled at random inside the network.
        torch.manual_seed(self.step_seed(int(batch["step"])))
        objects = [to_objects(i, n) for i, n in zip(batch["instances"], batch["labels"], strict=True)]
        losses = self.network.losses(batch["image"], objects)
        total: torch.Tensor = torch.stack(list(losses.values())).sum()
        self.require_finite(total)
        values = {"train_loss": total, **{f"train_{name}": loss for name, loss in losses.items()}}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        return total

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Painted masks of one whole case against its objects, class by class."""
        ids, found = find_objects(self.network, batch["image"], self.plan, VALIDATION, self.device)
        reference = batch["instances"].cpu().numpy().astype(np.int32)
        self.validated.append(
            to_detections(
                ids,
                np.array([one.label for one in found], np.int64),
                np.array([one.score for one in found]),
                reference,
                batch["instance_labels"].cpu().numpy().astype(np.int64),
                len(self.plan.label_names),
                batch["case_id"],
            )
        )

    def on_validation_epoch_end(self) -> None:
        """Logs the mean over classes of AP, pooled over the validation cases."""
        cases, self.validated = self.validated, []
        for name, thresholds in (("10_50", IOU_10_50), ("50", np.array([0.5]))):
            values = []
            for of_class in zip(*cases, strict=True):
                if any(len(one.reference_sizes) for one in of_class):
                    matches = [match(one, thresholds, VALIDATION_DETECTIONS, ALL_SIZES) for one in of_class]
                    values.append(float(average_precision(matches).mean()))
            mean = float(np.mean(values)) if values else float("nan")
            self.log(f"validation_mask_map_{name}", mean, rank_zero_only=True)


def to_objects(ids: torch.Tensor, labels: torch.Tensor) -> WindowObjects:
    """Objects of a window from its ids.

    Args:
        ids: (X, Y) integer, 0 is background.
        labels: (largest id of the case + 1,) class index by id.
    """
    present = torch.unique(ids)
    present = present[present > 0]
    return WindowObjects(ids[None] == present[:, None, None], labels[present.long()])


def to_detections(
    ids: NDArray[Any],
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    reference: NDArray[Any],
    reference_labels: NDArray[np.int64],
    classes: int,
    case_id: str,
) -> list[Detections]:
    """One record a foreground class of one case.

    Args:
        ids: (X, Y, Z) painted ids 1..n.
        labels, scores: (n,) of each.
        reference: (X, Y, Z) ids.
        reference_labels: (largest id + 1,) class index by id.
        classes: Background included.
        case_id: Of the record.
    """
    records = []
    for label in range(1, classes):
        found = np.flatnonzero(labels == label)
        wanted = np.flatnonzero(reference_labels == label)
        overlaps, sizes, reference_sizes = mask_overlaps(ids, reference, found + 1, wanted)
        records.append(Detections(case_id, case_id, scores[found], overlaps, sizes, reference_sizes))
    return records
