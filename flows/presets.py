"""Presets: the params that belong to a data set, written into `params.yaml` with its comments kept."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline.config import LayoutName, Name, Section, load_params
from pipeline.errors import SegtrailError, collect, unknown_name


class Download(Section):
    """Where a public data set can be fetched.

    Attributes:
        url: Address of a tar or zip archive.
        checksum: "md5:..." or "sha256:..." of the archive, hexadecimal.
        licence: Licence of the data.
    """

    url: Annotated[str, Field(pattern=r"^https?://")]
    checksum: Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")]
    licence: str


class PresetDataset(Section):
    """The data set of a preset; name and layout become `inspect.dataset` and `inspect.layout`."""

    name: Name
    layout: LayoutName
    download: Download | None = None


class Preset(Section):
    """One file of `presets/`; `params` is a part of the tree of `params.yaml`."""

    description: str
    dataset: PresetDataset
    params: dict[str, Any]

    @property
    def built_in(self) -> bool:
        """Whether the stage `phantom` makes the data set."""
        datasets = self.params.get("phantom", {}).get("datasets", [])
        return self.dataset.name in datasets


@dataclass(frozen=True)
class ParamsEdit:
    """A new text of `params.yaml`, checked but not yet written.

    Attributes:
        text: The whole file.
        changes: One line a changed key, "key: old -> new".
    """

    text: str
    changes: tuple[str, ...]


def load_preset(name: str, folder: Path = Path("presets")) -> Preset:
    """Reads `<folder>/<name>.yaml`.

    Raises:
        SegtrailError: There is no such preset, or its file is not right.
    """
    legal = [path.stem for path in folder.glob("*.yaml")]
    if not legal:
        raise SegtrailError(
            "there are no presets in this folder", str(folder), "change to the project's top folder"
        )
    if name not in legal:
        raise unknown_name("preset", name, legal, "--preset")
    path = folder / f"{name}.yaml"
    try:
        return Preset.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise SegtrailError(
            f"the preset is not right: {error}", str(path), "compare with presets/phantom.yaml"
        ) from error


def edit_params(preset: Preset, path: Path) -> ParamsEdit:
    """Merges a preset into the text of `params.yaml` and checks the result; writes nothing.

    Comments, order and the style of the file stay.

    Raises:
        SegtrailError: `params.yaml` is wrong already, or the preset has a key or a value that is not legal;
            all unknown keys are listed.
    """
    load_params(path)
    old = path.read_text(encoding="utf-8")
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 4096  # no line is folded
    tree = editor.load(old)
    chosen = {"inspect": {"dataset": preset.dataset.name, "layout": preset.dataset.layout}}
    where = f"presets, data set {preset.dataset.name}"
    changes: list[str] = []
    errors = [error for part in (chosen, preset.params) for error in _merge(tree, part, "", where, changes)]
    if errors:
        raise collect(errors)
    stream = io.StringIO()
    editor.dump(tree, stream)
    text = stream.getvalue() if changes else old
    _check(text, path.name, where)
    return ParamsEdit(text, tuple(changes))


def _merge(
    tree: CommentedMap, part: dict[str, Any], above: str, where: str, changes: list[str]
) -> list[SegtrailError]:
    """Sets the leaves of a partial tree; notes each change and returns an error for each illegal key."""
    errors: list[SegtrailError] = []
    for key, value in part.items():
        name = f"{above}{key}"
        if key not in tree:
            errors.append(unknown_name("params key", name, map(str, tree), where))
        elif isinstance(value, dict) and isinstance(tree[key], CommentedMap):
            errors += _merge(tree[key], value, f"{name}.", where, changes)
        elif isinstance(value, dict) or isinstance(tree[key], CommentedMap):
            kind = "one value" if isinstance(value, dict) else "a section"
            errors.append(SegtrailError(f"{name} must be {kind}", where, "compare with params.yaml"))
        elif tree[key] != value:
            changes.append(f"{name}: {_show(tree[key])} -> {_show(value)}")
            tree[key] = _flow_list(value) if isinstance(value, list) else value
    return errors


def _flow_list(values: list[Any]) -> CommentedSeq:
    """A list that is written in one line, [1, 2], as in the shipped file."""
    flow = CommentedSeq(values)
    flow.fa.set_flow_style()
    return flow


def _show(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _check(text: str, name: str, where: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / name
        trial.write_text(text, encoding="utf-8")
        try:
            load_params(trial)
        except SegtrailError as error:
            raise SegtrailError(error.what, where, "mend these values in the preset") from error
