"""All problems of `params.yaml` in one readable error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, RootModel, ValidationError

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
            unknown = f"unknown key; {_legal_keys(item['loc'], params)}"
            problems[key] = [f"{key}: {_key_of_others(item['loc'], params) or unknown}"]
        elif item["type"] == "missing":
            problems[key] = [f"{key}: missing"]
        elif item["type"].startswith("union_tag"):
            problems[key] = [_wrong_kind(key, **item["ctx"])]
        elif key in problems:
            problems[key].append(item["msg"])
        else:
            seen = "" if isinstance(item["input"], dict) else f" = {item['input']!r}"  # no whole sections
            problems[key] = [f"{key}{seen}: {item['msg'].removeprefix('Value error, ')}"]
    lines = _grouped(problems, params)
    listed = "\n    ".join(lines)
    return SegtrailError(
        f"{len(lines)} problem(s) in {path.name}:\n    {listed}",
        str(path),
        "mend each key above; the comment beside it in the shipped params.yaml gives unit and range",
    )


def _grouped(problems: dict[str, list[str]], params: type[BaseModel]) -> list[str]:
    """One line a problem; the same one in several sections of a kind (by `<<: *unet`) is told once."""
    lines: dict[tuple[str, str], str] = {}
    others: dict[tuple[str, str], list[str]] = {}
    for key, texts in problems.items():
        line = " or ".join(texts)
        top, _, rest = key.partition(".")
        section, _, inner = rest.partition(".")
        shared = _below(params, top)
        kind = (f"{top}.*.{inner}" if inner and _is_sections(shared) else key, line.removeprefix(key))
        if kind in lines:
            others.setdefault(kind, []).append(section)
        else:
            lines[kind] = line
    return [
        line + (f" (so too in {', '.join(others[kind])})" if kind in others else "")
        for kind, line in lines.items()
    ]


def _wrong_kind(key: str, discriminator: str, tag: str | None = None, expected_tags: str = "") -> str:
    """Says that the key which decides about the kind of a section is missing or not legal."""
    name = f"{key}.{discriminator.strip(chr(39))}"
    return f"{name} = {tag!r}: legal: {expected_tags.replace(chr(39), '')}" if tag else f"{name}: missing"


def _key(loc: tuple[int | str, ...], params: type[BaseModel]) -> str:
    """Dotted key as it stands in the file, without pydantic's names of union branches."""
    parts: list[str] = []
    section: Any = params
    for part in loc:
        if isinstance(part, int) or (_is_model(section) and part != "[key]"):
            parts.append(str(part))
        section = _below(section, str(part))
    return ".".join(parts) or "(top level)"


def _legal_keys(loc: tuple[int | str, ...], params: type[BaseModel]) -> str:
    """Says which keys would have been legal beside an unknown one."""
    section: Any = params
    for part in loc[:-1]:
        section = _below(section, str(part))
    return "legal: " + ", ".join(_names(section))


def _key_of_others(loc: tuple[int | str, ...], params: type[BaseModel]) -> str:
    """Says that sections of another kind have the key, such as `folds` in one of Mask R-CNN; "" if none has."""
    union: Any = params
    for part in loc[:-2]:
        union = _below(union, str(part))
    by = next((mark.discriminator for mark in getattr(union, "__metadata__", ())), None)
    if not isinstance(by, str):
        return ""
    key, own = str(loc[-1]), str(loc[-2])
    owners = [
        tag
        for kind in _branches(union)
        if key in _names(kind)
        for tag in get_args(kind.model_fields[by].annotation)
    ]
    return f"{by} {own} has no {key} (a key of {' and '.join(owners)}): take it out" if owners else ""


def _below(section: Any, part: str) -> Any:
    """Type of what stands one step further in a location."""
    if not _is_model(section):  # perhaps a union of sections, of which a discriminator's value names one
        return next((kind for kind in _branches(section) if part in _tags(kind)), None)
    if _is_sections(section):
        return get_args(section.model_fields["root"].annotation)[1]
    return _names(section).get(part)


def _is_model(section: Any) -> bool:
    return isinstance(section, type) and issubclass(section, BaseModel)


def _is_sections(section: Any) -> bool:
    """Whether a section holds sections of names that the user chooses."""
    return isinstance(section, type) and issubclass(section, RootModel)


def _branches(union: Any) -> list[type[BaseModel]]:
    inner = (kind for part in get_args(union) for kind in (part, *get_args(part)))
    return [kind for kind in inner if _is_model(kind)]


def _tags(section: type[BaseModel]) -> set[str]:
    """Values of the keys that can have few only."""
    return {str(value) for field in section.model_fields.values() for value in get_args(field.annotation)}


def _names(section: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}
