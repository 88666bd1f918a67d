"""What a registered version started from, and that version in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.archive import VERSIONS, Version, load_version, version_folder
from pipeline.errors import SegtrailError


@dataclass(frozen=True)
class Ancestor:
    """An archived version.

    Attributes:
        bundle_sha256: Of its bundle.
        model: Name of the model.
        finished: When its training finished (ISO 8601), "" when unknown.
        folder: Its bundle.
        splits: The split it was trained with.
        cases: The table of cases it was trained with.
        parents: sha256 of the bundles that it started from itself.
    """

    bundle_sha256: str
    model: str
    finished: str
    folder: Path
    splits: Path
    cases: Path
    parents: tuple[str, ...]


def walk_ancestors(parents: tuple[str, ...]) -> Iterator[tuple[str, Ancestor | None]]:
    """The bundles that a training started from, then those that these started from, and so on.

    Args:
        parents: sha256 of the first ones.

    Yields:
        The sha256, and what the archive holds of it, under whatever name; None where it holds nothing.
    """
    waiting, known = list(parents), set()
    while waiting:
        sha256 = waiting.pop(0)
        if sha256 in known:
            continue
        known.add(sha256)
        found = _find(sha256)
        yield sha256, found
        waiting += found.parents if found else ()


def parent_digests(bundle: Mapping[str, Any]) -> tuple[str, ...]:
    """sha256 of the bundles whose weights a training started from; none of one from scratch.

    Args:
        bundle: Content of its `bundle.json`.
    """
    return tuple(map(str, bundle.get("provenance", {}).get("parents") or bundle.get("parents") or []))


def _find(sha256: str) -> Ancestor | None:
    for path in sorted(VERSIONS.glob("[!.]*")):
        try:
            version = load_version(version_folder(path.name, sha256))
        except SegtrailError:
            continue
        if version.bundle_sha256 == sha256:
            return to_ancestor(version)
    return None


def to_ancestor(version: Version) -> Ancestor:
    """What a training that starts from a version needs of it."""
    return Ancestor(
        bundle_sha256=version.bundle_sha256,
        model=version.model,
        finished=version.created,
        folder=version.files.folder,
        splits=version.files.splits,
        cases=version.files.cases,
        parents=parent_digests(version.files.load_bundle_record()),
    )
