"""`params.yaml`: the shipped file, every preset on it, and what is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import Params, load_params
from pipeline.errors import SegtrailError

SHIPPED = Path("params.yaml")
PRESETS = sorted(Path("presets").glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def leaves(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def save_changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    tree = read(SHIPPED)
    change(tree)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def merge(tree: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, dict):
            merge(tree[key], value)
        else:
            tree[key] = value


def problem_of(path: Path) -> str:
    with pytest.raises(SegtrailError) as caught:
        load_params(path)
    assert caught.value.where == str(path)
    return caught.value.what


def test_the_shipped_params_are_valid() -> None:
    params = load_params(SHIPPED)
    assert params.inspect.dataset in params.phantom.datasets
    assert params.models == ("unet", "maskrcnn")
    assert params.train.of("unet") is params.train.unet
    assert params.train.of("maskrcnn") is params.train.maskrcnn
    assert params.register_.model_name == "phantom"


def test_every_line_with_a_value_has_a_comment() -> None:
    bare = [
        line
        for line in SHIPPED.read_text(encoding="utf-8").splitlines()
        if line.strip()
        and not line.lstrip().startswith("#")
        # a section has nothing after its colon; everything else explains itself
        and not re.fullmatch(r"\s*[\w-]+:\s*", line)
        and not re.search(r"\S +# \S", line)
    ]
    assert bare == []


def test_no_default_stands_in_python() -> None:
    def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
        yield model
        for item in model.model_fields.values():
            if isinstance(item.annotation, type) and issubclass(item.annotation, BaseModel):
                yield from sections(item.annotation)

    found = [*sections(Params)]
    assert {"SemanticTrainParams", "InstanceTrainParams"} <= {model.__name__ for model in found}
    for model in found:
        assert all(item.is_required() for item in model.model_fields.values()), model.__name__


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_each_preset_on_the_shipped_params_is_valid(path: Path, tmp_path: Path) -> None:
    preset = read(path)
    params = load_params(save_changed(tmp_path, lambda tree: merge(tree, preset["params"])))
    flat = dict(leaves(params.model_dump(by_alias=True, mode="json")))
    for key, value in leaves(preset["params"]):
        assert flat[key] == value


def test_presets_set_the_same_keys() -> None:
    keys = {path.stem: [key for key, _ in leaves(read(path)["params"])] for path in PRESETS}
    assert {"phantom", "hippocampus"} <= set(keys)
    for name, found in keys.items():
        assert sorted(found) == sorted(keys["phantom"]), name


def test_the_phantom_preset_is_what_is_shipped() -> None:
    shipped = dict(leaves(read(SHIPPED)))
    preset = read(Path("presets/phantom.yaml"))
    assert {key: shipped[key] for key, _ in leaves(preset["params"])} == dict(leaves(preset["params"]))
    assert (shipped["inspect.dataset"], shipped["inspect.layout"]) == (
        preset["dataset"]["name"],
        preset["dataset"]["layout"],
    )


def test_the_public_address_is_that_of_monai() -> None:
    source = Path(_find_monai()).read_text(encoding="utf-8")
    public = read(Path("presets/hippocampus.yaml"))["dataset"]["download"]
    assert f'"Task04_Hippocampus": "{public["url"]}"' in source
    assert f'"Task04_Hippocampus": "{public["checksum"].removeprefix("md5:")}"' in source


def _find_monai() -> str:
    import importlib.util

    spec = importlib.util.find_spec("monai")  # not imported: that takes five seconds
    if spec is None or spec.origin is None:
        pytest.skip("MONAI is not installed")
    return str(Path(spec.origin).parent / "apps" / "datasets.py")


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
    sections, augmentation = ", ".join(shipped), ", ".join(shipped["train"]["unet"]["augmentation"])
    assert sorted(line.strip() for line in lines[1:]) == [
        "phantom.cases = 3: Input should be greater than or equal to 10",
        "report: missing",
        f"reprot: unknown key; legal: {sections}",
        "split.salt: missing",
        "split.slat: unknown key; legal: salt, test_fraction, validation_fraction",
        f"train.unet.augmentation.flipp: unknown key; legal: {augmentation}",
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
        ("inspect", "layout", "dicom", "Input should be 'msd', 'table', "),
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


def test_models_that_cannot_be_trained(tmp_path: Path) -> None:
    text = problem_of(save_changed(tmp_path, lambda tree: tree.update(models=["unet", "vnet"])))
    assert "models names ['vnet']; legal: unet, maskrcnn" in text
    text = problem_of(save_changed(tmp_path, lambda tree: tree.update(models=["unet", "unet"])))
    assert "models names one model twice" in text
    text = problem_of(save_changed(tmp_path, lambda tree: tree.update(train={})))
    assert text.splitlines()[1:] == ["    train.unet: missing", "    train.maskrcnn: missing"]
    text = problem_of(save_changed(tmp_path, lambda tree: tree["train"].update(other={})))
    assert "train.other: unknown key; legal: unet, maskrcnn" in text


def test_a_key_of_the_other_model_is_unknown(tmp_path: Path) -> None:
    def spoil(tree: dict[str, Any]) -> None:
        tree["train"]["unet"]["backbone"] = "resnet18"
        tree["train"]["maskrcnn"]["dice_weight"] = 1.0

    lines = problem_of(save_changed(tmp_path, spoil)).splitlines()
    assert lines[0] == "2 problem(s) in params.yaml:"
    assert "train.unet.backbone: unknown key; legal: seed" in lines[1]
    assert "train.maskrcnn.dice_weight: unknown key; legal: seed" in lines[2]


def test_a_file_of_backbone_weights_needs_its_checksum(tmp_path: Path) -> None:
    def name_file(tree: dict[str, Any], **more: str) -> None:
        tree["train"]["maskrcnn"].update(backbone_weights="resnet18.safetensors", **more)

    assert "give its backbone_sha256" in problem_of(save_changed(tmp_path, name_file))
    params = load_params(save_changed(tmp_path, lambda tree: name_file(tree, backbone_sha256="0a" * 32)))
    assert params.train.maskrcnn.backbone_weights == "resnet18.safetensors"
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


def test_loaded_params_cannot_be_changed() -> None:
    params = load_params(SHIPPED)
    with pytest.raises(ValidationError):
        params.split.salt = "other"
    with pytest.raises(ValidationError):
        params.train.unet.augmentation.flip = 1.0
    with pytest.raises(ValidationError):
        params.train.unet = params.train.unet
    with pytest.raises(AttributeError):
        params.models.append("other")  # type: ignore[attr-defined]
    for value in (
        params.phantom.datasets,
        params.phantom.shape,
        params.train.unet.augmentation.scale_range,
    ):
        assert isinstance(value, tuple)


def test_dumped_and_loaded_again(tmp_path: Path) -> None:
    params = load_params(SHIPPED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dumped = params.model_dump(by_alias=True, mode="json")
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(dumped))
    assert load_params(path) == params
