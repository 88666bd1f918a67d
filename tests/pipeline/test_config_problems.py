"""What is refused in `params.yaml`, and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from params_files import SHIPPED, read, save_changed

from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.train_params import InstanceTrainParams


def problem_of(path: Path) -> str:
    with pytest.raises(SegtrailError) as caught:
        load_params(path)
    assert caught.value.where == str(path)
    return caught.value.what


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    def spoil(tree: dict[str, Any]) -> None:
        tree["split"]["slat"] = tree["split"].pop("salt")
        tree["phantom"]["cases"] = 3
        tree["train"]["unet"]["optimizer"] = "adam"
        tree["train"]["unet"]["augmentation"]["flipp"] = 1
        del tree["report"]
        tree["reprot"] = {}

    lines = problem_of(save_changed(tmp_path, spoil)).splitlines()
    assert lines[0] == "7 problem(s) in params.yaml:"
    shipped = read(SHIPPED)
    inheriting = ", ".join(name for name in shipped["train"] if name not in ("unet", "maskrcnn"))
    sections, augmentation = ", ".join(shipped), ", ".join(shipped["train"]["unet"]["augmentation"])
    assert sorted(line.strip() for line in lines[1:]) == [
        "phantom.cases = 3: Input should be greater than or equal to 10",
        "report: missing",
        f"reprot: unknown key; legal: {sections}",
        "split.salt: missing",
        "split.slat: unknown key; legal: salt, test_fraction, validation_fraction",
        f"train.unet.augmentation.flipp: unknown key; legal: {augmentation} (so too in {inheriting})",
        "train.unet.optimizer = 'adam': Input should be 'sgd' or 'adamw'",
    ]


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("plan", "batch_size", 0, "plan.batch_size = 0: Input should be 'auto' or Input should be greater"),
        ("plan", "patch_size", [16, 16], "plan.patch_size.2: missing"),
        ("plan", "dimensions", 4, "plan.dimensions = 4"),
        ("split", "test_fraction", 0.0, "split.test_fraction = 0.0"),
        ("split", "test_fraction", "much", "split.test_fraction = 'much'"),
        ("inspect", "layout", "mds", "inspect.layout = 'mds': legal: "),
        ("inspect", "dataset", "../elsewhere", "inspect.dataset = '../elsewhere'"),
        ("phantom", "shape", [8, 96, 48], "phantom.shape.0 = 8"),
        ("register", "model_name", "", "register.model_name = ''"),
        ("report", "worst_cases", 0, "report.worst_cases = 0"),
    ],
)
def test_a_wrong_value_is_named_as_in_the_file(
    tmp_path: Path, section: str, key: str, value: object, message: str
) -> None:
    text = problem_of(save_changed(tmp_path, lambda tree: tree[section].update({key: value})))
    assert message in text
    assert "literal[" not in text  # pydantic's names of union branches are not the user's


def test_one_problem_a_key_for_unions(tmp_path: Path) -> None:
    path = save_changed(tmp_path, lambda tree: tree["train"]["unet"].update(class_weights="heavy"))
    assert problem_of(path).startswith("1 problem(s)")


@pytest.mark.parametrize("weights", [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0009]])
def test_a_class_weight_is_above_zero(tmp_path: Path, weights: list[float]) -> None:
    path = save_changed(tmp_path, lambda tree: tree["train"]["unet"].update(class_weights=weights))
    assert "train.unet.class_weights" in problem_of(path)


@pytest.mark.parametrize(
    ("model", "folds", "message"),
    [
        ("unet", 0, "train.unet.folds = 0"),
        ("unet", 11, "train.unet.folds = 11"),
        ("maskrcnn", 3, "train.maskrcnn.folds: network maskrcnn has no folds"),
    ],
)
def test_folds_that_cannot_be(tmp_path: Path, model: str, folds: int, message: str) -> None:
    assert message in problem_of(
        save_changed(tmp_path, lambda tree: tree["train"][model].update(folds=folds))
    )


def test_models_that_cannot_be_trained(tmp_path: Path) -> None:
    text = problem_of(save_changed(tmp_path, lambda tree: tree.update(models=["unet", "vnet"])))
    assert f"models names ['vnet']; legal: {', '.join(read(SHIPPED)['train'])}" in text
    text = problem_of(save_changed(tmp_path, lambda tree: tree.update(models=["unet", "unet"])))
    assert "models names one model twice" in text
    text = problem_of(save_changed(tmp_path, lambda tree: tree.update(train={})))
    assert text.splitlines()[1:] == [
        "    train: Dictionary should have at least 1 item after validation, not 0"
    ]
    text = problem_of(save_changed(tmp_path, lambda tree: tree["train"].update(other={})))
    assert "train.other.network: missing" in text
    text = problem_of(save_changed(tmp_path, lambda tree: tree["train"]["unet"].update(network="vnet")))
    assert "train.unet.network = 'vnet': legal: unet, resunet, maskrcnn" in text
    text = problem_of(
        save_changed(tmp_path, lambda tree: tree["train"].update({"a.b": tree["train"]["unet"]}))
    )
    assert "train.a.b = 'a.b': String should match pattern" in text
    with pytest.raises(SegtrailError, match="unknown model 'vnet'") as caught:
        load_params(SHIPPED).train.of("vnet")
    assert caught.value.fix.startswith("use one of: maskrcnn, resunet, unet")


def test_a_key_of_the_other_model_says_whose_it_is(tmp_path: Path) -> None:
    def spoil(tree: dict[str, Any]) -> None:
        tree["train"]["resunet"]["backbone"] = "resnet18"
        tree["train"]["maskrcnn"] |= {"folds": 5, "fold": 5, "proposals": 0}

    lines = problem_of(save_changed(tmp_path, spoil)).splitlines()
    assert lines[0] == "4 problem(s) in params.yaml:"
    assert sorted(line.strip().split("; legal: start, ")[0] for line in lines[1:]) == [
        "train.maskrcnn.fold: unknown key",
        "train.maskrcnn.folds: network maskrcnn has no folds (a key of unet and resunet): take it out",
        "train.maskrcnn.proposals = 0: Input should be greater than or equal to 10",
        "train.resunet.backbone: network resunet has no backbone (a key of maskrcnn): take it out",
    ]


def test_a_file_of_backbone_weights_needs_its_checksum(tmp_path: Path) -> None:
    def name_file(tree: dict[str, Any], **more: str) -> None:
        tree["train"]["maskrcnn"].update(backbone_weights="resnet18.safetensors", **more)

    assert "give its backbone_sha256" in problem_of(save_changed(tmp_path, name_file))
    params = load_params(save_changed(tmp_path, lambda tree: name_file(tree, backbone_sha256="0a" * 32)))
    section = params.train.of("maskrcnn")
    assert isinstance(section, InstanceTrainParams)
    assert section.backbone_weights == "resnet18.safetensors"
    text = problem_of(save_changed(tmp_path, lambda tree: name_file(tree, backbone_sha256="abc")))
    assert "train.maskrcnn.backbone_sha256 = 'abc'" in text


def test_no_loss_at_all(tmp_path: Path) -> None:
    nothing = {"dice_weight": 0, "cross_entropy_weight": 0}
    text = problem_of(save_changed(tmp_path, lambda tree: tree["train"]["unet"].update(nothing)))
    assert "train.unet: dice_weight and cross_entropy_weight are both 0" in text


def test_a_missing_file(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "params.yaml") == "there is no params.yaml in this folder"


@pytest.mark.parametrize("text", ["", "models: [unet", "- a list\n", "just text"])
def test_a_file_that_is_no_params(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert "params.yaml" in problem_of(path)
