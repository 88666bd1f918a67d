"""Who a set of DICOM files is about, and how that is found and replaced in texts and file names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from pydicom.dataset import Dataset

from pipeline.io.pseudonyms import Pseudonyms

TAGS = (
    *("PatientID", "PatientName", "PatientBirthDate", "OtherPatientIDs", "OtherPatientNames"),
    *("PatientBirthName", "PatientMotherBirthName", "ReferringPhysicianName", "PerformingPhysicianName"),
    *("OperatorsName", "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord", "RequestingPhysician"),
    *("Modality", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    *("FrameOfReferenceUID", "PatientIdentityRemoved", "BurnedInAnnotation", "DeidentificationMethod"),
)
IDS = ("PatientID", "OtherPatientIDs")
INSTANCES = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
LEAST_LETTERS = 3  # of a part of a name, and of an id: shorter ones stand for anything
# Of the same, where a match stops a push: by chance letters spell short names, and counts are short numbers.
LEAST_SEARCHED, LEAST_DIGITS = 4, 7
# What stands in name fields without naming anybody.
STOPWORDS = """
    anon anonymous anonymized anonymised unknown none null patient phantom test case subject name removed ctp dicom
    image study
"""
NOBODY = frozenset(STOPWORDS.split())
WORDS = re.compile(r"[^\W_]+")
UID = re.compile(r"(?<![\d.])\d+(?:\.\d+){4,}(?![\d.]*\d)")
DECIMAL = re.compile(r"[-+]?\d+\.\d+(e[-+]?\d+)?")
NUMBERS = re.compile(rf"\d{{{LEAST_DIGITS},}}")
PARTS = r"[\s,;^_.=-]{0,3}"  # between the parts of a name


@dataclass
class Identities:
    """What is known of the people in a set, as it is written in the headers.

    Attributes:
        ids: PatientIDs.
        names: Parts of each person's name, in lower case.
        birth_dates: YYYYMMDD.
        uids: Of everything that gets another UID.
    """

    ids: set[str] = field(default_factory=set)
    names: set[tuple[str, ...]] = field(default_factory=set)
    birth_dates: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)

    def add(self, header: Dataset) -> None:
        """Takes in the header of a file."""
        for name in TAGS:
            if name not in header:
                continue
            element = header[name]
            values = element.value if element.VM > 1 else [element.value]
            for text in (str(value).strip() for value in values if value):
                self._add(name, element.VR, text)

    def _add(self, name: str, representation: str, text: str) -> None:
        if name in IDS and len(text) >= LEAST_LETTERS and text.casefold() not in NOBODY:
            self.ids.add(text)
        elif representation == "PN":
            if parts := split_name(text):
                self.names.add(parts)
        elif name == "PatientBirthDate":
            self.birth_dates.add(text[:8])
        elif name in INSTANCES:
            self.uids.add(text)

    def forget(self, public: Collection[str]) -> None:
        """Takes out PatientIDs (also where they stand for a name) and UIDs that are no secret."""
        self.ids -= set(public)
        self.uids -= set(public)
        self.names -= {split_name(text) for text in public}

    def __bool__(self) -> bool:
        return bool(self.ids or self.names or self.birth_dates)

    def tokens(self) -> set[str]:
        """What is looked for elsewhere, see `find_tokens`."""
        parts = {part for name in self.names for part in name}
        dates = {form for born in self.birth_dates for form in date_forms(born)}
        joined = {"".join(order) for name in self.names for order in (name, name[::-1])}
        found = {item.casefold() for item in self.ids} | parts | joined | dates
        return {
            token for token in found if len(token) >= (LEAST_DIGITS if token.isdigit() else LEAST_SEARCHED)
        }


def split_name(text: str) -> tuple[str, ...]:
    """Parts of a person's name that may be looked for; none for what names nobody."""
    parts = tuple(word.casefold() for word in WORDS.findall(unicodedata.normalize("NFC", text)))
    parts = tuple(part for part in parts if len(part) >= LEAST_LETTERS and part not in NOBODY)
    return () if all(part.isdigit() for part in parts) else parts


def list_public(header: Dataset) -> set[str]:
    """PatientID and UIDs of a file that is taken as it is: what other files say of it must stay too."""
    return {text for name in (*IDS[:1], *INSTANCES) if (text := str(header.get(name) or "").strip())}


