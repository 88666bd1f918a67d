"""Drafts go out, are corrected, and come back as labels: all of a folder, or none; once with DVC itself."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import yaml
from numpy.typing import NDArray
from small_bundle import write_ct_bundle

from flows import acceptance, cli
from flows.acceptance import accept_drafts
from flows.data import dvc_add
from flows.drafts import draft_cases
from pipeline.annotations import load_annotations
from pipeline.errors import SegtrailError
from pipeline.io.images import load_volume
from pipeline.io.sources import open_dataset

RAW, DRAFTS = Path("data/raw/small"), Path("drafts")
SHAPE = (12, 10, 8)
AFFINE = np.diag([-2.0, 2.0, 2.5, 1.0])
FACTS = {
    "name": "Small", "modality": {"0": "CT"}, "labels": {"0": "background", "2": "liver", "5": "tumour"},
}  # fmt: skip


def save(path: Path, array: NDArray[Any], affine: NDArray[Any] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(nibabel.load(path).dataobj).astype(np.uint8)


def scan(seed: int) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-100, 300, SHAPE).astype(np.int16)


@pytest.fixture
def added(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cases a and b in layout msd, and a bundle; data sets that DVC was given, which is not started."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:5, 2:5, 2:5] = 2
    for number, name in enumerate("ab"):
        save(RAW / f"imagesTr/{name}.nii.gz", scan(number))
        save(RAW / f"labelsTr/{name}.nii.gz", labels)
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"]
    (RAW / "dataset.json").write_text(json.dumps(FACTS | {"training": training, "numTraining": 2}))
    RAW.with_name("small.dvc").write_text("outs: []\n")
    choose("msd")
    write_ct_bundle(project / "bundle")
    calls: list[str] = []
    monkeypatch.setattr(acceptance, "dvc_add", lambda target, _: calls.append(target.name))
    return calls


def choose(layout: str) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["inspect"] |= {"dataset": "small", "layout": layout}
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def draft(*inputs: str) -> int:
    return draft_cases(inputs, DRAFTS, "bundle", "cpu")


def correct(case_id: str, value: int = 2) -> NDArray[np.uint8]:
    """Draws a block into a draft."""
    path = DRAFTS / f"{case_id}_labels.nii.gz"
    label = read(path)
    label[1:7, 1:7, 1:7] = value
    save(path, label, nibabel.load(path).affine)
    return label


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def state() -> dict[str, bytes]:
    """Everything that a failure must leave as it is."""
    paths = [Path("params.yaml"), *(path for path in Path("data").rglob("*") if path.is_file())]
    return {path.as_posix(): path.read_bytes() for path in paths}


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


def test_a_corrected_draft_becomes_the_label_and_has_a_row(added: list[str]) -> None:
    draft("a", "b")
    before = sha256(RAW / "labelsTr/a.nii.gz")
    other, image = (RAW / "labelsTr/b.nii.gz").read_bytes(), (RAW / "imagesTr/a.nii.gz").read_bytes()
    drafted, label = read(DRAFTS / "a_labels.nii.gz"), correct("a")
    assert accept_drafts(DRAFTS, "Dr. Who") == 1  # b is as it was drafted: nobody has looked at it
    assert added == ["small"]
    stored = nibabel.load(RAW / "labelsTr/a.nii.gz")
    assert np.array_equal(read(RAW / "labelsTr/a.nii.gz"), label) and np.array_equal(stored.affine, AFFINE)
    assert (RAW / "labelsTr/b.nii.gz").read_bytes() == other
    assert (RAW / "imagesTr/a.nii.gz").read_bytes() == image
    (row,) = load_annotations(RAW / "annotations.csv")
    assert (row.case_id, row.label, row.accepted_by) == ("a", "labelsTr/a.nii.gz", "Dr. Who")
    assert (row.label_sha256, row.previous_sha256) == (sha256(RAW / "labelsTr/a.nii.gz"), before)
    assert row.changed_voxels == str((drafted != label).sum())
    dice = [
        2 * ((drafted == v) & (label == v)).sum() / ((drafted == v).sum() + (label == v).sum())
        for v in (2, 5)
        if (drafted == v).any() or (label == v).any()
    ]
    assert float(row.dice) == pytest.approx(np.mean(dice), abs=1e-6)


def test_a_second_accept_changes_nothing_and_a_second_correction_is_a_new_version(added: list[str]) -> None:
    draft("a")
    correct("a")
    assert accept_drafts(DRAFTS) == 1
    once = state()
    assert accept_drafts(DRAFTS) == 0
    assert state() == once and added == ["small"]
    correct("a", value=5)
    assert accept_drafts(DRAFTS) == 1
    first, second = load_annotations(RAW / "annotations.csv")
    assert second.previous_sha256 == first.label_sha256 != second.label_sha256
    assert second.draft_sha256 == first.draft_sha256


def test_a_label_that_was_accepted_meanwhile_is_not_replaced_in_silence(
    added: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptance.LOGGER, "propagate", True)
    draft("a")
    correct("a", 5)
    accept_drafts(DRAFTS, "first")
    assert "replaces" not in caplog.text
    correct("a", 2)
    accept_drafts(DRAFTS, "second")
    assert "a: replaces the label that first gave at" in caplog.text


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


def test_unchanged_drafts_are_taken_when_that_is_said(added: list[str]) -> None:
    draft("a", "b")
    assert accept_drafts(DRAFTS) == 0 and not added
    assert accept_drafts(DRAFTS, unchanged=True) == 2
    assert [row.changed_voxels for row in load_annotations(RAW / "annotations.csv")] == ["0", "0"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def place(*spacing: float) -> None:
    """Puts the draft of b onto another grid of the same shape."""
    path = DRAFTS / "b_labels.nii.gz"
    save(path, read(path), np.diag([*spacing, 1.0]))


SPOIL: list[tuple[str, Callable[[], object], str]] = [
    ("truncated", lambda: cut(DRAFTS / "b_labels.nii.gz"), "b_labels"),
    ("geometry", lambda: place(-2.0, 2.0, 3.0), "spacing is"),
    ("flipped", lambda: place(2.0, 2.0, 2.5), "orientation is"),
    ("shape", lambda: save(DRAFTS / "b_labels.nii.gz", np.zeros((12, 10, 9), np.uint8)), "shape is"),
    ("value", lambda: correct("b", value=3), "value 3"),
    ("fraction", lambda: save(DRAFTS / "b_labels.nii.gz", np.full(SHAPE, 0.5, np.float32)), "whole"),
    ("gone", lambda: (DRAFTS / "b_labels.nii.gz").unlink(), "case b"),
    ("record", lambda: (DRAFTS / "b_draft.json").write_text("{"), "record of the draft"),
    ("original", lambda: cut(DRAFTS / "originals/b_labels.nii.gz"), "as the model made it"),
    ("image", lambda: save(RAW / "imagesTr/b.nii.gz", scan(9)), "not the one that was drafted"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "said"), [case[1:] for case in SPOIL], ids=[case[0] for case in SPOIL])
def test_one_bad_draft_and_nothing_is_accepted(
    added: list[str], spoil: Callable[[], object], said: str
) -> None:
    draft("a", "b")
    correct("a")
    correct("b")
    spoil()
    before = state()
    with pytest.raises(SegtrailError, match=said):
        accept_drafts(DRAFTS)
    assert state() == before and not added


def test_what_dvc_refuses_is_taken_back(added: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    draft("a")
    correct("a")
    before = state()

    def refuse(target: Path, project: Path) -> None:
        raise SegtrailError("dvc add ended with 255", "data/raw/small", "wait")

    monkeypatch.setattr(acceptance, "dvc_add", refuse)
    with pytest.raises(SegtrailError, match="ended with 255"):
        accept_drafts(DRAFTS)
    assert state() == before
    assert not Path(".segtrail/accept/small").exists()


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


def test_what_has_no_place_is_refused(added: list[str]) -> None:
    with pytest.raises(SegtrailError, match="no draft in this folder"):
        accept_drafts(DRAFTS)
    draft("a")
    correct("a")
    record = DRAFTS / "a_draft.json"
    text = record.read_text()
    record.write_text(text.replace('"dataset": "small"', '"dataset": "large"'))
    with pytest.raises(SegtrailError, match="made for the data set large"):
        accept_drafts(DRAFTS)
    record.write_text(text)
    choose("lidc")
    with pytest.raises(SegtrailError, match="layout 'lidc'"):
        accept_drafts(DRAFTS)
    choose("msd")
    (RAW / "annotations.csv").write_text("seriesuid,coordX\n")
    with pytest.raises(SegtrailError, match="another name"):
        accept_drafts(DRAFTS)
    RAW.with_name("small.dvc").unlink()
    with pytest.raises(SegtrailError, match="not under DVC"):
        accept_drafts(DRAFTS)
    facts = json.loads((RAW / "dataset.json").read_text()) | {"labels": {"background": 0, "liver": 1}}
    (RAW / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(SegtrailError, match="the model has the labels"):
        draft("a")


@pytest.mark.slow
def test_with_dvc_the_old_version_can_be_had_back(added: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "dvc_add", dvc_add)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    dvc = (sys.executable, "-m", "dvc")
    run("git", "init", "-q")
    run(*dvc, "init", "-q")
    RAW.with_name("small.dvc").unlink()
    run(*dvc, "add", "-q", RAW.as_posix())
    first = RAW.with_name("small.dvc").read_text()
    before = read(RAW / "labelsTr/a.nii.gz")
    assert cli.main(["data", "draft", "a", "-o", "drafts", "--model", "bundle", "--devices", "cpu"]) == 0
    label = correct("a")
    assert cli.main(["data", "accept", "drafts", "--by", "Dr. Who"]) == 0
    assert RAW.with_name("small.dvc").read_text() != first
    assert np.array_equal(read(RAW / "labelsTr/a.nii.gz"), label)
    RAW.with_name("small.dvc").write_text(first)
    run(*dvc, "checkout", "-q", "--force", RAW.with_name("small.dvc").as_posix())
    assert np.array_equal(read(RAW / "labelsTr/a.nii.gz"), before)
    assert not (RAW / "annotations.csv").exists()
