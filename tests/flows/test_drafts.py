"""Drafts of cases, new images, tables and files that no viewer opens: what is given out, and where it comes back."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from draft_project import (
    AFFINE,
    DRAFTS,
    FACTS,
    RAW,
    choose,
    correct,
    draft,
    read,
    save,
    scan,
    sha256,
)

from flows.acceptance import accept_drafts
from pipeline.errors import SegtrailError
from pipeline.io.images import load_volume
from pipeline.io.sources import open_dataset


def test_a_draft_is_image_label_map_and_record(added: list[str]) -> None:
    assert draft("a") == 0
    assert sorted(path.name for path in DRAFTS.iterdir()) == [
        "a_draft.json", "a_image.nii.gz", "a_labels.nii.gz", "originals",
    ]  # fmt: skip
    record = json.loads((DRAFTS / "a_draft.json").read_text())
    assert record["image_sha256"] == sha256(RAW / "imagesTr/a.nii.gz") == sha256(DRAFTS / "a_image.nii.gz")
    assert (
        record["draft_sha256"]
        == sha256(DRAFTS / "a_labels.nii.gz")
        == sha256(DRAFTS / "originals/a_labels.nii.gz")
    )
    assert record["bundle_sha256"] == hashlib.sha256(Path("bundle/bundle.json").read_bytes()).hexdigest()
    assert (record["model"], record["version"], record["dataset"]) == ("bundle", "", "small")
    viewed, image = nibabel.load(DRAFTS / "a_labels.nii.gz"), nibabel.load(RAW / "imagesTr/a.nii.gz")
    assert viewed.shape == image.shape and np.array_equal(viewed.affine, image.affine)
    assert set(np.unique(read(DRAFTS / "a_labels.nii.gz"))) <= {0, 2, 5}


def test_a_new_case_may_not_be_named_after_its_patient(
    added: list[str], shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = next((shared_data / "hippocrop_dicom/Study1").rglob("1.dcm"))
    header = pydicom.dcmread(source)
    header.PatientName, header.PatientID = "Quillfeather^Ottoline", "MRN-77123"
    header.PatientIdentityRemoved = "NO"
    folder = Path("QuillfeatherOttoline")
    folder.mkdir()
    header.save_as(folder / "1.dcm")
    assert draft(str(folder)) == 1
    assert "the new case is named after its patient" in capsys.readouterr().err
    assert not list(DRAFTS.glob("Quill*"))


def test_a_corrected_draft_is_not_drafted_over(added: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    draft("a")
    label = correct("a")
    assert draft("a", "b", "c") == 1
    told = capsys.readouterr().err
    assert "a corrected draft of this case waits here" in told and "unknown case or image 'c'" in told
    assert np.array_equal(read(DRAFTS / "a_labels.nii.gz"), label) and (DRAFTS / "b_draft.json").exists()


def test_a_new_image_comes_in_with_its_label(added: list[str]) -> None:
    named = nibabel.Nifti1Image(scan(5), AFFINE)
    named.header["descrip"] = b"SMITH^JOHN 1970"
    Path("incoming").mkdir()
    nibabel.save(named, "incoming/new.nii.gz")
    assert draft("incoming/new.nii.gz") == 0
    label = correct("new")
    assert accept_drafts(DRAFTS) == 1
    stored = nibabel.load(RAW / "imagesTr/new.nii.gz")
    assert np.array_equal(np.asarray(stored.dataobj), scan(5)) and np.array_equal(stored.affine, AFFINE)
    assert b"SMITH" not in gzip.decompress((RAW / "imagesTr/new.nii.gz").read_bytes())
    assert np.array_equal(read(RAW / "labelsTr/new.nii.gz"), label)
    assert json.loads((RAW / "dataset.json").read_text())["numTraining"] == 3
    assert [record.case_id for record in open_dataset(RAW, "msd").records] == ["a", "b", "new"]
    assert accept_drafts(DRAFTS) == 0
    (RAW / "patients.csv").write_text("case_id,patient_id\na,1\nb,1\nnew,2\n")
    save(Path("incoming/other.nii.gz"), scan(6))
    draft("incoming/other.nii.gz")
    correct("other")
    with pytest.raises(SegtrailError, match="patients.csv must say"):
        accept_drafts(DRAFTS)


def test_in_a_table_the_cell_names_the_label(added: list[str]) -> None:
    (RAW / "dataset.json").write_text(json.dumps(FACTS))
    rows = [
        "case_id,patient_id,image,label,site",
        "a,p1,imagesTr/a.nii.gz,labelsTr/a.nii.gz,x",
        "b,p2,imagesTr/b.nii.gz,,y",
    ]
    (RAW / "cases.csv").write_text("\n".join(rows) + "\n")
    choose("table")
    assert draft() == 0  # the cases without a label
    assert sorted(path.name for path in DRAFTS.glob("*.json")) == ["b_draft.json"]
    label = correct("b")
    assert accept_drafts(DRAFTS) == 1
    with (RAW / "cases.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [(row["label"], row["site"]) for row in table] == [
        ("labelsTr/a.nii.gz", "x"),
        ("labels/b.nii.gz", "y"),
    ]
    assert np.array_equal(read(RAW / "labels/b.nii.gz"), label)
    with pytest.raises(SegtrailError, match="each of the 2 cases"):
        draft()


def test_what_no_viewer_opens_is_given_out_as_nifti(added: list[str]) -> None:
    with h5py.File(RAW / "b.h5", "w") as file:
        file["image"] = scan(1)
    rows = ["case_id,patient_id,image,label", "b,p2,b.h5#image,"]
    (RAW / "cases.csv").write_text("\n".join(rows) + "\n")
    (RAW / "dataset.json").write_text(json.dumps(FACTS))
    choose("table")
    assert draft("b") == 0
    stored = load_volume([RAW / "b.h5#image"])
    given = nibabel.load(DRAFTS / "b_image.nii.gz")
    assert np.array_equal(np.asarray(given.dataobj), stored.array[0]) and np.array_equal(
        given.affine, stored.affine
    )
    path = DRAFTS / "b_labels.nii.gz"
    label = read(path)
    label[:2] = 5
    save(path, label, nibabel.load(path).affine)
    assert accept_drafts(DRAFTS) == 1
    assert np.array_equal(read(RAW / "labels/b.nii.gz"), label)
