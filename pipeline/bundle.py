"""A trained model as two files: `model.safetensors` and `bundle.json`. Training and serving share it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load, save

from pipeline.errors import SegtrailError
from pipeline.models.cascade import FULL
from pipeline.models.ensemble import average_networks, member_weights
from pipeline.models.networks import build_network
from pipeline.plan import Plan
from pipeline.postprocessing_rules import Rule

WEIGHTS = "model.safetensors"
METADATA = "bundle.json"


class BundleMetadata(BaseModel):
    """What stands beside the weights.

    Attributes:
        model: Name of the model, as in `params.models`.
        network: Name of the network in `pipeline.models.networks`.
        network_arguments: Arguments of the network.
        plan: How images are prepared and what the classes mean.
        params: `train.<model>` the weights were trained with.
        provenance: Data digest, code commit and package versions.
        validation_metric: Name of the score, such as "validation_dice".
        validation_score: Its value on the validation cases, None when none was measured. Of a U-Net the "dice" of
            the closing validation; of Mask R-CNN what chose the weights.
        validation_scores: See `pipeline.closing_validation.summarise_scores`; empty where there was none.
        members: Networks whose logits are averaged; see `pipeline.models.ensemble.join_weights`.
        postprocessing: Rules that its label maps go through, in this order; learned from the closing predictions.
        weights_sha256: Of `model.safetensors`.
        low_plan: Of the first network of a cascade, whose second one has `plan`; None for one network.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    network: str
    network_arguments: dict[str, Any]
    plan: Plan
    params: dict[str, Any]
    provenance: dict[str, Any]
    validation_metric: str
    validation_score: float | None
    validation_scores: dict[str, float | None] = {}
    members: int = 1
    postprocessing: tuple[Rule, ...] = ()
    weights_sha256: str
    low_plan: Plan | None = None


@dataclass(frozen=True)
class Bundle:
    """A checked bundle.

    Attributes:
        folder: Where it was read.
        metadata: Content of `bundle.json`.
        weights: Tensors by name.
        sha256: Of the metadata, which holds the sha256 of the weights.
    """

    folder: Path
    metadata: BundleMetadata
    weights: dict[str, torch.Tensor]
    sha256: str

    @property
    def further_bytes(self) -> int:
        """Bytes of the weights of all networks but one, as they are held twice: here and in the network.

        Of a cascade each member is two networks; the one that is not counted is at full resolution.
        """
        one = self.weights if self.metadata.members == 1 else member_weights(self.weights, 0)
        if self.metadata.low_plan is not None:
            one = {name: tensor for name, tensor in one.items() if name.startswith(f"{FULL}.")}
        return 2 * (_count_bytes(self.weights) - _count_bytes(one))

    def build(self, device: torch.device) -> torch.nn.Module:
        """The network with its weights, in evaluation mode; of several members, one that averages their logits."""
        members = self.metadata.members
        if members == 1:
            return self._build_member(self.weights).to(device).eval()
        parts = [self._build_member(member_weights(self.weights, member)) for member in range(members)]
        return average_networks(parts).to(device).eval()

    def _build_member(self, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
        network = build_network(self.metadata.network, **self.metadata.network_arguments)
        network.load_state_dict(weights)
        return network


def _count_bytes(weights: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in weights.values())


def save_bundle(folder: Path, weights: dict[str, torch.Tensor], **metadata: Any) -> str:
    """Writes a bundle into an existing folder.

    Args:
        folder: Target.
        weights: State dict of the network, or of several joined.
        **metadata: Fields of `BundleMetadata` but `weights_sha256`.

    Returns:
        sha256 of the bundle.
    """
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    record = BundleMetadata(**metadata, weights_sha256=hashlib.sha256(data).hexdigest())
    text = record.model_dump_json(indent=2) + "\n"
    (folder / WEIGHTS).write_bytes(data)
    (folder / METADATA).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def load_bundle(folder: Path) -> Bundle:
    """Reads and checks a bundle.

    Raises:
        SegtrailError: A file is missing, is not a bundle, or the weights are not the ones it was saved with.
    """
    try:
        text = (folder / METADATA).read_text(encoding="utf-8")
        data = (folder / WEIGHTS).read_bytes()
        metadata = BundleMetadata.model_validate_json(text)
    except OSError as error:
        raise SegtrailError(
            f"this is no bundle: {error}", str(folder), f"give a folder with {WEIGHTS} and {METADATA}"
        ) from error
    except ValidationError as error:
        raise SegtrailError(
            f"bundle.json is not valid: {error}", str(folder / METADATA), "train again"
        ) from error
    seen = hashlib.sha256(data).hexdigest()
    if seen != metadata.weights_sha256:
        raise SegtrailError(
            f"the weights' sha256 is {seen[:16]}..., the bundle says {metadata.weights_sha256[:16]}...",
            str(folder / WEIGHTS),
            "restore the file (dvc checkout) or train again",
        )
    return Bundle(folder, metadata, load(data), hashlib.sha256(text.encode()).hexdigest())
