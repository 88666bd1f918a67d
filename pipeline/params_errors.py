"""All problems of `params.yaml` in one readable error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.errors import SegtrailError


def to_params_error(error: ValidationError, params: type[BaseModel], path: Path) -> SegtrailError:
    """Puts pydantic's findings into the words of the file.

    Args:
        error: What validating the file raised.
        params: The model of the whole file.
        path: The file.
    """
    problems: dict[str, list[str]] = {}  # by key: pydantic reports each branch of a union on its own
    for item in error.errors():
        key = _key(item["loc"], params)
        if item["type"] == "extra_forbidden":
            problems[key] = [f"{key}: unknown key; {_legal_keys(item['loc'], params)}"]
        elif item["type"] == "missing":
            problems[key] = [f"{key}: missing"]
        elif key in problems:
            problems[key].append(item["msg"])
        else:
            seen = "" if isinstance(item["input"], dict) else f" = {item['input']!r}"  # no whole sections
            problems[key] = [f"{key}{seen}: {item['msg'].removeprefix('Value error, ')}"]
    listed = "\n    ".join(" or ".join(texts) for texts in problems.values())
    return SegtrailError(
        f"{len(problems)} problem(s) in {path.name}:\n    {listed}",
        str(path),
        "mend each key above; the comment beside it in the shipped params.yaml gives unit and range",
    )


def _key(loc: tuple[int | str, ...], params: type[BaseModel]) -> str:
    """Dotted key as it stands in the file, without pydantic's names of union branches."""
    parts: list[str] = []
    section: Any = params
    for part in loc:
        inside = isinstance(section, type) and issubclass(section, BaseModel)
        if inside or isinstance(part, int):
            parts.append(str(part))
        if inside:
            section = _names(section).get(str(part))
    return ".".join(parts) or "(top level)"


def _legal_keys(loc: tuple[int | str, ...], params: type[BaseModel]) -> str:
    """Says which keys would have been legal beside an unknown one."""
    section = params
    for part in loc[:-1]:
        section = _names(section)[str(part)]
    return "legal: " + ", ".join(_names(section))


def _names(section: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}
