"""Which cases a raw folder has, in every spelling; and everything that is wrong with it, at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SegtrailError
from pipeline.io.sources import list_cases

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


# msd


@pytest.mark.parametrize(
    "training",
    [
        [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, {"image": "imagesTr/b.nii.gz"}],
        ["./imagesTr/b.nii.gz", "./imagesTr/a.nii.gz", "./imagesTr/._a.nii.gz"],
        None,
    ],
)
def test_cases_of_a_list_or_of_the_folder(raw: Path, training: list[Any] | None) -> None:
    write_facts(**({"training": training} if training else {}))
    touch(*(f"{folder}/{name}.nii.gz" for folder in ("imagesTr", "labelsTr") for name in ("a", "b", "._a")))
    touch("imagesTr/.DS_Store", "imagesTr/notes.txt", "instancesTr/b.nii.gz")
    facts, cases = list_cases(raw, "msd")
    assert facts.name == "Small"
    assert [case.case_id for case in cases] == ["a", "b"]
    assert cases[0].images == ("data/raw/small/imagesTr/a.nii.gz",)
    assert cases[0].label == "data/raw/small/labelsTr/a.nii.gz"
    assert [case.instances for case in cases] == ["", "data/raw/small/instancesTr/b.nii.gz"]
    assert cases[0].patient_id == "a"
    assert cases[0].verdict == "ok"


@pytest.mark.parametrize("training", [["imagesTr/x_0000.nii.gz"], ["imagesTr/x.nii.gz"], None])
def test_numbered_files_are_the_channels_of_one_case(raw: Path, training: list[str] | None) -> None:
    write_facts(modality={"0": "T1", "1": "T2"}, **({"training": training} if training else {}))
    touch("imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz", "labelsTr/x.nii.gz")
    _, (case,) = list_cases(raw, "msd")
    assert case.case_id == "x"
    assert [Path(path).name for path in case.images] == ["x_0000.nii.gz", "x_0001.nii.gz"]


@pytest.mark.parametrize("listed", [True, False])
def test_four_digits_of_a_case_are_no_channel_when_its_label_has_them(raw: Path, listed: bool) -> None:
    names = ["lung_0000", "lung_0001"]
    training = [f"imagesTr/{name}.nii.gz" for name in names]
    write_facts(modality={"0": "T1", "1": "T2"}, **({"training": training} if listed else {}))
    touch(*training, *(f"labelsTr/{name}.nii.gz" for name in names))
    _, cases = list_cases(raw, "msd")
    assert [case.case_id for case in cases] == names
    assert [len(case.images) for case in cases] == [1, 1]


def test_patients_of_a_table_beside_the_data(raw: Path) -> None:
    write_facts()
    touch("imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    (raw / "patients.csv").write_text("case_id,patient_id,site\nb,p,Bonn\na,p,Ulm\n", encoding="utf-8")
    _, cases = list_cases(raw, "msd")
    assert [(case.patient_id, case.site) for case in cases] == [("p", "Ulm"), ("p", "Bonn")]
    (raw / "patients.csv").write_text("case_id,patient_id\nb,p\na,\n", encoding="utf-8")
    assert "no patient_id for a" in problems()
    (raw / "patients.csv").write_text("case,patient_id\nb,p\n", encoding="utf-8")
    assert "columns ['case_id'] are missing" in problems()


def test_patients_of_dataset_json(raw: Path) -> None:
    touch("imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    write_facts(patients={"a": "p1", "b": "p1"})
    assert [case.patient_id for case in list_cases(raw, "msd")[1]] == ["p1", "p1"]
    write_facts(training=[{"image": "imagesTr/a.nii.gz", "patient_id": "p7", "site": "Ulm"}])
    assert [(c.patient_id, c.site) for c in list_cases(raw, "msd")[1]] == [("p7", "Ulm")]


def test_every_problem_of_a_folder_is_in_one_error(raw: Path) -> None:
    write_facts(
        labels={"0": "background", "1": "organ", "2": "organ"},
        training=["imagesTr/a.nii.gz", "imagesTr/gone.nii.gz", "../b.nii.gz", 7, "imagesTr/a.nii.gz"],
    )
    touch("imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    text = problems()
    for said in ("twice", "imagesTr/gone.nii.gz", "labelsTr/gone.nii.gz", "outside", "is 7", "given 2 times"):
        assert said in text


def test_images_without_labels_and_labels_without_images(raw: Path) -> None:
    write_facts()
    touch("imagesTr/a.nii.gz", "labelsTr/b.nii.gz")
    text = problems()
    assert "the label is missing" in text and "labelsTr/a.nii.gz" in text
    assert "the label has no image" in text and "labelsTr/b.nii.gz" in text


def test_empty_missing_and_unknown(raw: Path) -> None:
    write_facts()
    assert "the folder of images is missing" in problems()
    touch("imagesTr/.keep")
    assert "the data set has no case" in problems()
    with pytest.raises(
        SegtrailError, match=r"(?s)no folder data/raw/smal; data/raw holds small.*segtrail data add"
    ):
        list_cases(Path("data/raw/smal"), "msd")
    with pytest.raises(SegtrailError, match=r"(?s)unknown layout 'nifti'.*msd, sunnybrook, table"):
        list_cases(raw, "nifti")


def test_a_case_id_must_serve_as_a_file_name(raw: Path) -> None:
    write_facts()
    touch("imagesTr/a b.nii.gz", "labelsTr/a b.nii.gz")
    assert "'a b' cannot be a file name" in problems()


def test_the_real_hippocampus_set(shared_data: Path) -> None:
    facts, cases = list_cases(shared_data / "Task04_Hippocampus", "msd")
    assert (facts.name, facts.channels, facts.licence) == ("Hippocampus", ("MRI",), "CC-BY-SA 4.0")
    assert facts.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert len({case.case_id for case in cases}) == 220
    assert cases[0].case_id == "hippocampus_001"


# table


def write_table(text: str) -> None:
    write_facts(modality={"0": "FLAIR", "1": "T1ce"})
    (FOLDER / "cases.csv").write_text(text, encoding="utf-8-sig")


@pytest.mark.parametrize(
    "text",
    [
        "case_id,patient_id,image_1,image_0,label,site\nx,p,c/t.nii.gz,c/f.nii.gz,c/s.nii.gz,Ulm\n",
        "case_id,patient_id,images,label,site\nx,p,c/f.nii.gz; c/t.nii.gz,c/s.nii.gz, Ulm \n,,,,\n",
    ],
)
def test_a_table_with_a_file_for_each_channel(raw: Path, text: str) -> None:
    write_table(text)
    touch("c/f.nii.gz", "c/t.nii.gz", "c/s.nii.gz")
    _, (case,) = list_cases(raw, "table")
    assert case.images == ("data/raw/small/c/f.nii.gz", "data/raw/small/c/t.nii.gz")
    assert (case.case_id, case.patient_id, case.site, case.instances) == ("x", "p", "Ulm", "")
    assert case.label == "data/raw/small/c/s.nii.gz"


def test_a_table_with_one_image_and_no_label(raw: Path) -> None:
    write_table("case_id,patient_id,image,label,instances\nx,p,i.nii.gz,,n.nii.gz\n")
    touch("i.nii.gz", "n.nii.gz")
    _, (case,) = list_cases(raw, "table")
    assert (case.images, case.label) == (("data/raw/small/i.nii.gz",), "")
    assert case.instances == "data/raw/small/n.nii.gz"


def test_an_image_of_a_table_may_be_the_folder_of_a_dicom_series(raw: Path) -> None:
    touch("scans/x/1.dcm", "scans/x/2.dcm", "l.nii.gz", "pictures/a.png")
    write_table("case_id,patient_id,image,label\nx,p,scans/x/,l.nii.gz\n")
    write_facts()
    _, (case,) = list_cases(raw, "table")
    assert case.images == ("data/raw/small/scans/x",)
    write_table("case_id,patient_id,image,label\nx,p,pictures,scans/x\n")
    text = problems("table")
    assert "the image of channel 0 is a folder without a DICOM series" in text
    assert "the label is a folder, expected a file" in text


def test_a_table_may_name_data_sets_of_an_hdf5_file(raw: Path) -> None:
    touch("scans/all.h5")
    write_table("case_id,patient_id,image,label\nx,p,scans/all.h5#images[3],scans/all.h5#labels[3]\n")
    write_facts()
    _, (case,) = list_cases(raw, "table")
    assert case.images == ("data/raw/small/scans/all.h5#images[3]",)
    assert case.label == "data/raw/small/scans/all.h5#labels[3]"
    write_table("case_id,patient_id,image,label\nx,p,scans/none.h5#images[3],\n")
    assert "the image of channel 0 is missing" in problems("table")


def test_every_problem_of_a_table_is_in_one_error(raw: Path) -> None:
    rows = ["x,p,i.nii.gz,gone.nii.gz", "x,,i.nii.gz,", "y,p,,", "z,p,/etc/hostname,"]
    write_table("\n".join(["case_id,patient_id,image,label", *rows]))
    touch("i.nii.gz")
    text = problems("table")
    for said in (
        "gone.nii.gz",
        "patient_id is empty",
        "row 3",
        "channel 0 is empty",
        "outside",
        "given 2 times",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case_id;patient_id;image;label\n", "separator is a comma"),
        ("case_id,image\nx,i\n", "['patient_id'] are missing"),
        ("case_id,patient_id,label\nx,p,\n", "no column names the images"),
        ("case_id,patient_id,image,label\n", "the data set has no case"),
    ],
)
def test_wrong_columns_are_named(raw: Path, text: str, said: str) -> None:
    write_table(text)
    assert said in problems("table")


def test_a_table_that_is_not_there_or_not_text(raw: Path) -> None:
    write_facts()
    assert "cases.csv is missing" in problems("table")
    (raw / "cases.csv").write_bytes(b"case_id\xff\xfe,patient_id\n")
    assert "cases.csv cannot be read" in problems("table")


def test_a_table_names_data_sets_of_an_hdf5_file(raw: Path) -> None:
    write_facts()
    touch("store.h5")
    (FOLDER / "cases.csv").write_text(
        "case_id,patient_id,image,label\na,p,store.h5#images[3],store.h5#labels[3]\nb,p,other.h5#images[0],\n"
    )
    assert "the image of channel 0 is missing" in problems("table")
    assert "case b, data/raw/small/other.h5#images[0]" in problems("table")
    touch("other.h5")
    _, cases = list_cases(FOLDER, "table")
    assert (cases[0].images, cases[0].label) == (
        ("data/raw/small/store.h5#images[3]",), "data/raw/small/store.h5#labels[3]",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "why"), [("a;b", "a;b has ';' in"), ("a\udcff", "a? has a name that is not UTF-8")]
)
def test_a_name_that_the_table_of_cases_cannot_hold_is_refused(raw: Path, name: str, why: str) -> None:
    study = raw / name / "study"
    (study / "masks").mkdir(parents=True)
    (study / "images").mkdir()
    (study / "images" / "study.png").touch()
    with pytest.raises(SegtrailError, match="rename") as error:
        list_cases(raw / name, "dsb2018")
    assert why.split()[0] in str(error.value) and why.split(maxsplit=1)[1] in str(error.value)
