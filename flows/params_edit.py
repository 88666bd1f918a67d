"""Changes of `params.yaml` that keep its comments, order and style."""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline.config import load_params
from pipeline.errors import SegtrailError, collect, unknown_name


@dataclass(frozen=True)
class ParamsEdit:
    """A new text of `params.yaml`, checked but not yet written.

    Attributes:
        text: The whole file.
        changes: One line a changed key, "key: old -> new".
    """

    text: str
    changes: tuple[str, ...]


def edit_params(parts: Sequence[dict[str, Any]], path: Path, where: str) -> ParamsEdit:
    """Merges parts of the tree into the text of `params.yaml` and checks the result; writes nothing.

    Args:
        parts: Trees of the keys that change, as nested dicts.
        path: The file.
        where: Who asks for the change, for errors.

    Raises:
        SegtrailError: `params.yaml` is wrong already, or a part has a key or a value that is not legal;
            all unknown keys are listed.
    """
    load_params(path)
    old = path.read_text(encoding="utf-8")
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 4096  # no line is folded
    tree = editor.load(old)
    changes: list[str] = []
    errors = [error for part in parts for error in _merge(tree, part, "", where, changes)]
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
            continue
        old = _value(tree, key)
        if isinstance(value, dict) and isinstance(old, CommentedMap):
            below = _copy_section(old) if _is_inherited(tree, key) else old
            before = len(changes)
            errors += _merge(below, value, f"{name}.", where, changes)
            if below is not old and len(changes) > before:
                _set_own(tree, key, below)
        elif isinstance(value, dict) or isinstance(old, CommentedMap):
            kind = "one value" if isinstance(value, dict) else "a section"
            errors.append(SegtrailError(f"{name} must be {kind}", where, "compare with params.yaml"))
        elif old != value:
            changes.append(f"{name}: {_show(old)} -> {_show(value)}")
            _set_own(tree, key, _flow_list(value) if isinstance(value, list) else value)
    return errors


def _is_inherited(tree: CommentedMap, key: str) -> bool:
    """Whether a key comes from another section by `<<: *section` alone."""
    return key not in {own for own, _ in tree.non_merged_items()}


def _value(tree: CommentedMap, key: str) -> Any:
    """A value as a reader of the file would see it.

    The library copies inherited values when it loads a file, so a change of the section they come from would
    not be seen.
    """
    if _is_inherited(tree, key):
        return next(_value(source, key) for source in tree.merge if key in source)
    return tree[key]


def _set_own(tree: CommentedMap, key: str, value: Any) -> None:
    """Sets a key; one that was inherited until now is put before the section's last key.

    After it, the line that separates sections would come first.
    """
    if _is_inherited(tree, key):
        tree.insert(max(len(list(tree.non_merged_items())) - 1, 1), key, value)
    else:
        tree[key] = value


def _copy_section(section: CommentedMap) -> CommentedMap:
    """A copy with its comments, but without the lines that follow it in the file."""
    copied: CommentedMap = copy.deepcopy(section)
    last = copied.ca.items.get(list(copied)[-1], [None] * 3)[2]
    if last is not None:
        last.value = last.value.partition("\n")[0] + "\n"
    return copied


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
            raise SegtrailError(error.what, where, "mend these values") from error
