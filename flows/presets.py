"""Presets: the params that belong to a data set, written into `params.yaml` with its comments kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from flows.params_edit import ParamsEdit, edit_params
from pipeline.config import LayoutName
from pipeline.errors import SegtrailError, unknown_name
from pipeline.section import Name, Section


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


def preset_edit(preset: Preset, path: Path) -> ParamsEdit:
    """Merges a preset into the text of `params.yaml`; see `edit_params`."""
    chosen = {"inspect": {"dataset": preset.dataset.name, "layout": preset.dataset.layout}}
    return edit_params([chosen, preset.params], path, f"presets, data set {preset.dataset.name}")
