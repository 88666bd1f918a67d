"""Looks for the people of the raw data in what the project holds and would hand on: names of files, texts, headers."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from flows.private_map import load_hashes, load_pseudonyms, private_folder, read_mark
from pipeline.errors import SegtrailError
from pipeline.io.dataset import DatasetFacts

LOGGER = logging.getLogger("segtrail")
HANDED_ON = "data"  # what DVC may push
PLACES = (HANDED_ON, ".segtrail")
NEVER = ("downloads",)  # below .segtrail: what `data add` fetched, before it comes in
TEXTS = (
    "",
    ".csv",
    ".tsv",
    ".json",
    ".html",
    ".yaml",
    ".yml",
    ".txt",
    ".md",
    ".log",
    ".svg",
    ".xml",
    ".mhd",
    ".nhdr",
)
FACTS = "dataset.json"
EMBEDDED = re.compile(r"base64,[A-Za-z0-9+/=]+")  # pictures in pages: by chance they spell anything
EARLIER = ("-a", "-A", "-T", "--all")  # of `dvc push`: other versions than the one that is checked out
SHOWN = 10
CONCEALED = "***"
FIX = (
    "find the file's origin: add data through `segtrail data add` (without --keep-identity), rename cases that are "
    "named after a patient, then dvc repro --force the stage that wrote the file"
)


def require_no_identity(folders: Sequence[Path], project: Path = Path()) -> int:
    """Refuses when a file below some folders names a person of the raw data.

    Looked for are the ids, parts of names and birth dates that `segtrail data add` has met (by their hashes), in
    paths, texts and databases; and DICOM files and NIfTI headers that were not de-identified. Words of class names
    and of `params.yaml` name nobody.

    Returns:
        Number of files looked at.

    Raises:
        SegtrailError: Lists the files; not the names, for which `***` stands in the paths too.
    """
    hashes = load_hashes()
    files = list(_files(folders))
    search = _Search(hashes, project, _vocabulary(files, project)) if hashes else None
    count, found, marks = len(files), [], Counter[str]()
    for path in files:
        if what := _look(path, search, marks):
            named = path.as_posix() if search is None else _conceal(path.as_posix(), search)
            found.append(f"{named}: {what}")
    if found:
        rest = f"\n    and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        listed = "\n    ".join(found[:SHOWN])
        what = f"{len(found)} of {count} files name patients, or may do so:\n    {listed}{rest}"
        raise SegtrailError(what, ", ".join(map(str, folders)), FIX)
    if foreign := sum(marks.values()) - marks[read_mark()]:
        LOGGER.warning(
            "%d DICOM files got their stand-ins with another salt than that in %s: the names of their patients are "
            "not known here and CANNOT BE LOOKED FOR (docs/how-to/privacy.md)", foreign, private_folder()
        )  # fmt: skip
    return count


def scan_project(project: Path = Path(), places: Sequence[str] = PLACES) -> None:
    """`segtrail data scan`: looks through some folders of the project."""
    count = require_no_identity([project / name for name in places], project)
    known = f"{len(load_hashes())} hashes of identities in {private_folder()}"
    LOGGER.info("%d files looked at, none names a patient (%s)", count, known)


def require_pushable(arguments: Sequence[str], project: Path = Path()) -> None:
    """Looks through what `dvc push` would hand on; what stays here (`.segtrail`) is not looked at.

    Args:
        arguments: Those of `dvc push`.
        project: Top folder of the project.

    Raises:
        SegtrailError: Something names a patient, or versions shall be pushed that nobody looks at.
    """
    if unseen := [text for text in arguments if text.startswith(EARLIER)]:
        fix = "check each version out, and push it by itself; dvc push itself does not look"
        raise SegtrailError("only what is checked out has been looked at", " ".join(unseen), fix)
    scan_project(project, (HANDED_ON,))


def conceal(record: Any, project: Path = Path()) -> Any:
    """A record of strings, lists and mappings, in which `***` stands for what names a person of the raw data.

    Names of folders that arrive may hold a patient's name; what a night writes down and sends must not.
    """
    hashes = load_hashes()
    if not hashes:
        return record
    search = _Search(hashes, project, _vocabulary([project / "data" / "inspected" / FACTS], project))
    return _conceal(record, search)


def _conceal(record: Any, search: _Search) -> Any:
    if isinstance(record, str):
        text = unicodedata.normalize("NFC", record)
        return _strike(text, search.find(text))
    if isinstance(record, Mapping):
        return {key: _conceal(value, search) for key, value in record.items()}
    return [_conceal(item, search) for item in record] if isinstance(record, (list, tuple)) else record


def _strike(text: str, tokens: Collection[str]) -> str:
    """Puts `***` in the place of each token; a token has small letters, and "ss" where the text has "ß"."""
    if not tokens:
        return text
    small = [letter.casefold() for letter in text]
    places = [place for place, letters in enumerate(small) for _ in letters]
    pattern = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
    parts, end = [], 0
    for match in re.finditer(pattern, "".join(small)):
        parts += [text[end : places[match.start()]], CONCEALED]
        end = places[match.end() - 1] + 1
    return "".join([*parts, text[end:]])


class _Search:
    """Recognises identities by their hashes; each word is hashed once, and those of the vocabulary never."""

    def __init__(self, hashes: frozenset[str], project: Path, vocabulary: Iterable[str]) -> None:
        self._hashes = hashes
        self._pseudonyms = load_pseudonyms(project)
        self._seen = dict.fromkeys(vocabulary, False)

    def finds(self, text: str) -> bool:
        """Whether a text names somebody."""
        return next(self._found(text), None) is not None

    def find(self, text: str) -> set[str]:
        """The words of a text that name somebody, in small letters."""
        return set(self._found(text))

    def _found(self, text: str) -> Iterator[str]:
        from pipeline.io.identities import find_tokens

        for token in set(find_tokens(text)):
            if token not in self._seen:
                self._seen[token] = self._pseudonyms.token(token) in self._hashes
            if self._seen[token]:
                yield token


def _vocabulary(files: Iterable[Path], project: Path) -> set[str]:
    """Words that the project uses for other things than people."""
    from pipeline.io.identities import find_tokens

    text = (project / "params.yaml").read_text(encoding="utf-8") if (project / "params.yaml").exists() else ""
    for path in (path for path in files if path.name == FACTS and path.is_file()):
        try:
            text += " ".join([" ", *map(str, DatasetFacts.load(path).labels)])
        except SegtrailError:  # another program's file of that name, or a damaged one: it has no say
            continue
    return {token for token in find_tokens(text) if token.isalpha()}


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for here, below, names in os.walk(folder):
            below[:] = sorted(name for name in below if name not in NEVER)
            yield from (Path(here, name) for name in sorted(names))


def _look(path: Path, search: _Search | None, marks: Counter[str]) -> str:
    """What names somebody in a file; "" for nothing. Counts the `marks` of salts in DICOM files."""
    from pipeline.io.deidentify import is_deidentified, read_header, salt_mark
    from pipeline.io.header_text import blank_header_text
    from pipeline.io.identities import decode_text

    if search is not None and search.finds(path.as_posix()):
        return "its path"
    suffix = path.suffix.lower()
    if suffix == ".db":
        return "a row of the database" if search is not None and any(map(search.finds, _rows(path))) else ""
    if suffix in TEXTS and search is not None:
        text, _ = decode_text(path.read_bytes())
        if search.finds(EMBEDDED.sub("", text)):
            return "its text"
    try:
        header = read_header(path)
    except SegtrailError:
        return "a DICOM header that cannot be read"
    if header is not None and not is_deidentified(header):
        return "a DICOM header that was not de-identified"
    if header is not None and (mark := salt_mark(header)):
        marks[mark] += 1
    return "free text in its header" if blank_header_text(path) is not None else ""


def _rows(path: Path) -> Iterator[str]:
    """The rows of an SQLite database as text; of one that cannot be opened, nothing."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            yield from connection.iterdump()
    except sqlite3.Error as error:
        LOGGER.warning("%s cannot be searched for names: %s", path, error)
