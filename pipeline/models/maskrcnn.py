"""Mask R-CNN (He et al. 2017) from torchvision's parts, for windows whose size is fixed by the plan.

torchvision's own `MaskRCNN` resizes every image and pastes every mask to the size of the image. Here the plan
has chosen the size, and masks stay small until they are needed, so memory does not grow with the number of
objects. Images are (N, C, X, Y): what torchvision calls height is X, and its box (x1, y1, x2, y2) is
(Y0, X0, Y1, X1) of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from pipeline.models.backbones import PyramidBackbone
from pipeline.slices import WindowDetections

LEVELS = ["0", "1", "2", "3"]
LOSSES = {  # torchvision's names: ours
    "loss_objectness": "loss_objectness",
    "loss_rpn_box_reg": "loss_rpn_box",
    "loss_classifier": "loss_class",
    "loss_box_reg": "loss_box",
    "loss_mask": "loss_mask",
}
MOST_TRAINED = 512  # regions a window, torchvision's
MOST_WINDOWS = 4.0  # windows of training that one of prediction may have as many regions as
SMALLEST_SIDE = 1.0  # network pixels; smaller proposals are dropped


@dataclass(frozen=True)
class WindowObjects:
    """Reference objects of one window.

    Attributes:
        masks: (n, X, Y) bool, each with at least one pixel.
        labels: (n,) int64 network class indices, from 1.
    """

    masks: torch.Tensor
    labels: torch.Tensor

    def boxes(self) -> torch.Tensor:
        """(n, 4) float32 boxes in torchvision's order; half-open, so that one pixel has an area of 1."""
        rows, columns = self.masks.any(dim=2), self.masks.any(dim=1)
        sides = [_span(columns), _span(rows)]
        return torch.stack([sides[0][0], sides[1][0], sides[0][1], sides[1][1]], dim=1).float()


def _span(hit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First position and the one after the last, of each row of (n, length) bool."""
    length = hit.shape[1]
    first = hit.to(torch.uint8).argmax(dim=1)
    last = length - hit.flip(1).to(torch.uint8).argmax(dim=1)
    return first, last


def _in_place(masks: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Moves masks to where the objects are.

    torchvision samples the mask of a reference as if a pixel's centre lay at its index, half a pixel before
    where it is in a half-open box; so the mask head has learned masks that lie half a pixel too low.

    Args:
        masks: (n, 1, M, M) over the boxes.
        boxes: (n, 4) in torchvision's order.
    """
    if len(masks) == 0:
        return masks
    extents = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1e-6)
    theta = torch.eye(2, 3, device=masks.device).repeat(len(masks), 1, 1)
    theta[:, :, 2] = -1 / extents  # half a pixel, counted in half extents
    grid = functional.affine_grid(theta, list(masks.shape), align_corners=False)
    return functional.grid_sample(masks, grid, padding_mode="border", align_corners=False)