def date_forms(born: str) -> list[str]:
    """How a birth date (YYYYMMDD) is written: also 1950-01-31, 31.01.1950 and 01/31/1950."""
    year, month, day = born[:4], born[4:6], born[6:8]
    return [born, f"{year}-{month}-{day}", f"{day}.{month}.{year}", f"{month}/{day}/{year}"]


class Redactor:
    """Replaces what names somebody by stand-ins.

    Args:
        identities: Of the set.
        pseudonyms: Gives the stand-ins.
    """

    def __init__(self, identities: Identities, pseudonyms: Pseudonyms) -> None:
        self._identities = identities
        self._pseudonyms = pseudonyms
        self._ids = {item.casefold(): item for item in identities.ids}

    def clean_text(self, text: str) -> str:
        """Replaces ids, whole names, birth dates and UIDs; single words may mean something else."""
        return self._clean(text, self._whole)

    def clean_name(self, text: str) -> str:
        """Replaces parts of names too: for names of files and folders, and the tables that list them."""
        return self._clean(text, self._any)

    def _clean(self, text: str, pattern: re.Pattern[str] | None) -> str:
        text = UID.sub(self._uid, text)
        if pattern is None:
            return text
        whole = unicodedata.normalize("NFC", text)  # file names from a Mac have letters and accents apart
        return pattern.sub(self._replace, whole) if pattern.search(whole) else text

    @cached_property
    def _whole(self) -> re.Pattern[str] | None:
        return _pattern([*self._fixed(), *self._names(PARTS)], self._numbers())

    @cached_property
    def _any(self) -> re.Pattern[str] | None:
        parts = {part for name in self._identities.names for part in name}
        return _pattern([*self._fixed(), *self._names(""), *map(re.escape, parts)], self._numbers())

    def _names(self, between: str) -> list[str]:
        several = [name for name in self._identities.names if len(name) > 1]
        return [between.join(map(re.escape, order)) for name in several for order in (name, name[::-1])]

    def _numbers(self) -> list[str]:
        """Ids long enough to be nothing else, though letters stand beside them, as in PAT1234567."""
        return [item for item in self._identities.ids if item.isdigit() and len(item) >= LEAST_DIGITS]

    def _fixed(self) -> list[str]:
        dates = [form for born in self._identities.birth_dates for form in date_forms(born)]
        return [re.escape(text) for text in (*self._identities.ids, *dates)]

    def _replace(self, match: re.Match[str]) -> str:
        text = match.group()
        known = self._ids.get(text.casefold())
        return self._pseudonyms.word(text) if known is None else self._pseudonyms.patient(known)

    def _uid(self, match: re.Match[str]) -> str:
        uid = match.group()
        return self._pseudonyms.uid(uid) if uid in self._identities.uids else uid


def _pattern(parts: Iterable[str], numbers: Iterable[str]) -> re.Pattern[str] | None:
    """One pattern of all parts, the longest first, between characters that are no letters or digits.

    Numbers are found between letters too.
    """
    ordered = sorted(set(parts), key=lambda part: (-len(part), part))
    if not ordered:
        return None
    digits = "".join(rf"|(?<!\d){number}(?!\d)" for number in sorted(numbers))
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(ordered)})(?![^\W_]){digits}", re.IGNORECASE)


def decode_text(raw: bytes) -> tuple[str, str]:
    """The text of a file, and the encoding that gives its bytes back: UTF-8, UTF-16 with its mark, else Latin-1."""
    for encoding in ("utf-16",) if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8",):
        try:
            return raw.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1"), "latin-1"


def find_tokens(text: str) -> Iterator[str]:
    """Everything in a text that could be a name, an id or a birth date, in the form of `Identities.tokens`."""
    lower = unicodedata.normalize("NFC", text).casefold()
    for match in re.finditer(r"[^\s,;|\"'<>()\[\]{}=]+", lower):
        piece = match.group().strip(".:")
        yield piece
        if DECIMAL.fullmatch(piece):
            continue  # its digits behind the point may be anybody's number
        parts = WORDS.findall(piece)
        if len(parts) > 1 or (parts and parts[0] != piece):
            yield from parts
        if not piece.isdigit():
            yield from NUMBERS.findall(piece)
            yield from (
                token for part in re.split(r"[/\\_^]", piece) if (token := part.strip(".:-")) != piece
            )
