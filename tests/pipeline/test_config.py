"""`params.yaml`: the shipped file, every preset on it, and what is loaded from it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from params_files import SHIPPED, read, save_changed
from pydantic import BaseModel, ValidationError

from pipeline.config import Params, load_params
from pipeline.train_params import InstanceTrainParams, SemanticTrainParams

PRESETS = sorted(Path("presets").glob("*.yaml"))


def leaves(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def merge(tree: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, dict):
            merge(tree[key], value)
        else:
            tree[key] = value


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
