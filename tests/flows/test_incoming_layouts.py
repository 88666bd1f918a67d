"""Lots of other layouts than msd: DICOM of invented patients, tables, and a folder an image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest
from incoming_project import copy_file, list_tree
from project_copy import make_bare_project

from flows.data import add_data
from flows.incoming import take_in
from flows.intake import Taken
from pipeline.io.sources import open_dataset

PERSON = ("Quillfeather^Ottoline", "MRN-77123", "19610417")
SECRETS = ("quillfeather", "ottoline", "mrn-77123", "19610417")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.setenv("SEGTRAIL_PRIVATE_DIR", str(tmp_path / "private"))
    monkeypatch.setattr("flows.incoming.SECOND_LOOK_S", 0.1)
    make_bare_project(folder)
    (tmp_path / "incoming").mkdir()
    monkeypatch.chdir(folder)
    return folder


def cases(name: str, layout: str) -> list[str]:
    return [record.case_id for record in open_dataset(Path("data/raw") / name, layout).records]


@pytest.mark.slow
def test_dicom_loses_its_patient_at_the_door(project: Path, shared_data: Path) -> None:
    """A lot in a folder called like the patient; sent again it is known; half a slice waits."""
    source, incoming = shared_data / "dicom_seg_rtstruct/dcmqi/segmentations/24x38x3", Path("../incoming")
    first = Path("../first")
    for path in [*(source / "image").glob("*.dcm"), source / "seg/label.seg"]:
        write_dicom(path, first / "a" / path.name, ("Snodgrass^Hugo", "MRN-88999", "19530102"), "1.9.1")
    add_data(first, "dicom")
    old = cases("dicom", "dicom")
    lot = incoming / "QUILLFEATHER_OTTOLINE"
    for path in [*(source / "image").glob("*.dcm"), source / "seg/label.seg"]:
        write_dicom(path, lot / path.name, PERSON, "1.9.2")
    (lot / "letter.pdf").write_bytes(b"%PDF dear Mrs Quillfeather")
    shutil.copytree(lot, "../again")
    half = lot / "IMG0002.dcm"
    whole = half.read_bytes()
    half.write_bytes(whole[:-500])
    intake = take_in("dicom", incoming, 0)
    assert intake.taken == []
    assert cases("dicom", "dicom") == old
    if intake.refused:
        shutil.rmtree(incoming / "refused")
        shutil.copytree("../again", lot)
    half.write_bytes(whole)

    intake = take_in("dicom", incoming, 0)
    assert [taken.files for taken in intake.taken] == [4]
    assert "letter.pdf" in intake.refused[0].reason
    assert len(cases("dicom", "dicom")) == 2
    assert sorted(path.name for path in (incoming / "refused/QUILLFEATHER_OTTOLINE").iterdir()) == [
        "letter.pdf",
        "reason.txt",
    ]
    for folder in (project / "data", project / ".segtrail"):
        for name, content in list_tree(folder).items():
            assert not any(
                secret.encode() in name.lower().encode() + content.lower() for secret in SECRETS
            ), name
    shutil.copytree("../again", incoming / "sent_again")
    intake = take_in("dicom", incoming, 0)
    assert [taken.files for taken in intake.taken] == [0]
    assert len(cases("dicom", "dicom")) == 2
    assert not (incoming / "sent_again").exists()


def write_dicom(source: Path, target: Path, person: tuple[str, str, str], prefix: str) -> None:
    """A file of an invented patient, with UIDs of its own."""
    dataset = pydicom.dcmread(source)
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = person

    def renumber(_: object, element: pydicom.DataElement) -> None:
        if element.VR == "UI" and element.keyword.endswith("InstanceUID"):
            element.value = f"{prefix}.{str(element.value)[-40:].lstrip('.0')}"

    dataset.walk(renumber)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    target.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(target)


@pytest.mark.slow
def test_a_table_comes_with_its_rows(project: Path, shared_data: Path) -> None:
    """Two lots of one name on two nights, paths relative to the lot, an empty cell for a case without a label."""
    raw, incoming = Path("../raw"), Path("../incoming")
    (raw / "x").mkdir(parents=True)
    write_lot(shared_data, raw, {"001": "a"})
    (raw / "dataset.json").write_text('{"modality": {"0": "MRI"}, "labels": {"a": 1, "b": 2}}')
    add_data(raw, "table")
    for number, night in (("003", 1), ("004", 2)):
        write_lot(shared_data, incoming / "today", {number: "b"})
        assert take_in("table", incoming, 0).taken == [Taken("today", 2)]
        assert len(list(Path("data/raw/table").glob("today*"))) == night
    write_lot(shared_data, incoming / "bare", {"006": "c"})
    (incoming / "bare/y/hippocampus_006.nii.gz").unlink()
    (waiting,) = take_in("table", incoming, 0).waiting
    assert waiting.reason == "cases.csv names y/hippocampus_006.nii.gz, not there yet"
    table = incoming / "bare/cases.csv"
    table.write_text(table.read_text().replace("y/hippocampus_006.nii.gz", ""))
    assert take_in("table", incoming, 0).taken == [Taken("bare", 1)]
    dataset = open_dataset(Path("data/raw/table"), "table")
    found = {
        r.case_id: (r.patient_id, Path(r.images[0]).parent.as_posix(), bool(r.label)) for r in dataset.records
    }
    assert found == {
        "case_001": ("a", "data/raw/table/x", True),
        "case_003": ("b", "data/raw/table/today/x", True),
        "case_004": ("b", "data/raw/table/today-2/x", True),
        "case_006": ("c", "data/raw/table/bare/x", False),
    }
    write_lot(shared_data, incoming / "known", {"003": "b"})
    assert take_in("table", incoming, 0).taken == [Taken("known", 0)]
    assert len(Path("data/raw/table/cases.csv").read_text().splitlines()) == 5


def write_lot(shared_data: Path, folder: Path, patients: dict[str, str]) -> None:
    rows = []
    for number, patient in patients.items():
        for part, place in (("imagesTr", "x"), ("labelsTr", "y")):
            path = copy_file(shared_data, folder, part, number)
            (folder / place).mkdir(exist_ok=True)
            path.rename(folder / place / path.name)
            path.parent.rmdir()
        name = f"hippocampus_{number}.nii.gz"
        rows.append(f"case_{number},{patient},x/{name},y/{name}\n")
    (folder / "cases.csv").write_text("case_id,patient_id,image,label\n" + "".join(rows))


@pytest.mark.slow
def test_a_folder_an_image(project: Path, shared_data: Path) -> None:
    """Layout dsb2018: a lot is one image, or a folder of several; one without masks waits."""
    names = sorted(path.name for path in (shared_data / "dsb2018/stage1_train").iterdir() if path.is_dir())[
        :5
    ]
    images, incoming = shared_data / "dsb2018/stage1_train", Path("../incoming")
    for name in names[:2]:
        shutil.copytree(images / name, Path("../raw/stage1_train") / name)
    add_data(Path("../raw"), "dsb2018")
    shutil.copytree(images / names[2], incoming / names[2])
    shutil.copytree(images / names[3], incoming / "several" / names[3])
    shutil.copytree(images / names[4] / "images", incoming / names[4] / "images")
    shutil.copytree(images / names[0], incoming / names[0])
    intake = take_in("dsb2018", incoming, 0)
    assert {taken.name: bool(taken.files) for taken in intake.taken} == {
        names[0]: False,
        names[2]: True,
        "several": True,
    }
    assert [left.name for left in intake.waiting] == [names[4]]
    assert "there is no folder masks" in intake.waiting[0].reason
    assert cases("dsb2018", "dsb2018") == names[:4]
