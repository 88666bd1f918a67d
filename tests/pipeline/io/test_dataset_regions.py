"""Regions of `dataset.json` in both spellings, through both layouts, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SegtrailError
from pipeline.io.dataset import DatasetFacts
from pipeline.io.sources import list_cases

# As nnU-Net's own conversion of BraTS 2021 writes it.
NNUNET = {
    "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"},
    "labels": {
        "background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3],
    },
    "regions_class_order": [1, 2, 3],
    "file_ending": ".nii.gz",
}  # fmt: skip
PLAIN = {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 4}


def load(folder: Path, **facts: Any) -> DatasetFacts:
    path = folder / "dataset.json"
    path.write_text(json.dumps({"name": "Small", "modality": {"0": "MRI"}} | facts), encoding="utf-8")
    return DatasetFacts.load(path)


def refusal(folder: Path, **facts: Any) -> str:
    with pytest.raises(SegtrailError) as caught:
        load(folder, **facts)
    return str(caught.value)


def test_the_spelling_of_nnunet(tmp_path: Path) -> None:
    facts = load(tmp_path, **NNUNET)
    assert list(facts.regions.items()) == [
        ("whole tumor", (1, 2, 3)), ("tumor core", (2, 3)), ("enhancing tumor", (3,)),
    ]  # fmt: skip
    assert facts.regions_class_order == (1, 2, 3)
    assert facts.labels == {"background": 0, "label_1": 1, "label_2": 2, "label_3": 3}
    # A single value is a region too, where another label is a list.
    labels = NNUNET["labels"] | {"enhancing tumor": 3}  # type: ignore[operator]
    assert load(tmp_path, **NNUNET | {"labels": labels}) == facts


def test_plain_labels_beside_regions(tmp_path: Path) -> None:
    regions = {"whole": [1, 2, 4], "core": [1, 4], "enhancing_core": [4]}
    facts = load(tmp_path, labels=PLAIN, regions=regions)
    assert facts.labels == PLAIN
    # 2 lies in the whole alone, 1 in the core but not in the last region: there is no choice.
    assert facts.regions_class_order == (2, 1, 4)
    assert load(tmp_path, labels=PLAIN, regions=regions, regions_class_order=[2, 1, 4]) == facts


def test_without_regions_there_are_none(tmp_path: Path) -> None:
    facts = load(tmp_path, labels=PLAIN)
    assert (facts.regions, facts.regions_class_order) == ({}, ())


@pytest.mark.parametrize("spelling", [NNUNET, {"labels": PLAIN, "regions": {"b": [1, 2], "a": [1]}}])
def test_regions_come_back_from_their_own_file(tmp_path: Path, spelling: dict[str, Any]) -> None:
    facts = load(tmp_path, **spelling)
    facts.save(tmp_path / "again.json")
    again = DatasetFacts.load(tmp_path / "again.json")
    assert again == facts
    assert list(again.regions) == list(facts.regions)  # their order is what is painted


@pytest.mark.parametrize("layout", ["msd", "table"])
def test_every_layout_carries_them(tmp_path: Path, layout: str) -> None:
    expected = load(tmp_path, **NNUNET)
    for name in (*(f"imagesTr/a_000{i}.nii.gz" for i in range(4)), "labelsTr/a.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    columns = ",".join(f"image_{i}" for i in range(4))
    images = ",".join(f"imagesTr/a_000{i}.nii.gz" for i in range(4))
    table = f"case_id,patient_id,{columns},label\na,p,{images},labelsTr/a.nii.gz\n"
    (tmp_path / "cases.csv").write_text(table, encoding="utf-8")
    facts, cases = list_cases(tmp_path, layout)
    assert facts == expected
    assert [len(case.images) for case in cases] == [4]


@pytest.mark.parametrize(
    ("regions", "order", "said"),
    [
        ({"whole": [1, 2, 9]}, None, "'whole' holds the values [9], labels has [0, 1, 2, 4]"),
        ({"whole": [0, 1]}, None, "'whole' holds the background (0)"),
        ({"whole": []}, None, "'whole' is [], expected a list of label values"),
        ({"whole": [1, "2"]}, None, "'whole' is [1, '2'], expected"),
        ([1, 2], None, "regions are [1, 2], expected a list of label values for each name"),
        ({"necrosis": [1, 2]}, None, "['necrosis'] are labels and regions"),
        ({"core": [1], "whole": [1, 2]}, [1, 2], "'core' [1] would not be seen"),
        ({"a": [1, 2], "b": [1, 2]}, [1, 2], "'a' [1, 2] would not be seen"),
        ({"whole": [1, 2, 4], "core": [4]}, None, "['whole'] have several values they could paint"),
        ({"whole": [1, 2], "core": [2]}, [1], "[1], expected 2 different values, one for each of"),
        ({"whole": [1, 2], "core": [2]}, [1, 1], "[1, 1], expected 2 different values"),
        ({"whole": [1, 2], "core": [2]}, "12", "'12', expected 2 different values"),
        ({"whole": [1, 2], "core": [2]}, [2, 1], "paints region 'whole' with 2, which is not one of its own"),
        (None, [1, 2], "regions are None"),
    ],
)
def test_wrong_regions_are_refused(tmp_path: Path, regions: Any, order: Any, said: str) -> None:
    assert said in refusal(tmp_path, labels=PLAIN, regions=regions, regions_class_order=order)


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    said = refusal(tmp_path, labels=PLAIN, regions={"a": [0, 1], "b": [7], "enhancing": [4]}, modality=None)
    assert "4 problems" in said
    for part in (
        "modality",
        "'a' holds the background",
        "'b' holds the values [7]",
        "['enhancing'] are labels",
    ):
        assert part in said


def test_regions_are_given_once(tmp_path: Path) -> None:
    assert "given twice" in refusal(tmp_path, **NNUNET, regions={"a": [1]})


def test_an_ignored_label_stands_beside_regions(tmp_path: Path) -> None:
    labels = NNUNET["labels"] | {"ignore": 4}  # type: ignore[operator]
    facts = load(tmp_path, **NNUNET | {"labels": labels})
    assert facts.ignore == 4 and list(facts.regions) == ["whole tumor", "tumor core", "enhancing tumor"]
    assert list(facts.labels.values()) == [0, 1, 2, 3]
    assert "holds the values [4]" in refusal(
        tmp_path, labels={"background": 0, "a": 1, "ignore": 4}, regions={"all": [1, 4]}
    )
