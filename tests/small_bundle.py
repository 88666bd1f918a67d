"""Bundles of untrained networks: where a prediction lies does not depend on what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.bundle import load_bundle, save_bundle
from pipeline.config import PredictParams
from pipeline.models.networks import build_network
from pipeline.plan import ChannelNormalization, Plan
from pipeline.topology import pooling

PREDICT = PredictParams(
    overlap=0.5, mirror="none", memory_gb=6.0, postprocessing="learned", min_component_mm3=0.0,
    min_score=0.05, label_score=0.5, duplicate_iou=0.5, link_iou=0.3,
)  # fmt: skip


def write_ct_bundle(folder: Path) -> Path:
    """A 3D U-Net of one channel and the labels 0, 2 and 5."""
    how = ChannelNormalization(scheme="ct", low=-100, high=300, mean=50, std=80)
    names = ("background", "liver", "tumour")
    return _write(folder, _plan(("CT",), (16, 16, 16), 2.0, names, (0, 2, 5), how))


def write_nodule_bundle(folder: Path) -> Path:
    """The same of the labels of the phantom, 1 and 2."""
    how = ChannelNormalization(scheme="ct", low=-100, high=300, mean=50, std=80)
    return _write(
        folder, _plan(("CT",), (16, 16, 16), 2.0, ("background", "nodule", "vessel"), (0, 1, 2), how)
    )


def write_cascade_bundle(folder: Path) -> Path:
    """The same labels on 2 mm, after a network on 4 mm; both of 16 voxels a window."""
    plan = load_bundle(write_ct_bundle(folder)).metadata.plan
    low = plan.model_copy(update={"spacing_mm": (4.0, 4.0, 4.0)})
    arguments: dict[str, Any] = {
        "network": "unet", "low": _arguments(low), "full": {**_arguments(plan), "previous_classes": 3},
    }  # fmt: skip
    torch.manual_seed(4)
    save_bundle(
        folder, build_network("cascade", **arguments).state_dict(), model="unet", network="cascade",
        network_arguments=arguments, plan=plan, params={"augmentation": {"flip_axes": ["x"]}}, provenance={},
        validation_metric="validation_dice", validation_score=None, low_plan=low,
    )  # fmt: skip
    return folder


def write_picture_bundle(folder: Path, values: tuple[int, ...] = (0, 1, 200)) -> Path:
    """A 2D U-Net for pictures in colours."""
    how = ChannelNormalization(scheme="zscore")
    names = ("background", "nucleus", "debris")
    return _write(folder, _plan(("R", "G", "B"), (32, 32, 1), 1.0, names, values, how))


def _plan(
    channels: tuple[str, ...],
    patch: tuple[int, int, int],
    spacing: float,
    names: tuple[str, ...],
    values: tuple[int, ...],
    how: ChannelNormalization,
) -> Plan:
    strides, kernels = pooling(patch, (spacing,) * 3)
    return Plan(
        dataset="x", channels=channels, label_names=names, label_values=values,
        dimensions=2 if patch[2] == 1 else 3, spacing_mm=(spacing,) * 3, patch_size=patch, batch_size=2,
        strides=strides, kernels=kernels, features=(4, 8, 16, 16)[: len(strides)], reasons={}, n_cases=1,
        normalization=(how,) * len(channels),
    )  # fmt: skip


def _write(folder: Path, plan: Plan) -> Path:
    arguments = _arguments(plan)
    torch.manual_seed(3)
    folder.mkdir()
    save_bundle(
        folder, build_network("unet", **arguments).state_dict(), model="unet", network="unet",
        network_arguments=arguments, plan=plan, params={}, provenance={},
        validation_metric="validation_dice", validation_score=None,
    )  # fmt: skip
    return folder


def _arguments(plan: Plan) -> dict[str, Any]:
    return {
        "channels": len(plan.channels), "classes": plan.outputs, "features": list(plan.features),
        "strides": plan.strides, "kernels": plan.kernels, "dimensions": plan.dimensions,
    }  # fmt: skip
