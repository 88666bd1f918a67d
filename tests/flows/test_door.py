"""A folder of invented patients comes in through `segtrail data add`: nothing of them is in the project afterwards."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from flows.data import add_data
from flows.door import Door
from flows.overlay import list_files
from flows.privacy import require_no_identity, scan_project
from flows.private_map import load_hashes
from flows.remote import push_all
from pipeline.config import load_params
from pipeline.errors import SegtrailError
from pipeline.inspection import inspect_case
from pipeline.io.dicom import read_dicom_series
from pipeline.io.images import load_label_map
from pipeline.io.sources import open_dataset

pytestmark = pytest.mark.usefixtures("private")

SECRETS = (
    "Quillfeather",
    "Ottoline",
    "19610417",
    "MRN-77123",
    "Grimble",
    "Snodgrass",
    "19530102",
    "MRN-88999",
)
PATIENTS = (
    ("Quillfeather^Ottoline", "MRN-77123", "19610417"),
    ("Snodgrass^Barnaby", "MRN-88999", "19530102"),
)
PARAMS = load_params().inspect.model_copy(update={"dataset": "d", "layout": "dicom"})


@pytest.fixture
def hospital(shared_data: Path, tmp_path: Path) -> Path:
    """Two patients, named in headers, folders, a table, a text and files that no image reader opens."""
    folder = tmp_path / "hospital"
    source = shared_data / "dicom_seg_rtstruct/dcmqi/segmentations"
    files = [*(source / "ct-3slice").glob("*.dcm"), source / "liver.dcm"]
    other = [*(source / "24x38x3/image").glob("*.dcm"), source / "24x38x3/seg/label.seg"]
    for (name, patient_id, born), paths in zip(PATIENTS, (files, other), strict=True):
        for path in paths:
            dataset = pydicom.dcmread(path)
            dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = name, patient_id, born
            dataset.ReferringPhysicianName = "Grimble^Ada"
            dataset.StudyDescription = f"liver of {name}"
            target = folder / name.replace("^", "_").upper() / patient_id / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            dataset.save_as(target)
    (folder / "list.csv").write_text('id,name\nMRN-77123,"Quillfeather, Ottoline"\n', encoding="utf-8")
    (folder / "notes.txt").write_text(
        "Ottoline Quillfeather, born 17.04.1961, see Ada Grimble\nMs QUILLFEATHER came alone\n",
        encoding="utf-8",
    )
    (folder / "letter.pdf").write_bytes(b"%PDF dear Mrs Quillfeather")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICMQuillfeather")
    report = Dataset()
    report.Modality, report.PatientName, report.SOPClassUID = (
        "SR",
        "Quillfeather^Ottoline",
        "1.2.840.10008.5.1.4.1.1.88.11",
    )
    report.SOPInstanceUID, report.TextValue = "1.2.3", "Quillfeather"
    report.file_meta = pydicom.dataset.FileMetaDataset()
    report.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    report.save_as(folder / "report.dcm", enforce_file_format=True)
    return folder


def grep(folder: Path, secrets: tuple[str, ...] = SECRETS) -> list[str]:
    """Files whose path or bytes hold one of the secrets, in any case."""
    found = []
    for path in sorted(folder.rglob("*")):
        text = path.as_posix().lower().encode() + (path.read_bytes().lower() if path.is_file() else b"")
        found += [f"{path}: {secret}" for secret in secrets if secret.lower().encode() in text]
    return found


@pytest.mark.slow
def test_no_patient_comes_into_the_project(
    hospital: Path, clone: Path, caplog: pytest.LogCaptureFixture, private: Path
) -> None:
    assert len({line.rsplit(": ", 1)[1] for line in grep(hospital)}) == len(SECRETS)  # the test can fail
    add_data(hospital, "dicom")
    said = caplog.text
    assert "8 DICOM files de-identified" in said
    assert "letter.pdf: neither image nor text" in said
    assert "report.dcm: modality SR" in said
    assert "DICOMDIR: a table of contents" in said
    assert grep(clone) == []
    assert not list((clone / "data/raw/dicom").rglob("*.pdf"))

    dataset = open_dataset(Path("data/raw/dicom"), "dicom")
    assert dataset.facts.labels == {"background": 0, "Liver": 1}
    assert len(dataset.records) == 2
    folder = Path("data/inspected/references")
    folder.mkdir(parents=True)
    for record in dataset.records:
        result = inspect_case(record, dataset.facts, PARAMS, dataset.references[record.case_id], folder)
        assert result.record.verdict in ("ok", "warn"), result.record.reason  # one image holds 0 and 1 alone
        before = 107098 if result.record.shape[0] == 512 else 315  # as their NRRD twins have
        assert int((load_label_map(Path(result.record.label)).array > 0).sum()) == before
    assert grep(clone) == []
    remote = hospital.parent / "remote"
    subprocess.run(
        [sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "away", str(remote)], check=True
    )
    assert push_all(arguments=["-q"]).pushed
    assert sum(path.is_file() for path in remote.rglob("*")) > 10
    assert grep(remote) == []

    caplog.clear()
    record = Path("data/raw/dicom.dvc").read_bytes()
    add_data(hospital, "dicom")  # the same stand-ins again
    assert "holds the same files already" in caplog.text
    assert Path("data/raw/dicom.dvc").read_bytes() == record

    Path("data/inspected/cases.csv").write_text("case_id\nquillfeather_1\n", encoding="utf-8")
    with pytest.raises(
        SegtrailError, match=r"1 of \d+ files name patients[\s\S]*cases.csv: its text"
    ) as caught:
        push_all()
    assert "quillfeather" not in str(caught.value)
    assert (private / "salt").stat().st_mode & 0o777 == 0o600
    assert (private / "identities.json").stat().st_mode & 0o777 == 0o600
    assert grep(private) == []


@pytest.mark.slow
def test_identity_is_kept_only_when_asked_and_then_loudly(
    hospital: Path, clone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_data(hospital, "dicom", keep_identity=True)
    assert "NOTHING IS DE-IDENTIFIED" in caplog.text
    assert grep(clone / "data/raw/dicom")
    with pytest.raises(SegtrailError, match="a DICOM header that was not de-identified"):
        scan_project()


def test_readings_follow_the_slices_that_they_name(shared_data: Path, tmp_path: Path) -> None:
    """LIDC without the mark of de-identification: the UIDs in the XML become those of the slices."""
    source = next((shared_data / "lidc_idri").rglob("*.xml")).parent
    folder = tmp_path / "LIDC-IDRI" / "one"
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix == ".dcm":
            dataset = pydicom.dcmread(path)
            dataset.PatientIdentityRemoved, dataset.PatientName = "NO", "Quillfeather^Ottoline"
            dataset.save_as(folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)
    door = Door(list_files(tmp_path / "LIDC-IDRI"), tmp_path / "project")
    for name, path in door.files.items():
        target = tmp_path / "in" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        contents = door.contents(path)
        target.write_bytes(path.read_bytes() if contents is None else contents)
    before, after = (open_dataset(tmp_path / place, "lidc") for place in ("LIDC-IDRI", "in"))
    counts = []
    for dataset in (before, after):
        (record,) = dataset.records
        image = read_dicom_series(Path(record.images[0]))
        made = dataset.references[record.case_id](image, PARAMS)
        assert made.instances is not None
        counts.append(int((made.instances > 0).sum()))
    assert counts[0] == counts[1] > 0
    assert after.records[0].case_id != before.records[0].case_id


def test_a_header_still_names_its_voxels_when_they_are_renamed(hospital: Path, tmp_path: Path) -> None:
    text = "NDims = 2\nPatientName = Quillfeather\nElementDataFile = quillfeather.raw\n"
    (hospital / "quillfeather.mhd").write_text(text)
    (hospital / "quillfeather.raw").write_bytes(b"\0")
    door = Door(list_files(hospital), tmp_path / "project")
    contents = door.contents(hospital / "quillfeather.mhd") or b""
    (raw,) = (name for name in door.files if name.endswith(".raw"))
    assert f"ElementDataFile = {raw}\n".encode() in contents
    assert b"uillfeather" not in contents


def test_a_lost_salt_is_told_before_anything_changes(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = {name: path for name, path in list_files(hospital).items() if path.name == "01.dcm"}
    door = Door(files, tmp_path / "project")
    target = tmp_path / "project" / "data" / "raw" / "d"
    door.prepare(target)
    target.mkdir(parents=True)
    (target / "1.dcm").write_bytes(door.contents(next(iter(files.values()))) or b"")
    Door(files, tmp_path / "project").prepare(target)

    monkeypatch.setenv("SEGTRAIL_PRIVATE_DIR", str(tmp_path / "empty"))
    monkeypatch.setattr(logging.getLogger("segtrail"), "propagate", True)
    require_no_identity([target], tmp_path / "project")
    assert "1 DICOM files got their stand-ins with another salt" in caplog.text
    with pytest.raises(SegtrailError, match="stand-ins were made with the salt"):
        Door(files, tmp_path / "project").prepare(target)
    assert load_hashes() == frozenset()


def test_two_names_that_become_one_stay_two_files(tmp_path: Path, hospital: Path) -> None:
    slices = sorted((hospital / "QUILLFEATHER_OTTOLINE").rglob("*.dcm"))
    for folder in ("quillfeather", "QuillFeather"):
        (tmp_path / "x" / folder).mkdir(parents=True)
        shutil.copyfile(slices[0], tmp_path / "x" / folder / "1.dcm")
    door = Door(list_files(tmp_path / "x"), tmp_path / "project")
    assert len(door.files) == 2
    assert not any("uill" in name.lower() for name in door.files)
