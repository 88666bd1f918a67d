"""Going on from the weights of a trained model: whether they fit a training, and how they come into its network.

Weights fit where the network is the same and its inputs and outputs mean the same. Where the plan has moved and the
network has not (another voxel size, other intensities), they are a start like any other, and the difference is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.bundle import BundleMetadata, load_bundle
from pipeline.errors import SegtrailError
from pipeline.models.cascade import FULL, LOW
from pipeline.models.ensemble import member_weights
from pipeline.models.instance import instance_arguments
from pipeline.models.semantic import semantic_arguments
from pipeline.plan import Plan
from pipeline.train_params import InstanceTrainParams, SemanticTrainParams

CASCADE = "cascade"  # the name of both networks in `pipeline.models.networks`
# They change how Mask R-CNN is trained or used, not what its weights are.
FREE = ("proposals", "detections", "window", "trainable_layers")
ANCHORS = ("anchor_sizes", "anchor_ratios")  # their numbers may move with the objects, not how many there are


def find_misfits(
    parent: BundleMetadata, plan: Plan, params: SemanticTrainParams | InstanceTrainParams
) -> list[str]:
    """Why a training cannot begin with the weights of a model; empty where it can.

    Args:
        parent: The model.
        plan: The data set's, as it is now.
        params: `train.<model>` of the training.

    Returns:
        One text a difference, such as "features: 8, 16 there, 16, 32 here".
    """
    name, wanted = _network(plan, params)
    if parent.network != name:
        return [_differ("network", parent.network, name)]
    folds = params.folds if isinstance(params, SemanticTrainParams) else 1
    there, here = _flatten(parent.network_arguments), _flatten(wanted)
    found: dict[str, tuple[Any, Any]] = {
        "networks": (parent.members, folds),
        **{key: (there.get(key), here.get(key)) for key in sorted({*there, *here}) if key not in FREE},
        "label_names": (parent.plan.label_names, plan.label_names),
        "regions": (_regions(parent.plan), _regions(plan)),
        "channel_names": (parent.plan.channels, plan.channels),
        "normalization": (_schemes(parent.plan), _schemes(plan)),
    }
    return [_differ(key, old, new) for key, (old, new) in found.items() if not _alike(key, old, new)]


def find_shifts(
    parent: BundleMetadata, plan: Plan, params: SemanticTrainParams | InstanceTrainParams
) -> list[str]:
    """What has moved since the weights were trained and does not keep them from being a start.

    Args:
        parent, plan, params: As for `find_misfits`, which has found nothing.
    """
    now = plan
    if isinstance(params, SemanticTrainParams):
        now = plan.configured(params.network, params.configuration)
    found: dict[str, tuple[Any, Any]] = {
        "dataset": (parent.plan.dataset, plan.dataset),
        "spacing_mm": (parent.plan.spacing_mm, now.spacing_mm),
    }
    if isinstance(params, InstanceTrainParams):
        _, wanted = _network(plan, params)
        found |= {key: (parent.network_arguments.get(key), wanted[key]) for key in ANCHORS}
    return [_differ(key, old, new) for key, (old, new) in found.items() if _plain(old) != _plain(new)]


def _network(plan: Plan, params: SemanticTrainParams | InstanceTrainParams) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the network that a training builds."""
    if isinstance(params, InstanceTrainParams):
        return params.network, instance_arguments(plan, params)
    full = plan.configured(params.network, params.configuration)
    if params.configuration != CASCADE:
        return params.network, semantic_arguments(full)
    low = semantic_arguments(plan.configured(params.network, "lowres"))
    second = semantic_arguments(full, len(full.label_names))
    return CASCADE, {"network": params.network, LOW: low, FULL: second}


def _flatten(arguments: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in arguments.items():
        name = f"{prefix}{key}"
        found |= _flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: _plain(value)}
    return found


def _plain(value: Any) -> Any:
    """The value as JSON holds it: a list and a tuple of the same are equal."""
    return json.loads(json.dumps(value))


def _alike(key: str, old: Any, new: Any) -> bool:
    if key in ANCHORS and old and new:
        return _lengths(old) == _lengths(new)
    return bool(_plain(old) == _plain(new))


def _lengths(values: Any) -> list[int]:
    return [len(values), *(len(level) for level in values if isinstance(level, list))]


def _regions(plan: Plan) -> list[str]:
    return [f"{r.name} ({' + '.join(map(str, r.labels))}, painted {r.paint})" for r in plan.regions]


def _schemes(plan: Plan) -> list[str]:
    return [f"{how.scheme}{', of voxels that are not 0' * how.nonzero_mask}" for how in plan.normalization]


def _differ(key: str, old: Any, new: Any) -> str:
    return f"{key}: {_text(old)} there, {_text(new)} here"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return (
            ", ".join("x".join(map(_text, v)) if isinstance(v, list | tuple) else _text(v) for v in value)
            or "none"
        )
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def load_parent(network: torch.nn.Module, folder: Path, fold: int, part: str = "") -> None:
    """Gives a network the weights that its training begins with.

    Args:
        network: Freshly built.
        folder: Bundle of the parent.
        fold: Which of its networks, where it has several.
        part: "low" or "full" of a cascade; "" elsewhere.

    Raises:
        SegtrailError: The bundle is damaged, or its weights are of another network.
    """
    bundle = load_bundle(folder)
    weights = bundle.weights if bundle.metadata.members == 1 else member_weights(bundle.weights, fold)
    if part:
        weights = {
            name.removeprefix(f"{part}."): t for name, t in weights.items() if name.startswith(f"{part}.")
        }
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise SegtrailError(
            f"the weights to begin with are of another network: {str(error).splitlines()[0]}",
            str(folder),
            f"set train.{bundle.metadata.model}.start: scratch",
        ) from error
