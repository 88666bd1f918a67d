"""Names and numbers of patients in texts and paths: found however they are written, and replaced."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pydicom
import pytest
from named_patient import KEYS
from pydicom.dataset import Dataset

from pipeline.io.deidentify import read_header
from pipeline.io.identities import Identities, Redactor, decode_text, find_tokens


def test_names_are_replaced_in_texts_and_paths(named: Path) -> None:
    people = Identities()
    header = read_header(named)
    assert header is not None
    people.add(header)
    redactor = Redactor(people, KEYS)
    patient = KEYS.patient("MRN-77123")
    assert redactor.clean_name("scans/MRN-77123_2020/1.dcm") == f"scans/{patient}_2020/1.dcm"
    cleaned = redactor.clean_name("QUILLFEATHER_ottoline/a.dcm")
    assert cleaned == f"{KEYS.word('quillfeather')}_{KEYS.word('ottoline')}/a.dcm"
    assert "uill" not in redactor.clean_text("seen: Quillfeather, Ottoline, * 17.04.1961")
    assert "1961" not in redactor.clean_text("born 1961-04-17")
    assert redactor.clean_text("the quillfeather sign") == "the quillfeather sign"
    uid = str(pydicom.dcmread(named).SOPInstanceUID)
    assert redactor.clean_text(f"<u>{uid}</u>") == f"<u>{KEYS.uid(uid)}</u>"
    assert redactor.clean_text("1.2.840.10008.5.1.4.1.1.2") == "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize(
    "text", ["Quillfeather,Ottoline", "x/quillfeather_o/y.csv", '{"who": "MRN-77123"}', "on 17.04.1961."]
)
def test_identities_are_found_by_their_hashes(named: Path, text: str) -> None:
    people = Identities()
    header = read_header(named)
    assert header is not None
    people.add(header)
    hashes = {KEYS.token(token) for token in people.tokens()}
    assert any(KEYS.token(token) in hashes for token in find_tokens(text))
    assert not any(KEYS.token(token) in hashes for token in find_tokens("nodule test/dice 0.81 patient"))


def test_numbers_of_results_are_nobodys_number() -> None:
    people = Identities(ids={"123456", "7654321"}, names={("boost", "breast")}, birth_dates=set())
    assert people.tokens() == {"7654321", "boost", "breast", "boostbreast", "breastboost"}
    assert "7654321" not in set(find_tokens("score 0.7654321 -1.7654321e-05"))
    assert "7654321" in set(find_tokens("case_7654321.nii.gz"))


def test_names_written_together_and_numbers_behind_letters_are_found() -> None:
    people = Identities(ids={"7712345"}, names={("quillfeather", "ottoline")})
    redactor = Redactor(people, KEYS)
    for path in ("QuillfeatherOttoline/1.nii", "ottolinequillfeather_7.nii", "PAT7712345a.nii"):
        assert redactor.clean_name(path) != path
        assert redactor.clean_text(f"see {path}") != f"see {path}"
        assert people.tokens() & set(find_tokens(path))
    for path in ("case_177123450.nii", "ottolines.nii"):
        assert redactor.clean_name(path) == path
        assert not people.tokens() & set(find_tokens(path))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_with_accents_are_found_however_they_are_written(form: str) -> None:
    people = Identities()
    header = Dataset()
    header.PatientName = "M\u00fcller^J\u00f6rg"
    people.add(header)
    path = unicodedata.normalize(form, "x/M\u00fcller_J\u00f6rg/1.dcm")  # type: ignore[arg-type]
    assert Redactor(people, KEYS).clean_name(path).isascii()
    assert people.tokens() & set(find_tokens(path))
    for encoding in ("utf-8", "utf-16", "latin-1"):
        raw = "born: M\u00fcller".encode(encoding)
        text, found = decode_text(raw)
        assert (text, found) == ("born: M\u00fcller", encoding)
        assert text.encode(found) == raw
