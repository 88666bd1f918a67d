"""Other networks and grids of one plan: planned, trained on one store, and used for prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plan_cases import MRI, make_fingerprints, make_params
from small_bundle import PREDICT
from training_jobs import make_job, read_params, write_cubes

from pipeline import alternative_planning
from pipeline.bundle import load_bundle
from pipeline.config import PlanParams
from pipeline.errors import SegtrailError
from pipeline.io.dataset import DatasetFacts
from pipeline.network_planning import FittedNetwork, Measure
from pipeline.patch_planning import NetworkShape, StepMemory
from pipeline.plan import Plan
from pipeline.planning import build_plan
from pipeline.prediction import Predictor
from pipeline.store import load_case
from pipeline.train_worker import TrainingJob, run_job
from pipeline.volume import Volume

CUBES = DatasetFacts("cubes", ("MRI",), {"background": 0, "cube": 1})
CHEST = make_fingerprints((512, 512, 300), (0.8, 0.8, 1.25))
HIPPOCAMPUS = make_fingerprints((35, 50, 36), (1, 1, 1), 200)
PICTURES = make_fingerprints((256, 320, 1), (1, 1, 1))
NNUNET = {"base_features": "auto", "max_features": "auto", "max_patch_voxels": 16777216}


def build(params: PlanParams, measure: Measure | None = None) -> Plan:
    return build_plan(HIPPOCAMPUS, MRI, params, measure)


def test_a_chest_has_every_configuration() -> None:
    plan = build_plan(CHEST, MRI, make_params())
    assert set(plan.alternatives) == {"residual", "2d", "residual 2d", "lowres", "residual lowres"}
    assert set(plan.alternatives) <= set(plan.reasons)
    slices = plan.configured("unet", "2d")
    assert (slices.dimensions, slices.spacing_mm) == (2, plan.spacing_mm)
    assert slices.patch_size == (256, 256, 1)  # plan.max_patch_voxels: 65536
    assert slices.blocks == () and len(slices.strides) == len(slices.kernels) == len(slices.features) == 7
    low = plan.configured("resunet", "lowres")
    assert low.spacing_mm == plan.alternatives["lowres"].spacing_mm > plan.spacing_mm
    assert low.blocks == (1, 3, 4, 6)
    assert plan.configured("unet", "full") is plan
    for network in ("unet", "resunet"):  # of a cascade the plan of its second network
        assert plan.configured(network, "cascade") == plan.configured(network, "full")
    # What does not depend on the configuration stays.
    for name in ("label_names", "normalization", "n_cases", "detection", "reasons"):
        assert getattr(low, name) == getattr(plan, name)


def test_two_dimensions_are_those_of_nnunet() -> None:
    """Its 2D plan of hippocampus: patch 56 x 40, 4 stages of 32 to 256 features (nnunetv2 2.8.1, 8 GB)."""
    plan = build(make_params(**NNUNET))
    flat = plan.alternatives["2d"]
    assert (flat.patch_size, flat.features) == ((40, 56, 1), (32, 64, 128, 256))
    assert flat.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1))
    large = build_plan(CHEST, MRI, make_params(**NNUNET)).alternatives["2d"]
    assert large.features == (32, 64, 128, 256, 512, 512, 512, 512)  # up to 512, not 320 as in 3D


def test_own_values_reach_every_configuration() -> None:
    plan = build(make_params(patch_size=(32, 48, 32), batch_size=3, first_features=4))
    found = {name: (other.patch_size, other.batch_size) for name, other in plan.alternatives.items()}
    assert found == {
        "residual": ((32, 48, 32), 3), "2d": ((32, 48, 1), 3), "residual 2d": ((32, 48, 1), 3),
    }  # fmt: skip
    assert {other.features[0] for other in plan.alternatives.values()} == {4}


def test_a_patch_of_ones_own_is_rounded_up_where_slices_need_it() -> None:
    """24 x 40 x 56: in slices both edges are halved 3 times as well; 20 can be halved twice, 12 not even that."""
    plan = build_plan(make_fingerprints((40, 40, 10), (1, 1, 3)), MRI, make_params(patch_size=(40, 40, 10)))
    assert plan.alternatives["2d"].patch_size == (40, 40, 1)
    odd = make_params(patch_size=(20, 28, 32))
    full = build_plan(HIPPOCAMPUS, MRI, odd)
    assert full.patch_size == (20, 28, 32)
    flat = full.alternatives["2d"]
    assert all(edge % 2 ** (len(flat.strides) - 1) == 0 for edge in flat.patch_size[:2])


def test_the_residual_encoder_is_measured_by_its_own_dry_step() -> None:
    asked: list[tuple[int, ...]] = []

    def measure(shape: NetworkShape) -> StepMemory:
        asked.append(shape.blocks)
        return StepMemory(device="a device", available_bytes=1e12, fixed_bytes=0, element_bytes=40.0)

    brains = make_fingerprints((160, 160, 160), (1, 1, 1), 200)
    plan = build_plan(brains, MRI, make_params(**NNUNET), measure)
    assert () in asked and max(asked)[:4] == (1, 3, 4, 6)
    residual = plan.alternatives["residual"]
    assert np.prod(residual.patch_size) < np.prod(plan.patch_size)  # more elements in the same memory
    assert "measured by a dry step" in plan.reasons["residual"]


def test_slices_keep_to_the_device_that_was_measured() -> None:
    """80 % of 1.25 GB: as with plan.memory_gb: 1, where nothing is measured."""

    def measure(shape: NetworkShape) -> StepMemory:
        return StepMemory(device="a device", available_bytes=1.25e9, fixed_bytes=0, element_bytes=7.0)

    measured = build_plan(CHEST, MRI, make_params(**NNUNET), measure).alternatives
    small, large = (build_plan(CHEST, MRI, make_params(**NNUNET, memory_gb=gb)).alternatives for gb in (1, 8))
    for name in ("2d", "residual 2d"):
        assert measured[name] == small[name] != large[name]


def test_a_coarser_grid_that_cannot_be_planned_has_its_reason() -> None:
    """A step of 0.1 GB: the grid itself can be planned, a coarser one on the way cannot."""
    sparse = make_fingerprints((127, 83, 344), (4.471, 0.54, 3.5))
    params = make_params(memory="estimate", memory_gb=0.1, **NNUNET | {"max_patch_voxels": 2097152})
    plan = build_plan(sparse, MRI, params)
    assert "lowres" not in plan.alternatives
    assert plan.reasons["lowres"].startswith("none: a step with 2 patches")


def test_without_a_residual_encoder_there_is_none_on_the_coarser_grid_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = alternative_planning.fit_network

    def only_plain(*arguments: Any) -> FittedNetwork:
        if arguments[-1] is True:
            raise SegtrailError("it needs too much", "", "")
        return fit(*arguments)

    monkeypatch.setattr(alternative_planning, "fit_network", only_plain)
    plan = build_plan(CHEST, MRI, make_params())
    assert set(plan.alternatives) == {"2d", "lowres"}
    with pytest.raises(SegtrailError, match="no residual encoder on the finest grid, it needs too much"):
        plan.configured("resunet", "lowres")


@pytest.mark.parametrize(
    ("fingerprints", "network", "configuration", "why", "fix"),
    [
        (
            HIPPOCAMPUS,
            "unet",
            "lowres",
            "covers 100% of the median image, at least 25%: not needed",
            "full, 2d",
        ),
        (HIPPOCAMPUS, "resunet", "lowres", "not needed", "full, 2d"),
        (PICTURES, "unet", "2d", "the plan itself is of single slices", "full"),
        (PICTURES, "resunet", "lowres", "for single slices nnU-Net plans no coarser grid", "full"),
        (HIPPOCAMPUS, "unet", "cascade", "covers 100% of the median image", "full, 2d"),
        (CHEST, "unet", "3d", "no stage makes one", "full, 2d, lowres, cascade"),
    ],
)
def test_a_configuration_that_is_not_there_says_why(
    fingerprints: list,
    network: str,
    configuration: str,
    why: str,
    fix: str,  # type: ignore[type-arg]
) -> None:
    plan = build_plan(fingerprints, MRI, make_params())
    with pytest.raises(SegtrailError, match=f"no configuration {configuration}") as caught:
        plan.configured(network, configuration, "mine")
    assert caught.value.where == "params.yaml: train.mine.configuration"
    assert why in caught.value.what
    assert caught.value.fix == f"use one of: {fix}; or take mine out of models"


def test_a_plan_of_before_has_only_itself() -> None:
    old = build(make_params()).model_copy(update={"alternatives": {}, "reasons": {}})
    assert old.configured("unet", "full") is old
    with pytest.raises(SegtrailError, match="no stage makes one") as caught:
        old.configured("resunet", "full", "mine")
    assert caught.value.fix == "dvc repro --force plan; or take mine out of models"


def cube_job(folder: Path, model: str, **changes: int) -> TrainingJob:
    """A training of a shipped section on the store of cubes."""
    params = make_params(base_features=4, max_features=16, batch_size=4)
    build_plan(make_fingerprints((20, 18, 16), (1, 1, 1)), CUBES, params).save(folder / "plan.json")
    write_cubes(folder / "store")
    shipped = read_params(model, max_epochs=3, validate_every_epochs=3, **changes)
    job = make_job(folder, "job", "unet", max_epochs=1)
    return job.model_copy(
        update={"model": model, "params": shipped, "plan": folder / "plan.json", "store": folder / "store"}
    )


@pytest.mark.parametrize(
    ("model", "network", "dimensions", "blocks"),
    [("unet_2d", "unet", 2, ()), ("resunet", "resunet", 3, (1, 3, 4))],
)
def test_it_trains_and_predicts(
    tmp_path: Path, model: str, network: str, dimensions: int, blocks: tuple[int, ...]
) -> None:
    job = cube_job(tmp_path, model)
    run_job(job)
    bundle = load_bundle(job.output)
    assert (bundle.metadata.model, bundle.metadata.network) == (model, network)
    assert bundle.metadata.params["network"] == network
    plan = bundle.metadata.plan
    assert (plan.dimensions, plan.blocks, plan.alternatives) == (dimensions, blocks, {})
    assert (plan.patch_size[2] == 1) == (dimensions == 2)
    case = load_case(job.store, "case_7")
    volume = Volume(np.asarray(case.image, np.float32), np.eye(4))
    predictor = Predictor(bundle, PREDICT, torch.device("cpu"), {})
    found = predictor.predict(volume, "case_7").label_map.array
    assert found.shape == case.label.shape
    # A network of slices gives each slice the same answer wherever it stands; one of volumes does not.
    order = np.random.default_rng(0).permutation(found.shape[2])
    shuffled = predictor.predict(Volume(volume.array[..., order], np.eye(4)), "shuffled").label_map.array
    assert 0 < found.sum() < found.size
    assert np.array_equal(shuffled, found[..., order]) == (dimensions == 2)
