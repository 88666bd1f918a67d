"""`dataset.json` in every spelling, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SegtrailError
from pipeline.io.sources import DatasetFacts, list_cases

FOLDER = Path("data/raw/small")
FACTS: dict[str, Any] = {
    "name": "Small",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "organ"},
}


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `data/raw/small` below the working directory, as a relative path."""
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    return FOLDER


def touch(*names: str) -> None:
    """Makes files; the layouts never open images."""
    for name in names:
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).touch()


def write_facts(**more: Any) -> None:
    (FOLDER / "dataset.json").write_text(json.dumps(FACTS | more), encoding="utf-8")


def problems(layout: str = "msd") -> str:
    with pytest.raises(SegtrailError) as caught:
        list_cases(FOLDER, layout)
    return str(caught.value)


def test_facts_in_the_spelling_of_msd(raw: Path) -> None:
    write_facts(
        modality={"0": "FLAIR", "1": "T1w"},
        labels={"2": "tumour", "0": "background", "10": "edema"},
        licence="CC-BY-SA 4.0",
    )
    facts = DatasetFacts.load(raw / "dataset.json")
    assert facts.channels == ("FLAIR", "T1w")
    assert list(facts.labels.items()) == [("background", 0), ("tumour", 2), ("edema", 10)]
    assert facts.licence == "CC-BY-SA 4.0"


def test_facts_in_the_spelling_of_nnunet(raw: Path) -> None:
    facts = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "nodule": 1}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    assert DatasetFacts.load(raw / "dataset.json") == DatasetFacts(
        "small", ("CT",), {"background": 0, "nodule": 1}
    )


def test_facts_come_back_from_their_own_file(tmp_path: Path) -> None:
    facts = DatasetFacts("Größe", ("CT", "PT"), {"background": 0, "left lung": 3}, "text", "CC0")
    facts.save(tmp_path / "dataset.json")
    assert DatasetFacts.load(tmp_path / "dataset.json") == facts


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"modality": None}, "modality"),
        ({"modality": {"1": "MRI"}}, "modality"),
        ({"labels": {}}, "labels are {}"),
        ({"labels": {"background": 0, "organ": -1}}, "organ: -1"),
        ({"labels": {"0": "background", "1": "organ", "2": "organ"}}, "name ['organ'] twice"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "value [1] twice"),
        ({"labels": {"a": 1, "ignore": 0}}, "'ignore' is 0"),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, "value [1] twice"),
    ],
)
def test_wrong_facts_are_refused(raw: Path, wrong: dict[str, Any], said: str) -> None:
    write_facts(**wrong)
    touch("imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    assert said in problems()


def test_a_missing_or_broken_dataset_json_is_named(raw: Path) -> None:
    assert "dataset.json is missing" in problems()
    (raw / "dataset.json").write_text("{", encoding="utf-8")
    assert "cannot be read as JSON" in problems()
    (raw / "dataset.json").write_text("[]", encoding="utf-8")
    assert "holds list" in problems()
