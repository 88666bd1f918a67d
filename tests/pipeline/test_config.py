"""`params.yaml`: the shipped file, every preset on it, and what is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import Params, load_params
from pipeline.errors import SegtrailError
from pipeline.train_params import InstanceTrainParams, SemanticTrainParams

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
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
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
    assert isinstance(params.train.of("unet"), SemanticTrainParams)
    assert isinstance(params.train.of("maskrcnn"), InstanceTrainParams)
    assert params.register_.model_name == "phantom"


def test_every_line_with_a_value_has_a_comment() -> None:
    bare = [
        line
        for line in SHIPPED.read_text(encoding="utf-8").splitlines()
        if line.strip()
        and not line.lstrip().startswith("#")
        # a section has nothing after its colon; everything else explains itself
        and not re.fullmatch(r"\s*[\w-]+:( &\w+)?|\s*<<: \*\w+", line)
        and not re.search(r"\S +# \S", line)
    ]
    assert bare == []


def test_no_default_stands_in_python() -> None:
    def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
        yield model
        for item in model.model_fields.values():
            for kind in kinds(item.annotation):
                yield from sections(kind)

    def kinds(annotation: Any) -> Iterator[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        for part in get_args(annotation):
            yield from kinds(part)

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


@pytest.mark.parametrize("models", ["unet", "unet_cascade"])
def test_folds_of_the_shipped_u_net_reach_the_sections_that_inherit_from_it(
    tmp_path: Path, models: str
) -> None:
    """As docs/how-to/cross-validate.md has it: one line of the file is edited, the cascade takes it over."""
    text = SHIPPED.read_text(encoding="utf-8").replace("    folds: 1 ", "    folds: 5 ", 1)
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("models: [unet, maskrcnn]", f"models: [{models}]"))
    params = load_params(path)
    assert params.models == (models,)
    found = {name: section.folds for name, section in params.train.root.items() if hasattr(section, "folds")}
    assert found == dict.fromkeys(("unet", "resunet", "unet_2d", "unet_lowres", "unet_cascade"), 5)


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


def test_a_model_of_ones_own_is_a_further_section(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = SHIPPED.read_text(encoding="utf-8")
    mine = "  mine:\n    <<: *unet\n    network: resunet\n    seed: 7\npredict:"
    path.write_text(
        text.replace("models: [unet, maskrcnn]", "models: [unet, mine]").replace("predict:", mine, 1)
    )
    params = load_params(path)
    assert params.models == ("unet", "mine")
    assert params.train.of("mine") == params.train.of("unet").model_copy(
        update={"network": "resunet", "seed": 7}
    )


def test_the_shipped_variants_of_unet_differ_by_one_key() -> None:
    shipped = read(SHIPPED)["train"]
    differing = {
        name: {key: value for key, value in section.items() if value != shipped["unet"].get(key)}
        for name, section in shipped.items()
        if name != "maskrcnn"
    }
    assert differing == {
        "unet": {},
        "resunet": {"network": "resunet"},
        "unet_2d": {"configuration": "2d"},
        "unet_lowres": {"configuration": "lowres"},
        "unet_cascade": {"configuration": "cascade"},
    }


def test_every_shipped_model_is_shown_by_dvc() -> None:
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))
    models = list(read(SHIPPED)["train"])
    assert pipeline["metrics"] == [f"data/metrics/{model}/metrics.json" for model in models]
    assert [next(iter(plot)) for plot in pipeline["plots"]] == [
        f"data/models/{model}/history.csv" for model in models
    ]


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


def test_loaded_params_cannot_be_changed() -> None:
    params = load_params(SHIPPED)
    with pytest.raises(ValidationError):
        params.split.salt = "other"
    with pytest.raises(ValidationError):
        params.train.of("unet").augmentation.flip = 1.0
    with pytest.raises(ValidationError):
        params.train.root = params.train.root
    with pytest.raises(AttributeError):
        params.models.append("other")  # type: ignore[attr-defined]
    for value in (
        params.phantom.datasets,
        params.phantom.shape,
        params.train.of("unet").augmentation.scale_range,
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