class MaskRCNN(nn.Module):
    """Region proposals, then class, box and mask of each region.

    Args:
        channels: Of the image.
        classes: Background included.
        backbone: One of `pipeline.models.backbones.BACKBONES`.
        pyramid_channels: Feature maps of each pyramid level; the mask head has as many.
        head_channels: Width of the box head.
        anchor_sizes: Edge lengths in network pixels, one tuple a level.
        anchor_ratios: Extent along Y over extent along X.
        proposals: Regions a window on which the heads are trained, at most 512; prediction looks at these or at
            twice `detections`, whichever is more.
        detections: Most objects a window.
        window: Pixels along X and Y of a window in training; a larger one gets more proposals and detections.
        frozen_norm: See `PyramidBackbone`.
        trainable_layers: See `PyramidBackbone`.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        backbone: str,
        pyramid_channels: int,
        head_channels: int,
        anchor_sizes: Sequence[Sequence[float]],
        anchor_ratios: Sequence[float],
        proposals: int,
        detections: int,
        window: Sequence[int],
        frozen_norm: bool,
        trainable_layers: int,
    ) -> None:
        super().__init__()
        self.backbone = PyramidBackbone(backbone, channels, pyramid_channels, frozen_norm, trainable_layers)
        sizes = tuple(tuple(level) for level in anchor_sizes)
        ratios = tuple(1 / ratio for ratio in anchor_ratios)  # torchvision's is X over Y
        anchors = AnchorGenerator(sizes, (ratios,) * len(sizes))
        self.proposals, self.detections = max(proposals, 2 * detections), detections
        trained = min(proposals, MOST_TRAINED)  # the heads cost more than the backbone: params say how much
        self.window_area = window[0] * window[1]
        self.proposer = RegionProposalNetwork(
            anchors,
            RPNHead(pyramid_channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 4 * trained, "testing": 2 * self.proposals},
            post_nms_top_n={"training": 2 * trained, "testing": self.proposals},
            nms_thresh=0.7,
        )
        self.proposer.min_size = SMALLEST_SIDE
        self.heads = RoIHeads(
            MultiScaleRoIAlign(LEVELS, 7, 2),
            TwoMLPHead(pyramid_channels * 7 * 7, head_channels),
            FastRCNNPredictor(head_channels, classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=trained,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=detections,
            mask_roi_pool=MultiScaleRoIAlign(LEVELS, 14, 2),
            mask_head=MaskRCNNHeads(pyramid_channels, (pyramid_channels,) * 4, 1),
            mask_predictor=MaskRCNNPredictor(pyramid_channels, pyramid_channels, classes),
        )
        self.to(memory_format=torch.channels_last)  # a third faster on CPU than the default layout

    def losses(self, images: torch.Tensor, objects: Sequence[WindowObjects]) -> dict[str, torch.Tensor]:
        """The five losses of a batch.

        Args:
            images: (N, C, X, Y).
            objects: One entry an image; it may hold none.

        Returns:
            loss_objectness, loss_rpn_box, loss_class, loss_box, loss_mask.
        """
        targets = [
            {"boxes": o.boxes(), "labels": o.labels, "masks": o.masks.to(torch.uint8)} for o in objects
        ]
        features, listed = self._features(images)
        with torch.autocast(images.device.type, enabled=False):
            proposals, of_proposals = self.proposer(listed, features, targets)
            _, of_heads = self.heads(features, proposals, listed.image_sizes, targets)
        return {LOSSES[name]: value for name, value in {**of_proposals, **of_heads}.items()}

    def forward(self, images: torch.Tensor, min_score: float = 0.05) -> list[WindowDetections]:
        """Objects of each window.

        Args:
            images: (N, C, X, Y), X and Y multiples of 32.
            min_score: Objects below are left out.
        """
        share = images.shape[2] * images.shape[3] / self.window_area
        share = min(max(1.0, share), MOST_WINDOWS)
        self.heads.score_thresh = min_score
        self.heads.detections_per_img = round(share * self.detections)
        self.proposer._pre_nms_top_n["testing"] = round(share * 2 * self.proposals)
        self.proposer._post_nms_top_n["testing"] = round(share * self.proposals)
        features, listed = self._features(images)
        with torch.autocast(images.device.type, enabled=False):
            proposals, _ = self.proposer(listed, features)
            found, _ = self.heads(features, proposals, listed.image_sizes)
            masks = [_in_place(one["masks"], one["boxes"])[:, 0].cpu() for one in found]
        return [
            WindowDetections(
                boxes=one["boxes"][:, [1, 0, 3, 2]].cpu(),
                scores=one["scores"].cpu(),
                labels=one["labels"].cpu(),
                masks=mask,
            )
            for one, mask in zip(found, masks, strict=True)
        ]

    def _features(self, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], ImageList]:
        """The pyramid of a batch, in float32 whatever the precision around.

        bfloat16 has no odd number above 256, so boxes computed in it would be a pixel off.
        """
        levels = self.backbone(images.contiguous(memory_format=torch.channels_last))
        size = (int(images.shape[2]), int(images.shape[3]))
        named = {name: level.float() for name, level in zip(LEVELS, levels.values(), strict=True)}
        return named, ImageList(images, [size] * len(images))
