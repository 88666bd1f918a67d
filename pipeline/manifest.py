"""The manifest of the store of preprocessed cases: what each of them was computed from.

A case is computed again only if its key (content, plan, code) differs. The manifest is sorted, so the folder's hash
does not depend on its history.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.disk import write_whole
from pipeline.stat_memo import StatMemo, hash_file
from pipeline.store import MANIFEST, case_path

JOURNAL = "_journal.jsonl"


class Manifest:
    """Which case was computed from what.

    What is noted goes to the end of a journal at once and into the manifest when the run is complete: a kill loses
    nothing, and a note costs the same however many there are.

    Args:
        folder: The store; created when missing.
        hashes: What is known of the files that are there; None = each is read.
    """

    def __init__(self, folder: Path, hashes: StatMemo | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / MANIFEST
        self.journal = folder / JOURNAL
        self.hashes = hashes
        self.entries: dict[str, dict[str, str]] = {}
        if self.path.exists():
            try:
                self.entries = json.loads(self.path.read_text(encoding="utf-8"))
            except ValueError:
                self.entries = {}  # a torn manifest only costs the recomputation
        if self.journal.exists():
            self.entries |= dict(_read_journal(self.journal))

    def holds(self, case_id: str, key: str) -> bool:
        """Whether the case's product is there, whole, and made from this key."""
        entry = self.entries.get(case_id)
        if entry is None or entry["key"] != key:
            return False
        path = case_path(self.folder, case_id)
        found = hash_file(path) if self.hashes is None else self.hashes.digest(str(path), [path])
        return found == entry["sha256"]

    def add(self, case_id: str, key: str, sha256: str) -> None:
        """Notes a finished product, on the disk too."""
        self.entries[case_id] = {"key": key, "sha256": sha256}
        # A line that a full disk or a kill has cut off is closed first, so that it does not spoil this one.
        line = "\n" + json.dumps([case_id, key, sha256]) + "\n"
        with self.journal.open("a", encoding="utf-8") as stream:
            stream.write(line)
        if self.hashes is not None:
            self.hashes.note(case_path(self.folder, case_id), sha256)

    def keep_only(self, case_ids: Iterable[str]) -> list[str]:
        """Removes products of other cases, and leftovers; returns the removed case ids.

        Folders stay: the store of another grid may lie below this one.
        """
        wanted = set(case_ids)
        removed = [case_id for case_id in self.entries if case_id not in wanted]
        self.entries = {case_id: entry for case_id, entry in self.entries.items() if case_id in wanted}
        legal = {case_path(self.folder, case_id).name for case_id in self.entries} | {MANIFEST, JOURNAL}
        for path in self.folder.iterdir():
            if path.name not in legal and not path.is_dir():
                path.unlink()
        self.save()
        return removed

    def save(self) -> None:
        """Writes the manifest, sorted, whole or not at all, and ends the journal."""
        write_whole(self.path, json.dumps(self.entries, indent=0, sort_keys=True) + "\n")
        self.journal.unlink(missing_ok=True)


def _read_journal(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            case_id, key, sha256 = json.loads(line)
        except ValueError:
            continue  # empty, or cut off
        yield case_id, {"key": key, "sha256": sha256}
