"""Which module and which batches a model gets, and the weights of its classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from detection_plan import make_plan
from monai.losses import DiceCELoss
from training_jobs import cube_plan, make_job, read_params

from pipeline.errors import SegtrailError
from pipeline.models.instance import InstanceModule
from pipeline.models.maskrcnn import MaskRCNN
from pipeline.models.semantic import SemanticModule
from pipeline.plan import Plan, RegionPlan, load_plan
from pipeline.train_params import SemanticTrainParams
from pipeline.training_setup import build_training, class_weights


def weights_of(folder: Path, wanted: object) -> list[float] | None:
    job = make_job(folder, "weights", class_weights=wanted)
    assert isinstance(job.params, SemanticTrainParams)
    return class_weights(job.params, load_plan(job.plan), job.store, job.training_cases, "unet")


def test_balanced_class_weights_by_hand(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, "balanced")
    assert weights is not None
    # 7^3 of 20 * 18 * 16 voxels are foreground; the inverse root of the shares, scaled to mean 1.
    ratio = ((20 * 18 * 16 - 343) / 343) ** 0.5
    assert weights[1] / weights[0] == pytest.approx(ratio)
    assert sum(weights) / 2 == pytest.approx(1.0)


def test_given_class_weights(tmp_path: Path) -> None:
    assert weights_of(tmp_path, [1.0, 3.0]) == [1.0, 3.0]
    assert weights_of(tmp_path, "none") is None


def test_wrong_number_of_class_weights(tmp_path: Path) -> None:
    message = r"3 class weights for 2 classes \(background, cube\)[\s\S]*train\.unet\.class_weights"
    with pytest.raises(SegtrailError, match=message):
        weights_of(tmp_path, [1.0, 1.0, 1.0])


def test_weights_of_regions_by_hand(tmp_path: Path) -> None:
    job = make_job(tmp_path, "weights", class_weights="balanced")
    assert isinstance(job.params, SemanticTrainParams)
    regions = (RegionPlan(name="all", labels=(1,), paint=1), RegionPlan(name="none", labels=(2,), paint=2))
    plan = load_plan(job.plan).model_copy(
        update={"regions": regions, "label_names": ("background", "cube", "rare"), "label_values": (0, 1, 2)}
    )
    weights = class_weights(job.params, plan, job.store, job.training_cases, "unet")
    assert weights is not None
    # A region without a voxel counts as one of one voxel, beside 6 cubes of 7^3.
    assert weights[1] / weights[0] == pytest.approx((6 * 343) ** 0.5)
    assert sum(weights) / 2 == pytest.approx(1.0)
    three = job.params.model_copy(update={"class_weights": (1.0, 1.0, 1.0)})
    message = r"3 class weights for 2 regions \(all, none\)[\s\S]*regions, in painting order"
    with pytest.raises(SegtrailError, match=message):
        class_weights(three, plan, job.store, job.training_cases, "unet")


def build(folder: Path, model: str, plan: Plan, **changes: object) -> tuple[object, dict[str, object]]:
    """The module, and the first training batch."""
    job = make_job(folder, "job", model, **changes)
    params = read_params(model, **changes)
    module, data = build_training(model, plan, params, job.store, job.training_cases, ("case_6",), 0)
    return module, next(iter(data.train_dataloader()))


def test_class_weights_of_the_params_reach_both_parts_of_the_loss(tmp_path: Path) -> None:
    plan = cube_plan().model_copy(
        update={"label_names": ("background", "cube", "rare"), "label_values": (0, 1, 2)}
    )
    module, _ = build(tmp_path, "unet", plan, class_weights=[0.5, 1.0, 3.0])
    assert isinstance(module, SemanticModule)
    loss = module.loss.loss
    assert isinstance(loss, DiceCELoss)
    assert loss.cross_entropy.weight is not None
    assert loss.dice.class_weight is not None
    assert loss.cross_entropy.weight.tolist() == [0.5, 1.0, 3.0]
    assert loss.dice.class_weight.tolist() == [1.0, 3.0]  # the Dice leaves the background out
    balanced, _ = build(tmp_path, "unet", plan, class_weights="balanced")
    assert balanced.loss.loss.cross_entropy.weight.argmax() == 2  # type: ignore[attr-defined]


def test_semantic_params_give_patches(tmp_path: Path) -> None:
    module, batch = build(tmp_path, "unet", cube_plan())
    assert isinstance(module, SemanticModule)
    assert batch["image"].shape == (2, 1, 16, 16, 16)  # type: ignore[attr-defined]


def test_instance_params_give_windows_as_many_as_the_params_say(tmp_path: Path) -> None:
    module, batch = build(tmp_path, "maskrcnn", make_plan((32, 64), zoom=2.0), batch_size=6)
    assert isinstance(module, InstanceModule)
    assert batch["image"].shape == (6, 1, 32, 64)  # type: ignore[attr-defined]


def test_the_network_is_that_of_plan_and_params(tmp_path: Path) -> None:
    plan = make_plan((64, 96), slices=3, channels=2, classes=("a", "b"), detections=33)
    module = InstanceModule("maskrcnn", plan, read_params("maskrcnn", head_channels=48))  # type: ignore[arg-type]
    made = module.network_arguments
    assert (made["channels"], made["classes"], made["detections"]) == (6, 3, 33)
    assert (made["backbone"], made["head_channels"]) == ("resnet18", 48)
    assert isinstance(module.network, MaskRCNN)
    assert module.network.backbone.body["conv1"].in_channels == 6
    assert module.network.heads.box_predictor.cls_score.out_features == 3
    # It can be built again from what goes into the bundle.
    again = MaskRCNN(**made)
    assert [p.shape for p in again.parameters()] == [p.shape for p in module.network.parameters()]


def test_without_pretrained_weights_all_layers_are_trained() -> None:
    params = read_params("maskrcnn", trainable_layers=2)
    module = InstanceModule("maskrcnn", make_plan(), params)  # type: ignore[arg-type]
    assert all(parameter.requires_grad for parameter in module.parameters())
    (group,) = module.configure_optimizers().param_groups
    assert len(group["params"]) == len(list(module.parameters()))


def test_a_plan_without_objects_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SegtrailError, match="no training case has an object"):
        build(tmp_path, "maskrcnn", cube_plan())
