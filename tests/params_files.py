"""The shipped `params.yaml`, and copies of it with changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

SHIPPED = Path("params.yaml")


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def save_changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    tree = read(SHIPPED)
    change(tree)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path
