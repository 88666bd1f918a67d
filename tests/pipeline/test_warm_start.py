"""Weights of an earlier model as the start of a training: which fit, and that they are what the first step sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_plan import make_plan
from safetensors.numpy import load_file
from training_jobs import cube_plan, make_job, read_params

from pipeline.bundle import BundleMetadata, load_bundle, save_bundle
from pipeline.errors import SegtrailError
from pipeline.models.cascade import join_parts
from pipeline.models.ensemble import join_weights
from pipeline.models.instance import instance_arguments
from pipeline.models.semantic import semantic_arguments
from pipeline.plan import ChannelNormalization, ConfigurationPlan, Plan, RegionPlan
from pipeline.train_params import InstanceTrainParams, SemanticTrainParams
from pipeline.train_worker import run_job
from pipeline.warm_start import find_misfits, find_shifts, load_parent

UNET, MASKRCNN = read_params("unet"), read_params("maskrcnn")
PLAN = cube_plan()
DETECTION = make_plan((64, 96))


def bundle_of(
    plan: Plan, kind: str = "unet", members: int = 1, arguments: dict[str, Any] | None = None
) -> BundleMetadata:
    """As a training on this plan writes it."""
    return BundleMetadata(
        model="unet", network=kind, network_arguments=arguments or semantic_arguments(plan), plan=plan,
        params={}, provenance={}, validation_metric="validation_dice", validation_score=0.5, members=members,
        weights_sha256="0" * 64,
    )  # fmt: skip


def changed(plan: Plan = PLAN, **values: Any) -> Plan:
    return plan.model_copy(update=values)


def test_after_one_smallest_step_the_weights_are_the_parents_and_so_is_the_dice(tmp_path: Path) -> None:
    """AdamW moves a weight by at most learning_rate x (1 + weight_decay x weight) in its first step."""
    parent = make_job(tmp_path, "parent", max_epochs=12)
    run_job(parent)
    least = {"max_epochs": 1, "steps_per_epoch": 1, "validate_every_epochs": 1, "learning_rate": 1e-6}
    warm = make_job(tmp_path, "warm", **least).model_copy(update={"parent": parent.output})
    run_job(warm)
    cold = make_job(tmp_path, "cold", **least)
    run_job(cold)

    weights = {job.scratch.name: load_file(job.output / "model.safetensors") for job in (parent, warm, cold)}
    assert weights["parent"].keys() == weights["warm"].keys()
    for name, before in weights["parent"].items():
        allowed = 1e-6 * (1 + 0.01 * np.abs(before)) + 1e-7 * np.abs(before)  # and the rounding of 32 bits
        assert (np.abs(weights["warm"][name] - before) <= allowed).all(), name
    moved = [float(np.abs(weights["warm"][n] - weights["parent"][n]).max()) for n in weights["parent"]]
    assert max(moved) > 0  # a step was made
    scores = {
        job.scratch.name: load_bundle(job.output).metadata.validation_score for job in (parent, warm, cold)
    }
    assert scores["parent"] is not None
    assert scores["parent"] > 0.9
    assert scores["warm"] == pytest.approx(scores["parent"], abs=0.01)
    assert scores["cold"] is not None
    assert scores["cold"] < 0.5


def test_a_fold_and_a_part_begin_with_their_own_weights(tmp_path: Path) -> None:
    """Four networks of one number each: two folds of a cascade."""

    def number(value: float) -> dict[str, torch.Tensor]:
        return {"weight": torch.full((1, 1), value), "bias": torch.zeros(1)}

    folds = [join_parts(number(1.0), number(2.0)), join_parts(number(3.0), number(4.0))]
    metadata = bundle_of(PLAN, "cascade", 2).model_dump(exclude={"weights_sha256"})
    save_bundle(tmp_path, join_weights(folds), **metadata)
    network, found = torch.nn.Linear(1, 1), []
    for fold in (0, 1):
        for part in ("low", "full"):
            load_parent(network, tmp_path, fold, part)
            found.append(float(network.weight))
    assert found == [1.0, 2.0, 3.0, 4.0]


def test_damaged_weights_and_those_of_another_network_are_one_error(tmp_path: Path) -> None:
    metadata = bundle_of(PLAN).model_dump(exclude={"weights_sha256"})
    save_bundle(tmp_path, {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}, **metadata)
    with pytest.raises(SegtrailError, match=r"another network: .*\n.*\n.*start: scratch"):
        load_parent(torch.nn.Linear(2, 2), tmp_path, 0)
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(SegtrailError, match="sha256"):
        load_parent(torch.nn.Linear(1, 1), tmp_path, 0)


ZSCORE = ChannelNormalization(scheme="zscore")
HALF = ChannelNormalization(scheme="zscore", nonzero_mask=True)
REGION = RegionPlan(name="whole", labels=(1,), paint=1)


@pytest.mark.parametrize(
    ("plan", "params", "reasons"),
    [
        (PLAN, {}, []),
        (changed(spacing_mm=(1.0, 1.0, 1.1), patch_size=(32, 16, 16), batch_size=4), {}, []),
        (changed(normalization=(ChannelNormalization(scheme="zscore", mean=3.0),)), {}, []),
        (changed(label_values=(0, 7)), {}, []),
        (changed(features=(8, *PLAN.features[1:])), {}, ["features: 4, 8, 16 there, 8, 8, 16 here"]),
        (changed(label_names=("background", "ball")), {}, [
            "label_names: background, cube there, background, ball here",
        ]),
        (changed(channels=("CT",)), {}, ["channel_names: MRI there, CT here"]),
        (changed(normalization=(HALF,)), {}, ["normalization: zscore there, zscore, of voxels that are not 0 here"]),
        (changed(regions=(REGION,)), {}, [
            "classes: 2 there, 1 here", "regions: none there, whole (1, painted 1) here",
        ]),
        (changed(dimensions=2), {}, ["dimensions: 3 there, 2 here"]),
        (PLAN, {"folds": 3}, ["networks: 1 there, 3 here"]),
        (changed(blocks=(1, 3)), {}, ["blocks: none there, 1, 3 here"]),
    ],
)  # fmt: skip
def test_what_fits(plan: Plan, params: dict[str, Any], reasons: list[str]) -> None:
    assert PLAN.features == (4, 8, 16)
    assert find_misfits(bundle_of(PLAN), plan, UNET.model_copy(update=params)) == reasons


def test_another_network_is_the_only_reason_that_is_told() -> None:
    for params, plan, name in ((MASKRCNN, DETECTION, "maskrcnn"), (UNET, PLAN, "resunet")):
        if name == "resunet":
            plan = changed(alternatives={"residual": configuration(blocks=(1, 3))})
            params = params.model_copy(update={"network": "resunet"})
        assert find_misfits(bundle_of(PLAN), plan, params) == [f"network: unet there, {name} here"]


def configuration(**values: Any) -> ConfigurationPlan:
    same = PLAN.model_dump(include=set(ConfigurationPlan.model_fields) - {"shape"})
    return ConfigurationPlan(**{**same, "shape": (20, 18, 16), **values})


def test_both_networks_of_a_cascade_must_fit() -> None:
    plan = changed(alternatives={"lowres": configuration(spacing_mm=(2.0, 2.0, 2.0))})
    params = UNET.model_copy(update={"configuration": "cascade"})
    arguments = {"network": "unet", "low": semantic_arguments(PLAN), "full": semantic_arguments(PLAN, 2)}
    parent = bundle_of(PLAN, "cascade", arguments=json.loads(json.dumps(arguments)))
    assert find_misfits(parent, plan, params) == []
    wide = changed(alternatives={"lowres": configuration(features=(8, 16, 32))})
    assert find_misfits(parent, wide, params) == ["low.features: 4, 8, 16 there, 8, 16, 32 here"]


def test_anchors_of_maskrcnn_may_move_but_not_their_number() -> None:
    assert isinstance(MASKRCNN, InstanceTrainParams)
    assert DETECTION.detection is not None
    parent = bundle_of(DETECTION, "maskrcnn", arguments=instance_arguments(DETECTION, MASKRCNN))
    sizes = DETECTION.detection.anchor_sizes
    for changes, reasons in (
        ({"window": (128, 128), "anchor_sizes": tuple(tuple(2 * s for s in level) for level in sizes)}, []),
        ({"anchor_ratios": (*DETECTION.detection.anchor_ratios, 9.0)}, ["anchor_ratios"]),
    ):
        plan = changed(DETECTION, detection=DETECTION.detection.model_copy(update=changes))
        assert [text.split(":")[0] for text in find_misfits(parent, plan, MASKRCNN)] == reasons
    wider = MASKRCNN.model_copy(update={"head_channels": 64, "proposals": 50})
    assert find_misfits(parent, DETECTION, wider) == ["head_channels: 32 there, 64 here"]


def test_what_has_moved_is_told() -> None:
    assert isinstance(UNET, SemanticTrainParams)
    assert find_shifts(bundle_of(PLAN), PLAN, UNET) == []
    plan = changed(spacing_mm=(1.0, 1.0, 1.25), dataset="balls")
    assert find_shifts(bundle_of(PLAN), plan, UNET) == [
        "dataset: cubes there, balls here", "spacing_mm: 1, 1, 1 there, 1, 1, 1.25 here",
    ]  # fmt: skip
